"""Gradients over their standard deviation (Graves 2013, arXiv:1308.0850, equations 38 to 41)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cnn_lab.core.arrays import Tree


class DeviationState(NamedTuple):
    """Running moments of the gradient, shaped as the params."""

    mean: Tree
    variance: Tree


def scale_by_deviation(decay: float, eps: float) -> optax.GradientTransformation:
    """Divides by sqrt(variance) + eps, of decaying averages that start at 0.

    The paper's variance n - m^2 (n: mean of squares, m: mean) is the difference of two almost equal
    numbers where gradients hardly vary: in float32 nothing is right of a deviation below 3e-4 of
    the mean, and the variance may be negative. So it is kept in place of n: a gradient g makes of
    it d (variance + (1 - d) (g - m)^2), which is the same but for rounding, and never negative.

    Args:
        decay: d of both averages, in [0, 1).
        eps: positive.
    """

    def init(params: Tree) -> DeviationState:
        return DeviationState(optax.tree.zeros_like(params), optax.tree.zeros_like(params))

    def update(updates: Tree, state: Any, params: Any = None) -> tuple[Tree, DeviationState]:
        del params
        away = jax.tree.map(jnp.subtract, updates, state.mean)
        mean = jax.tree.map(lambda m, a: m + (1 - decay) * a, state.mean, away)
        variance = jax.tree.map(
            lambda v, a: decay * (v + (1 - decay) * jnp.square(a)), state.variance, away
        )
        scaled = jax.tree.map(lambda g, v: g / (jnp.sqrt(v) + eps), updates, variance)
        return scaled, DeviationState(mean, variance)

    return optax.GradientTransformation(init, update)
