"""Constraints that the weights satisfy after each step, put after the optimizer in a chain.

Each looks at where an update would take the kernels and changes the update so that they end where
they may. Biases and other vectors are left alone.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cnn_lab.core.arrays import Tree
from cnn_lab.optim.kernels import incoming_axes, is_kernel


class ProximalL1State(NamedTuple):
    """Number of updates made, int32."""

    count: Any


def proximal_l1(
    weight: float, learning_rate: optax.Schedule
) -> optax.GradientTransformationExtraArgs:
    """Draws kernels towards 0 by rate * weight after each step, and leaves them there (ISTA).

    The soft threshold w -> sign(w) max(|w| - rate * weight, 0) is the proximal step of the penalty
    weight * sum |w| (Daubechies, Defrise & De Mol 2004; Beck & Teboulle 2009), so kernels become
    exactly 0. It belongs to plain gradient steps; after an adaptive method, whose steps
    differ from weight to weight, all weights are drawn by the plain rate alike.

    Args:
        weight: of the sum of absolute values, at least 0.
        learning_rate: step -> rate, that of the optimizer before it. The update's argument
            `rate_scale`, 1 if absent, multiplies it.
    """

    def init(params: Tree) -> ProximalL1State:  # noqa: ARG001 - optax's signature
        return ProximalL1State(jnp.zeros((), jnp.int32))

    def update(
        updates: Tree,
        state: Tree,
        params: Tree | None = None,
        *,
        rate_scale: Any = 1.0,
        **_: Any,
    ) -> tuple[Tree, Tree]:
        threshold = weight * learning_rate(state.count) * rate_scale

        def shrink(moved: jax.Array) -> jax.Array:
            return jnp.sign(moved) * jnp.maximum(jnp.abs(moved) - threshold, 0)

        state = ProximalL1State(optax.safe_increment(state.count))
        return _redirect(updates, params, shrink), state

    return optax.GradientTransformationExtraArgs(init, update)


def max_norm(limit: float) -> optax.GradientTransformation:
    """Scales the weights into each unit to a norm of at most `limit` after each step.

    Srivastava et al. 2014 (JMLR 15), section 5.1, beside dropout. The weights into a unit are those
    of its last index, over all other axes. The norm holds to the rounding
    of the step.

    Args:
        limit: positive; 3 to 4 are usual.
    """

    def bound(moved: jax.Array) -> jax.Array:
        axes = incoming_axes(moved)
        norms = jnp.sqrt(jnp.sum(jnp.square(moved), axis=axes, keepdims=True))
        return moved * jnp.minimum(1.0, limit / jnp.maximum(norms, jnp.finfo(norms.dtype).tiny))

    return optax.stateless(lambda updates, params: _redirect(updates, params, bound))


def _redirect(updates: Tree, params: Tree, target: Any) -> Tree:
    """Updates that take each kernel to `target` of where it was going, in float32 at least."""

    def redirect(path: tuple, update: jax.Array, param: jax.Array) -> jax.Array:
        if not is_kernel(path, param):
            return update
        wide = jnp.promote_types(param.dtype, jnp.float32)
        here = param.astype(wide)
        moved = (param + update).astype(param.dtype).astype(wide)  # as the step will add them
        return (target(moved) - here).astype(update.dtype)

    return jax.tree_util.tree_map_with_path(redirect, updates, params)
