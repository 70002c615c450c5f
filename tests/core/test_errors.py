"""The hints that follow an unknown name."""

import re

import pytest

from cnn_lab.core import errors
from cnn_lab.core.errors import CnnLabError, ConfigError, lookup, suggest


@pytest.mark.parametrize(
    ("name", "known", "hint"),
    [
        ("lenet", ["resnet20", "lenet5"], "did you mean lenet5, resnet20?"),
        ("adam", ["adam", "adamw", "sgd"], "did you mean adam, adamw?"),
        ("aaa1", ["aaa2", "aaa3", "aaa4", "aaa5"], "did you mean aaa5, aaa4, aaa3?"),
        ("zzz", ["sgd", "adam"], "known: adam, sgd."),
        ("zzz", [], "there are none."),
        ("lr", ["l1", "l2", "learning_rate"], "did you mean learning_rate?"),
        ("lr", ["l1", "l2"], "did you mean l2, l1?"),
    ],
)
def test_suggest(name, known, hint):
    assert suggest(name, known) == hint


def test_lookup_returns_the_value():
    assert lookup({"a": 1, "b": 2}, "b", "letter") == 2


def test_lookup_offers_the_nearest_names():
    text = "There is no optimizer named 'adamm'; did you mean adam, adamw?"
    with pytest.raises(ConfigError, match=f"^{re.escape(text)}$"):
        lookup({"adam": 1, "adamw": 2, "sgd": 3}, "adamm", "optimizer")


def test_every_error_is_one_that_the_command_line_prints():
    kinds = [k for k in vars(errors).values() if isinstance(k, type) and issubclass(k, Exception)]
    assert len(kinds) > 3
    assert all(issubclass(kind, CnnLabError) for kind in kinds)
