"""Options are checked against the signature that declares them."""

import re
from typing import Literal

import pytest

from cnn_lab.config.options import check_options
from cnn_lab.config.ranges import Count, ProperFraction
from cnn_lab.core.errors import ConfigError

AT = "config.model.options"
CLEAR = (
    " (if config.model.name was changed, the options of the old one are still set: "
    "--config.model.options={} clears them)."
)


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
    ("options", "text"),
    [
        ({"width": 3}, f"{AT}: make has no option 'width'; did you mean widths?{CLEAR}"),
        (
            {"num_classes": 3},
            f"{AT}: make has no option 'num_classes'; known: limit, mode, rate, widths{CLEAR}",
        ),
        (
            {"widths": (0,)},
            f"{AT}.widths must be a tuple, each entry a whole number of at least 1, written like "
            "32,32 (one alone: 32,); found (0,).",
        ),
        (
            {"rate": 1.0},
            f"{AT}.rate must be a finite number of at least 0 and below 1; found 1.0.",
        ),
        ({"mode": "c"}, f"{AT}.mode must be one of a, b; found 'c'."),
        ({"limit": "x"}, f"{AT}.limit must be a whole number or none; found 'x'."),
    ],
)
def test_others_are_refused(options, text):
    with pytest.raises(ConfigError, match=f"^{re.escape(text)}$"):
        check_options(make, options, AT)


def test_a_function_without_options_says_so():
    def plain(num_classes: int) -> None: ...

    with pytest.raises(ConfigError, match=rf"^{AT}: plain has no option 'rate'; there are none "):
        check_options(plain, {"rate": 1}, AT)
