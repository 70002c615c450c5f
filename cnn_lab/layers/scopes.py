"""Functions that count as layers of their own, where programs are read."""

import functools
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

import jax
from jax.ad_checkpoint import checkpoint_name

P = ParamSpec("P")
R = TypeVar("R")


def as_layer(
    function: Callable[Concatenate[jax.Array, P], R],
) -> Callable[Concatenate[jax.Array, P], R]:
    """Puts a function of maps under a scope of its name, for profilers and `analysis`.

    The maps it is called with pass a marker of the same name, which costs nothing and sets one
    call apart from the next.
    """
    name = function.__name__

    @functools.wraps(function)
    def named(maps: jax.Array, *args: P.args, **kwargs: P.kwargs) -> R:
        with jax.named_scope(name):
            return function(checkpoint_name(maps, name), *args, **kwargs)

    return named


def is_call(equation: Any, name: str) -> bool:
    """Whether an equation of a program is the marker of a call of that function."""
    return equation.primitive.name == "name" and equation.params["name"] == name
