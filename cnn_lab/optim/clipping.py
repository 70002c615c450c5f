"""Clipping of gradients, before an optimizer sees them."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax.transforms import unitwise_clip, unitwise_norm

from cnn_lab.core.arrays import Tree
from cnn_lab.core.trees import path_of
from cnn_lab.optim.kernels import incoming_axes


def adaptive_clip(ratio: float = 0.01, eps: float = 1e-3) -> optax.GradientTransformation:
    """Limits each unit's gradient to `ratio` of its weights' norm (Brock et al. 2021, 2102.06171).

    A unit is the last index of a kernel; a vector, such as all biases of a layer, counts as one.
    The head is left alone; the paper excepts its last layer (section 4.1). optax's own
    `adaptive_grad_clip` takes kernels of three axes for those of attention, of which it
    sums the first only, and not for convolutions over one axis.

    Args:
        ratio: highest ratio of the gradient's norm to the weights', positive; 0.01 is the paper's
            for batches of 1024 and 4096, and smaller ones bear more.
        eps: smallest norm that weights count with, positive, so that those at 0 can leave it.
    """

    def clip(path: tuple, gradient: jax.Array, weights: jax.Array) -> jax.Array:
        if path_of(path).startswith("head/"):
            return gradient
        axes = incoming_axes(weights) if weights.ndim > 1 else None
        limit = ratio * jnp.maximum(unitwise_norm(weights, axis=axes), eps)
        return unitwise_clip(unitwise_norm(gradient, axis=axes), limit, gradient)

    def update(gradients: Tree, params: Tree | None) -> Tree:
        return jax.tree_util.tree_map_with_path(clip, gradients, params)

    return optax.stateless(update)


def with_clipping(
    clip: optax.GradientTransformation, optimizer: optax.GradientTransformationExtraArgs
) -> optax.GradientTransformationExtraArgs:
    """An optimizer whose gradients are clipped first.

    The gradients that `grad_fn` gives, where the update has it among its further arguments, are
    clipped like the first.

    Args:
        clip: `optax.clip` (every entry), `optax.clip_by_global_norm` (Pascanu et al. 2012,
            arXiv:1211.5063), `adaptive_clip`, or a chain of them.
        optimizer: gets the clipped gradients.
    """

    def init(params: Tree) -> tuple[Tree, Tree]:
        return clip.init(params), optimizer.init(params)

    def update(
        updates: Tree,
        state: Tree,
        params: Tree | None = None,
        *,
        grad_fn: Callable[[Tree], Tree] | None = None,
        **extra: Any,
    ) -> tuple[Tree, Tree]:
        def clipped_grad_fn(at: Tree) -> Tree:
            assert grad_fn is not None
            return clip.update(grad_fn(at), state[0], at)[0]

        if grad_fn is not None:
            extra["grad_fn"] = clipped_grad_fn
        clipped, clip_state = clip.update(updates, state[0], params)
        updates, optimizer_state = optimizer.update(clipped, state[1], params, **extra)
        return updates, (clip_state, optimizer_state)

    return optax.GradientTransformationExtraArgs(init, update)
