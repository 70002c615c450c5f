"""Penalties on the weights, added to the loss; the two together are an elastic net."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from cnn_lab.core.shapes import Scalar, Tree
from cnn_lab.optim.kernels import kernels_of

Penalty = Callable[[Tree], Scalar]


def l2(weight: float, vectors: bool = False) -> Penalty:
    """Half the sum of squared weights times `weight`.

    Biases and other vectors are left alone, unless `vectors` takes them in.
    """

    def penalty(params: Tree) -> Scalar:
        penalised = jax.tree.leaves(params) if vectors else kernels_of(params)
        squares = [jnp.sum(jnp.square(weights)) for weights in penalised]
        return 0.5 * weight * sum(squares, jnp.zeros(()))

    return penalty


def l1(weight: float) -> Penalty:
    """The sum of absolute kernels times `weight`; biases and other vectors are left alone.

    Its gradient is weight * sign(w), 0 for w = 0. Steps along it hop over 0 and never rest there;
    `constraints.proximal_l1` makes exact zeros.
    """

    def penalty(params: Tree) -> Scalar:
        # Not jnp.abs, whose gradient at 0 is 1.
        sizes = [jnp.sum(k * jax.lax.stop_gradient(jnp.sign(k))) for k in kernels_of(params)]
        return weight * sum(sizes, jnp.zeros(()))

    return penalty


def sum_of(*penalties: Penalty) -> Penalty:
    """All of them at once: `sum_of(l1(a), l2(b))` is the elastic net (Zou & Hastie 2005)."""

    def penalty(params: Tree) -> Scalar:
        return sum((one(params) for one in penalties), jnp.zeros(()))

    return penalty
