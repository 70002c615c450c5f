"""Options are checked against the signature that declares them."""

from collections.abc import Callable
from typing import Any, Literal

import pytest

from cnn_lab.config.values import (
    Count,
    ProperFraction,
    check_options,
    declared_options,
    parse_options,
)
from cnn_lab.core.errors import ConfigError

AT = "config.model.options"


def make(
    num_classes: int,
    widths: tuple[Count, ...] = (8,),
    mode: Literal["a", "b"] = "a",
    rate: ProperFraction = 0.0,
    limit: int | None = None,
) -> None:
    """Stands for a model's function."""


def test_fitting_options_come_back_in_their_types():
    given = {"widths": [4, 2], "rate": 0, "limit": None, "mode": "b"}
    found = check_options(make, given, "config.x")
    assert found == {"widths": (4, 2), "rate": 0.0, "limit": None, "mode": "b"}
    assert type(found["rate"]) is float
    assert given["widths"] == [4, 2]
    assert check_options(make, {}, "config.x") == {}


@pytest.mark.parametrize(
    ("options", "allowed"),
    [
        (
            {"widths": (0,)},
            "a tuple, each entry a whole number of at least 1, written like 32,32 (one alone: 32,)",
        ),
        ({"rate": 1.0}, "a finite number of at least 0 and below 1"),
        ({"mode": "c"}, "one of a, b"),
        ({"limit": "x"}, "a whole number or none"),
    ],
)
def test_other_values_are_refused(options, allowed):
    error = refused(lambda: check_options(make, options, AT))
    ((name, value),) = options.items()
    assert (error.where, error.found, error.allowed) == (f"{AT}.{name}", value, allowed)


@pytest.mark.parametrize(("name", "nearest"), [("width", ("widths",)), ("num_classes", ())])
def test_an_unknown_option_is_answered_with_the_nearest(name, nearest):
    error = refused(lambda: check_options(make, {name: 3}, AT))
    assert (error.where, error.found, error.nearest) == (AT, name, nearest)
    assert error.allowed == ["limit", "mode", "rate", "widths"]


def test_the_sentence_of_an_unknown_option():
    assert str(refused(lambda: check_options(make, {"width": 3}, AT))) == (
        f"{AT}: make has no option 'width'; did you mean widths? (if config.model.name was "
        f"changed, the options of the old one are still set: --{AT}={{}} clears them)."
    )
    other = refused(lambda: check_options(make, {"width": 3}, AT, "config.task.loss"))
    assert "(if config.task.loss was changed," in str(other)


def test_a_function_without_options_says_so():
    def plain(num_classes: int) -> None: ...

    error = refused(lambda: check_options(plain, {"rate": 1}, AT))
    assert (error.where, error.found, error.allowed) == (AT, "rate", [])
    assert str(error).startswith(f"{AT}: plain has no option 'rate'; there are none (")


def test_an_option_without_an_annotation_is_named():
    def made(num_classes, width=3) -> None: ...

    error = refused(lambda: declared_options(made))
    assert error.found == "width"
    assert (error.where or "").endswith("made")
    assert str(error) == (
        "made: its option 'width' has no annotation, which says what fits; write one, such as "
        "width: int."
    )


def test_options_of_the_command_line_are_read_in_their_types():
    texts = ["widths=4,2", "limit=none", "mode=b"]
    found = parse_options(make, texts, "--option", "m")
    assert found == {"widths": (4, 2), "limit": None, "mode": "b"}
    for text, where, wrong in (
        ("width=3", "--option", "width"),
        ("widths", "--option", "widths"),
        ("rate=2", "--option=rate", "2"),
    ):
        error = refused(lambda: parse_options(make, [text], "--option", "m"))  # noqa: B023
        assert (error.where, error.found) == (where, wrong)


def refused(call: Callable[[], Any]) -> ConfigError:
    """The error of a call that must raise one."""
    with pytest.raises(ConfigError) as caught:
        call()
    return caught.value
