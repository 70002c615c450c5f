"""Which leaves of a parameter tree are kernels: what decay, penalties and constraints apply to."""

from collections.abc import Callable, Sequence
from typing import Any

import jax

from cnn_lab.core.arrays import Tree
from cnn_lab.core.trees import path_of


def is_kernel(path: Sequence[Any], leaf: Any) -> bool:
    """Whether a leaf has two or more axes and is no bias.

    The bias of a layer without shared weights has an axis a position.
    """
    return leaf.ndim > 1 and path_of(path[-1:]) != "bias"


def kernels_only(params: Tree) -> Tree:
    """True for kernels: the leaves that decay and penalties apply to."""
    return jax.tree_util.tree_map_with_path(is_kernel, params)


def decayed(vectors: bool) -> Callable[[Tree], Tree]:
    """What weight decay takes of a tree: kernels, and vectors too where they are asked for."""
    return _all_of if vectors else kernels_only


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


def _all_of(params: Tree) -> Tree:
    return jax.tree.map(lambda _: True, params)
