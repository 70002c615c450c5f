"""Limits on the gradient: put before the optimizer in a chain."""

import jax
import jax.numpy as jnp
import optax
from optax.transforms import unitwise_clip, unitwise_norm

from cnn_lab.core.arrays import Tree
from cnn_lab.core.trees import path_of
from cnn_lab.optim.kernels import incoming_axes


def by_global_norm(limit: float) -> optax.GradientTransformation:
    """Scales the whole gradient to a norm of at most `limit` (Pascanu et al. 2012, 1211.5063).

    Args:
        limit: of the norm over all parameters together, positive.
    """
    return optax.clip_by_global_norm(limit)


def by_value(limit: float) -> optax.GradientTransformation:
    """Cuts every entry of the gradient to [-limit, limit]; its direction changes.

    Args:
        limit: positive.
    """
    return optax.clip(limit)


def adaptive(ratio: float = 0.01, eps: float = 1e-3) -> optax.GradientTransformation:
    """Limits each unit's gradient to `ratio` of its weights' norm (Brock et al. 2021, 2102.06171).

    A unit is the last index of a kernel; a vector, such as all biases of a layer, counts as one.
    The head is left alone; the paper excepts its last layer (section 4.1). optax's own
    `adaptive_grad_clip` takes kernels of three axes for those of attention, of which it
    sums the first only, and not for convolutions over one axis.

    Args:
        ratio: most that the gradient's norm may be of the weights', positive; 0.01 is the
            paper's for batches of 1024 and 4096, and smaller ones bear more.
        eps: least norm that weights count with, positive, so that those at 0 can leave it.
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
