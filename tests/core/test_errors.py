"""Errors carry fields, which one sentence says; unknown names are answered with the nearest."""

import pickle
import re

import pytest

from cnn_lab.core import errors
from cnn_lab.core.errors import CnnLabError, ConfigError, DataError, lookup, nearest, suggest


@pytest.mark.parametrize(
    ("name", "known", "near", "hint"),
    [
        ("lenet", ["resnet20", "lenet5"], ("lenet5", "resnet20"), "did you mean lenet5, resnet20?"),
        ("adam", ["adam", "adamw", "sgd"], ("adam", "adamw"), "did you mean adam, adamw?"),
        (
            "aaa1",
            ["aaa2", "aaa3", "aaa4", "aaa5"],
            ("aaa2", "aaa3", "aaa4"),
            "did you mean aaa2, aaa3, aaa4?",
        ),
        (
            "resnet21",
            ["resnet18", "resnet101", "resnet20", "resnet_v2"],
            ("resnet20", "resnet18", "resnet101"),
            "did you mean resnet20, resnet18, resnet101?",
        ),
        ("rates", ["average", "stem"], (), "known: average, stem."),
        ("zzz", ["sgd", "adam"], (), "known: adam, sgd."),
        ("zzz", [], (), "there are none."),
        ("lr", ["l1", "l2", "learning_rate"], ("learning_rate",), "did you mean learning_rate?"),
        ("lr", ["l1", "l2"], (), "known: l1, l2."),
    ],
)
def test_the_nearest_names_and_their_hint(name, known, near, hint):
    assert nearest(name, known) == near
    assert suggest(name, known) == hint
    error = ConfigError("There is none", found=name, allowed=iter(known))
    assert (error.found, error.allowed, error.nearest) == (name, sorted(known), near)
    assert str(error) == f"There is none; {hint}"


def test_a_sentence_stands_as_it_is():
    error = DataError("It is empty.")
    assert str(error) == "It is empty."
    assert (error.where, error.found, error.allowed, error.nearest) == (None, None, None, ())


def test_a_value_that_does_not_fit_is_worded_from_its_fields():
    error = ConfigError(where="--top", found="two", allowed="a whole number")
    assert str(error) == "--top must be a whole number; found 'two'."
    assert error.nearest == ()


def test_advice_stands_in_parentheses_at_the_end():
    error = ConfigError("No such flag", found="--x", allowed=["--help"], advice="or leave it out")
    assert str(error) == "No such flag; known: --help (or leave it out)."


def test_advice_may_follow_later_and_the_fields_are_kept():
    inner = ConfigError(where="--top", found="two", allowed="a whole number")
    outer = inner.advised("leave it out for 3")
    assert type(outer) is ConfigError
    assert str(outer) == "--top must be a whole number; found 'two' (leave it out for 3)."
    assert (outer.where, outer.found, outer.allowed) == ("--top", "two", "a whole number")
    assert str(inner) == "--top must be a whole number; found 'two'."


def test_a_file_stands_before_the_sentence_and_the_fields_are_kept():
    inner = DataError("There is none", where="data.name", found="minst", allowed=["mnist"])
    outer = inner.inside("a.py, line 3")
    assert type(outer) is DataError
    assert str(outer) == "a.py, line 3: There is none; did you mean mnist?"
    assert (outer.where, outer.found, outer.nearest) == ("data.name", "minst", ("mnist",))
    assert str(inner) == "There is none; did you mean mnist?"
    assert DataError("It is empty.").inside("a.py").where == "a.py"


def test_an_error_survives_the_way_between_processes():
    error = pickle.loads(pickle.dumps(ConfigError("No", where="x", found="a", allowed=["ab"])))
    assert (str(error), error.where, error.nearest) == ("No; did you mean ab?", "x", ("ab",))


def test_lookup_returns_the_value():
    assert lookup({"a": 1, "b": 2}, "b", "letter") == 2


def test_lookup_offers_the_nearest_names():
    text = "There is no optimizer named 'adamm'; did you mean adam, adamw?"
    with pytest.raises(ConfigError, match=f"^{re.escape(text)}$") as caught:
        lookup({"adam": 1, "adamw": 2, "sgd": 3}, "adamm", "optimizer", "config.optim.name")
    assert caught.value.where == "config.optim.name"
    assert (caught.value.found, caught.value.nearest) == ("adamm", ("adam", "adamw"))
    assert caught.value.allowed == ["adam", "adamw", "sgd"]


def test_every_error_is_one_that_the_command_line_prints():
    kinds = [k for k in vars(errors).values() if isinstance(k, type) and issubclass(k, Exception)]
    assert len(kinds) > 3
    assert all(issubclass(kind, CnnLabError) for kind in kinds)
