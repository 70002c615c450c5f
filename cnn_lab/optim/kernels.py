"""Which leaves of a parameter tree are kernels: what decay, penalties and constraints apply to."""

import jax

from cnn_lab.core.shapes import Tree


def kernels_only(params: Tree) -> Tree:
    """True for leaves of two or more axes: the ones that decay and penalties apply to."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def kernels_of(params: Tree) -> list[jax.Array]:
    """The leaves of two or more axes."""
    return [leaf for leaf in jax.tree.leaves(params) if leaf.ndim > 1]


def incoming_axes(kernel: jax.Array) -> tuple[int, ...]:
    """The axes of a kernel over which the weights into one unit lie: all but the last."""
    return tuple(range(kernel.ndim - 1))
