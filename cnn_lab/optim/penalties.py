"""Penalties on the weights, added to the loss."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from cnn_lab.core.shapes import Scalar, Tree

Penalty = Callable[[Tree], Scalar]


def l2(weight: float) -> Penalty:
    """Half the sum of squared kernels times `weight`; biases and other vectors are left alone."""

    def penalty(params: Tree) -> Scalar:
        squares = [jnp.sum(jnp.square(p)) for p in jax.tree.leaves(params) if p.ndim > 1]
        return 0.5 * weight * sum(squares, jnp.zeros(()))

    return penalty
