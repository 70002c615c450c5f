"""Every way a value enters a config node passes the same check."""

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any, Literal

import pytest

from cnn_lab.config.node import (
    Node,
    annotation_at,
    freeze,
    from_dict,
    override,
    to_dict,
)
from cnn_lab.config.values import (
    Count,
    Fraction,
    Natural,
    NonNegative,
    Positive,
    ProperFraction,
    Range,
    check_value,
    describe,
)
from cnn_lab.core.errors import ConfigError


@dataclasses.dataclass(kw_only=True)
class Inner(Node):
    rate: float = 0.1
    flag: bool = False


@dataclasses.dataclass(kw_only=True)
class Outer(Node):
    count: int = 1
    rate: float | None = None
    text: str = "a"
    place: str | None = None
    size: tuple[int, int] | None = None
    widths: tuple[int, ...] = ()
    means: tuple[float, ...] | None = None
    kernel: tuple[Count, Count] | None = None
    channels: Literal[1, 3] | None = None
    mode: Literal["max", "min"] = "max"
    flag: bool = False
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    inner: Inner = dataclasses.field(default_factory=Inner)
    maybe: Inner | None = None


# field, value given, value held
ACCEPTED = [
    ("count", 3, 3),
    ("rate", 2, 2.0),
    ("rate", None, None),
    ("place", None, None),
    ("size", (1, 2), (1, 2)),
    ("size", [1, 2], (1, 2)),
    ("widths", [], ()),
    ("means", [1, 0.5], (1.0, 0.5)),
    ("kernel", (1, 3), (1, 3)),
    ("channels", 3, 3),
    ("channels", None, None),
    ("mode", "min", "min"),
    ("flag", True, True),
    ("options", {"a": [1, {"b": None}]}, {"a": (1, {"b": None})}),
    ("inner", {"rate": 1}, Inner(rate=1.0)),
    ("maybe", {}, Inner()),
    ("maybe", None, None),
]

PAIR, MANY = ", written like 32,32", ", written like 32,32 (one alone: 32,)"

# field, value given, what the error says is allowed
REFUSED = [
    ("count", 3.0, "a whole number"),
    ("count", True, "a whole number"),
    ("count", None, "a whole number"),
    ("count", "3", "a whole number"),
    ("rate", "x", "a finite number or none"),
    ("rate", True, "a finite number or none"),
    ("rate", float("nan"), "a finite number or none"),
    ("rate", float("inf"), "a finite number or none"),
    ("rate", -float("inf"), "a finite number or none"),
    ("kernel", (0, 3), f"a tuple of 2, each a whole number of at least 1, or none{PAIR}"),
    ("channels", 2, "one of 1, 3, or none"),
    ("channels", True, "one of 1, 3, or none"),
    ("text", None, "a text"),
    ("text", 3, "a text"),
    ("size", (1, 2, 3), f"a tuple of 2, each a whole number, or none{PAIR}"),
    ("size", (1, 2.5), f"a tuple of 2, each a whole number, or none{PAIR}"),
    ("size", 3, f"a tuple of 2, each a whole number, or none{PAIR}"),
    ("widths", (1, "a"), f"a tuple, each entry a whole number{MANY}"),
    ("widths", (True,), f"a tuple, each entry a whole number{MANY}"),
    ("widths", "12", f"a tuple, each entry a whole number{MANY}"),
    ("mode", "mx", "one of max, min"),
    ("flag", 1, "true or false"),
    ("options", {1: 2}, "a table of named options"),
    ("options", None, "a table of named options"),
    ("inner", None, "a Inner"),
    ("inner", Outer(), "a Inner"),
    ("maybe", 3, "a Inner or none"),
]


@pytest.mark.parametrize(("field", "value", "held"), ACCEPTED)
def test_a_fitting_value_is_held_in_its_type(field, value, held):
    by_constructor, by_assignment = Outer(**{field: value}), Outer()
    setattr(by_assignment, field, value)
    for node in (by_constructor, by_assignment, from_dict(Outer, {field: value})):
        assert getattr(node, field) == held
        assert type(getattr(node, field)) is type(held)


@pytest.mark.parametrize(("field", "value", "allowed"), REFUSED)
def test_another_value_is_refused_whichever_way_it_comes(field, value, allowed):
    node = Outer()
    for where, enter in {
        "Outer": lambda: Outer(**{field: value}),
        "Outer ": lambda: setattr(node, field, value),
        "config": lambda: from_dict(Outer, {field: value}),
    }.items():
        error = refused(enter)
        assert error.where == f"{where.strip()}.{field}"
        assert error.found is value
        assert error.allowed == allowed
    assert node == Outer()


def refused(enter: Callable[[], Any]) -> ConfigError:
    """The error of a call that must raise one."""
    with pytest.raises(ConfigError) as caught:
        enter()
    return caught.value


def test_a_typo_is_answered_with_the_nearest_field():
    for where, enter in {
        "Outer": lambda: Outer(cuont=1),  # pyright: ignore[reportCallIssue]
        "Outer ": lambda: setattr(Outer(), "cuont", 1),
        "config": lambda: from_dict(Outer, {"cuont": 1}),
        "config ": lambda: override(Outer(), "cuont", "1"),
    }.items():
        error = refused(enter)
        assert (error.where, error.found) == (where.strip(), "cuont")
        assert error.nearest == ("count",)
        assert "inner" in (error.allowed or ())
    error = refused(lambda: override(Outer(), "cuont", "1"))
    assert str(error) == "config has no field 'cuont'; did you mean count?"


def test_a_typo_below_names_the_whole_path():
    for enter in (
        lambda: from_dict(Outer, {"inner": {"rat": 1}}),
        lambda: override(Outer(), "inner.rat", "1"),
    ):
        error = refused(enter)
        assert (error.where, error.found, error.nearest) == ("config.inner", "rat", ("rate",))


def test_a_config_must_be_a_table():
    error = refused(lambda: from_dict(Outer, [1]))
    assert (error.where, error.found) == ("config", [1])
    assert str(error) == "config must be a table of fields; found [1]."


def test_a_number_beyond_all_floats_is_no_finite_one():
    assert refused(lambda: Outer(rate=10**400)).where == "Outer.rate"


# type, its words, values inside, values outside
BOUNDS = [
    (Natural, "a whole number of at least 0", (0, 7), (-1, 0.5)),
    (Count, "a whole number of at least 1", (1,), (0,)),
    (NonNegative, "a finite number of at least 0", (0, 1e9), (-1e-9,)),
    (Positive, "a finite number above 0", (1e-9, 3), (0, -0.0, -1)),
    (Fraction, "a finite number of at least 0 and at most 1", (0, 1), (-1e-9, 1 + 1e-9)),
    (ProperFraction, "a finite number of at least 0 and below 1", (0, 1 - 1e-9), (1, -1e-9)),
    (
        Annotated[int, Range(above=-2, max=2)],
        "a whole number above -2 and at most 2",
        (-1, 2),
        (-2, 3),
    ),
]


@pytest.mark.parametrize(("annotation", "words", "inside", "outside"), BOUNDS)
def test_the_bounds_of_a_number_belong_to_its_type(annotation, words, inside, outside):
    assert describe(annotation) == words
    assert [check_value(value, annotation, "x") for value in inside] == list(inside)
    for value in outside:
        error = refused(lambda: check_value(value, annotation, "x"))  # noqa: B023
        assert (error.where, error.found, error.allowed) == ("x", value, words)


# dotted path, command-line text, value held
OVERRIDES = [
    ("count", "1_000", 1000),
    ("count", "-3", -3),
    ("rate", "1e-3", 1e-3),
    ("rate", "3", 3.0),
    ("rate", "none", None),
    ("rate", "None", None),
    ("rate", "null", None),
    ("text", "none", "none"),
    ("text", "3", "3"),
    ("text", "a=b", "a=b"),
    ("text", "", ""),
    ("place", "none", None),
    ("place", "nowhere", "nowhere"),
    ("size", "(2,3)", (2, 3)),
    ("size", "[2, 3]", (2, 3)),
    ("size", "2,3", (2, 3)),
    ("size", "2, 3", (2, 3)),
    ("size", "none", None),
    ("widths", "7", (7,)),
    ("widths", "7,", (7,)),
    ("widths", "()", ()),
    ("means", "1,.5", (1.0, 0.5)),
    ("mode", "min", "min"),
    ("flag", "true", True),
    ("flag", "TRUE", True),
    ("flag", "1", True),
    ("flag", "no", False),
    ("options", "{'a': 1}", {"a": 1}),
    ("options.new", "3", {"new": 3}),
    ("options.new", "none", {"new": None}),
    ("options.new", "True", {"new": True}),
    ("options.new", "(1, 2)", {"new": (1, 2)}),
    ("options.new", "relu", {"new": "relu"}),
    ("inner.rate", "3", Inner(rate=3.0)),
    ("maybe.flag", "yes", Inner(flag=True)),
    ("maybe", "none", None),
]


@pytest.mark.parametrize(("path", "text", "held"), OVERRIDES)
def test_an_override_sets_the_field(path, text, held):
    node = Outer(rate=0.5, place="x", size=(9, 9))
    override(node, path, text)
    found = getattr(node, path.split(".")[0])
    assert found == held
    assert type(found) is type(held)


def test_an_override_keeps_the_other_keys_and_fields():
    node = Outer(options={"a": 1}, maybe=Inner(rate=7.0))
    override(node, "options.b", "2")
    override(node, "maybe.flag", "true")
    assert node == Outer(options={"a": 1, "b": 2}, maybe=Inner(rate=7.0, flag=True))


# dotted path, command-line text, words for what is allowed
BAD_OVERRIDES = [
    ("count", "3.0", "a whole number"),
    ("count", "none", "a whole number"),
    ("count", "true", "a whole number"),
    ("count", "", "a whole number"),
    ("rate", "fast", "a finite number or none"),
    ("rate", "nan", "a finite number or none"),
    ("flag", "maybe", "true or false"),
    ("mode", "maximum", "one of max, min"),
    ("size", "1,2,3", f"a tuple of 2, each a whole number, or none{PAIR}"),
    ("widths", "a,b", f"a tuple, each entry a whole number{MANY}"),
    ("options", "3", "a table of named options"),
]


@pytest.mark.parametrize(("path", "text", "allowed"), BAD_OVERRIDES)
def test_a_bad_override_says_what_is_allowed(path, text, allowed):
    node = Outer(size=(9, 9))
    error = refused(lambda: override(node, path, text))
    assert (error.where, error.found, error.allowed) == (f"config.{path}", text, allowed)
    assert node == Outer(size=(9, 9))


@pytest.mark.parametrize("path", ["inner", "maybe"])
def test_a_group_has_no_value_of_its_own(path):
    error = refused(lambda: override(Outer(), path, "adam"))
    assert (error.where, error.found) == (f"config.{path}", "adam")
    assert str(error).endswith(
        f"is a group of fields: set one of them, such as {error.where}.NAME=..."
    )


@pytest.mark.parametrize(
    ("path", "value"),
    [("count.x", 1), ("size.0", (9, 9)), ("size.0", None), ("maybe.flag.x", None)],
)
def test_a_single_value_has_no_fields(path, value):
    node = Outer(**({path.split(".")[0]: value} if value is not None else {}))
    error = refused(lambda: override(node, path, "3"))
    where, _, missing = f"config.{path}".rpartition(".")
    assert (error.where, error.found) == (where, missing)
    assert str(error) == f"{where} is a single value, so {where}.{missing} does not exist."


def test_the_annotation_of_a_field_is_found_by_its_path():
    assert all(annotation_at(Outer, path) is bool for path in ("flag", "inner.flag", "maybe.flag"))
    assert annotation_at(Outer, "count") is int
    assert annotation_at(Outer, "inner") is Inner
    assert annotation_at(Outer, "options.flag") == dict[str, Any]
    for path, where, found in (("inner.x.y", "config.inner", "x"), ("", "config", "")):
        error = refused(lambda: annotation_at(Outer, path))  # noqa: B023
        assert (error.where, error.found) == (where, found)


def test_values_are_copied_in_and_out():
    options = {"a": {"b": [1]}}
    node = Outer(options=options)
    options["a"]["b"].append(2)
    to_dict(node)["options"]["a"]["c"] = 3
    assert node.options == {"a": {"b": (1,)}}


def test_a_frozen_node_is_read_only_at_every_depth():
    node = freeze(Outer(maybe=Inner()))
    assert node.maybe is not None
    for part, name in ((node, "count"), (node.inner, "rate"), (node.maybe, "rate")):
        error = refused(lambda: setattr(part, name, 1))  # noqa: B023
        assert error.where == f"{type(part).__name__}.{name}"
    assert "the config is frozen once the run has been built" in str(error)
    assert refused(lambda: override(node, "options.a", "1")).where == "Outer.options"
    assert node == Outer(maybe=Inner())
    Outer().count = 2  # others stay writable
