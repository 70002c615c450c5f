"""Every way a value enters a config node passes the same check."""

import dataclasses
import re
from typing import Annotated, Any, Literal

import pytest

from cnn_lab.config.node import (
    Node,
    freeze,
    from_dict,
    is_bool_field,
    override,
    to_dict,
)
from cnn_lab.config.ranges import (
    Count,
    Fraction,
    Natural,
    NonNegative,
    Positive,
    ProperFraction,
    Range,
)
from cnn_lab.config.values import check_value, describe
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
    text = f".{field} must be {allowed}; found {value!r}."
    with pytest.raises(ConfigError, match=f"^{re.escape('Outer' + text)}$"):
        Outer(**{field: value})
    node = Outer()
    with pytest.raises(ConfigError, match=f"^{re.escape('Outer' + text)}$"):
        setattr(node, field, value)
    assert node == Outer()
    with pytest.raises(ConfigError, match=f"^{re.escape('config' + text)}$"):
        from_dict(Outer, {field: value})


def test_a_typo_is_answered_with_the_nearest_field():
    hint = r" has no field 'cuont'; did you mean count\?$"
    with pytest.raises(ConfigError, match="^Outer" + hint):
        Outer(cuont=1)  # pyright: ignore[reportCallIssue]
    with pytest.raises(ConfigError, match="^Outer" + hint):
        Outer().cuont = 1  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(ConfigError, match="^config" + hint):
        from_dict(Outer, {"cuont": 1})
    with pytest.raises(ConfigError, match="^config" + hint):
        override(Outer(), "cuont", "1")


def test_a_typo_below_names_the_whole_path():
    hint = r"^config\.inner has no field 'rat'; did you mean rate\?$"
    with pytest.raises(ConfigError, match=hint):
        from_dict(Outer, {"inner": {"rat": 1}})
    with pytest.raises(ConfigError, match=hint):
        override(Outer(), "inner.rat", "1")


def test_a_config_must_be_a_table():
    with pytest.raises(ConfigError, match=r"^config must be a table of fields; found \[1\]\.$"):
        from_dict(Outer, [1])


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
        with pytest.raises(
            ConfigError, match=f"^{re.escape(f'x must be {words}; found {value}.')}$"
        ):
            check_value(value, annotation, "x")


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


# dotted path, command-line text, the whole error
BAD_OVERRIDES = [
    ("count", "3.0", "config.count must be a whole number; found '3.0'."),
    ("count", "none", "config.count must be a whole number; found 'none'."),
    ("count", "true", "config.count must be a whole number; found 'true'."),
    ("count", "", "config.count must be a whole number; found ''."),
    ("rate", "fast", "config.rate must be a finite number or none; found 'fast'."),
    ("rate", "nan", "config.rate must be a finite number or none; found 'nan'."),
    ("flag", "maybe", "config.flag must be true or false; found 'maybe'."),
    ("mode", "maximum", "config.mode must be one of max, min; found 'maximum'."),
    (
        "size",
        "1,2,3",
        f"config.size must be a tuple of 2, each a whole number, or none{PAIR}; found '1,2,3'.",
    ),
    (
        "widths",
        "a,b",
        f"config.widths must be a tuple, each entry a whole number{MANY}; found 'a,b'.",
    ),
    ("options", "3", "config.options must be a table of named options; found '3'."),
    (
        "inner",
        "adam",
        "config.inner is a group of fields: set one of them, such as config.inner.NAME=...",
    ),
    (
        "maybe",
        "adam",
        "config.maybe is a group of fields: set one of them, such as config.maybe.NAME=...",
    ),
    ("count.x", "3", "config.count is a single value, so config.count.x does not exist."),
    ("size.0", "3", "config.size is a single value, so config.size.0 does not exist."),
]


@pytest.mark.parametrize(("path", "text", "error"), BAD_OVERRIDES)
def test_a_bad_override_says_what_is_allowed(path, text, error):
    node = Outer(size=(9, 9))
    with pytest.raises(ConfigError, match=f"^{re.escape(error)}$"):
        override(node, path, text)
    assert node == Outer(size=(9, 9))


def test_an_entry_of_an_unset_tuple_is_refused():
    with pytest.raises(ConfigError, match=r"^config\.size is a tuple of 2, .*, not a group"):
        override(Outer(), "size.0", "3")


def test_only_bool_flags_may_stand_alone():
    yes, no = ("flag", "inner.flag", "maybe.flag"), ("count", "inner", "options.flag", "x.flag", "")
    assert all(is_bool_field(Outer, path) for path in yes)
    assert not any(is_bool_field(Outer, path) for path in no)


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
        text = (
            f"{type(part).__name__}.{name} cannot be changed: the config is frozen once the run "
            "has been built; change it before."
        )
        with pytest.raises(ConfigError, match=f"^{re.escape(text)}$"):
            setattr(part, name, 1)
    with pytest.raises(ConfigError, match="frozen"):
        override(node, "options.a", "1")
    assert node == Outer(maybe=Inner())
    Outer().count = 2  # others stay writable
