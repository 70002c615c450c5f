"""Kernels in a tree of parameters: the leaves that decay, penalties and constraints apply to."""

from typing import Any

import jax
import jax.numpy as jnp

from cnn_lab.core.arrays import Scalar, Tree
from cnn_lab.core.trees import path_of


def is_kernel(path: tuple[Any, ...], leaf: Any) -> bool:
    """Whether a leaf has two or more axes and is no bias.

    The bias of a layer without shared weights has an axis a position.
    """
    return leaf.ndim > 1 and path_of(path[-1:]) != "bias"


def decay_mask(decay_vectors: bool) -> Any:
    """The mask of weight decay, as optax takes one: of kernels, or of all leaves."""
    return True if decay_vectors else kernels_only


def kernels_only(params: Tree) -> Tree:
    """True for kernels, False for biases, gains and other vectors."""
    return jax.tree_util.tree_map_with_path(is_kernel, params)


def kernels_of(params: Tree) -> list[jax.Array]:
    """The kernels of a tree of parameters."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return [leaf for path, leaf in leaves if is_kernel(path, leaf)]


def incoming_axes(kernel: jax.Array) -> tuple[int, ...]:
    """The axes of a kernel over which the weights into one unit lie: all but the last.

    Of a layer without shared weights (`layers/locally_connected.py`) that is one unit for all
    positions.
    """
    return tuple(range(kernel.ndim - 1))


def weight_complexity(params: Tree) -> dict[str, Scalar]:
    """Measures of the kernels, in float32: `l0` the number of values other than 0, `l1`, `l2`.

    `l1` is the sum of absolute values, `l2` the sum of squares.
    """
    kernels = [kernel.astype(jnp.float32) for kernel in kernels_of(params)]
    # Counted as integers: float32 cannot count beyond 2^24.
    nonzero = sum((jnp.count_nonzero(k) for k in kernels), jnp.zeros((), jnp.int32))
    return {
        "l0": nonzero.astype(jnp.float32),
        "l1": sum((jnp.sum(jnp.abs(k)) for k in kernels), jnp.zeros(())),
        "l2": sum((jnp.sum(jnp.square(k)) for k in kernels), jnp.zeros(())),
    }
