"""Penalties on the weights, added to the loss; the two together are an elastic net."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from cnn_lab.core import trees
from cnn_lab.core.arrays import Scalar, Tree
from cnn_lab.optim.kernels import kernels_of

NO_ANCHOR: Mapping[str, Tree] = {}


# (parameters, the weights that `l2_sp` pulls them towards) -> a term that is added to the mean loss
Penalty = Callable[..., Scalar]


def l2(weight: float, vectors: bool = False) -> Penalty:
    """Half the sum of squared weights times `weight`.

    Biases and other vectors are left alone, unless `vectors` takes them in; so are parameters that
    have an anchor, which `l2_sp` holds.
    """

    def penalty(params: Tree, anchor: Tree = NO_ANCHOR) -> Scalar:
        held = trees.flatten(anchor)
        free, _ = trees.partition(params, lambda path: path not in held)
        return _half_squares(weight, free, vectors)

    return penalty


def l2_sp(weight: float, vectors: bool = False) -> Penalty:
    """Half the squared distance from the anchor times `weight` (Li et al. 2018, arXiv:1802.01483).

    Kernels count, and vectors too where `vectors` takes them in; parameters that have no anchor,
    such as those of a new head, are left alone.
    """

    def penalty(params: Tree, anchor: Tree = NO_ANCHOR) -> Scalar:
        held = trees.flatten(anchor)
        pulled, _ = trees.partition(params, held.__contains__)
        targets, _ = trees.partition(anchor, trees.flatten(params).__contains__)
        ways = jax.tree.map(jnp.subtract, pulled, targets)
        return _half_squares(weight, ways, vectors)

    return penalty


def _half_squares(weight: float, values: Tree, vectors: bool) -> Scalar:
    leaves = jax.tree.leaves(values) if vectors else kernels_of(values)
    return 0.5 * weight * sum((jnp.sum(jnp.square(leaf)) for leaf in leaves), jnp.zeros(()))


def l1(weight: float) -> Penalty:
    """The sum of absolute kernels times `weight`; biases and other vectors are left alone.

    Its gradient is weight * sign(w), 0 for w = 0. Steps along it hop over 0 and never rest there;
    `assemble.proximal_l1` makes exact zeros.
    """

    def penalty(params: Tree, anchor: Tree = NO_ANCHOR) -> Scalar:  # noqa: ARG001 - a Penalty
        # Not jnp.abs, whose gradient at 0 is 1.
        sizes = [jnp.sum(k * jax.lax.stop_gradient(jnp.sign(k))) for k in kernels_of(params)]
        return weight * sum(sizes, jnp.zeros(()))

    return penalty


def sum_of(*penalties: Penalty) -> Penalty:
    """The sum of penalties, 0 of none: `sum_of(l1(a), l2(b))` is the elastic net (Zou & Hastie)."""

    def penalty(params: Tree, anchor: Tree = NO_ANCHOR) -> Scalar:
        return sum((one(params, anchor) for one in penalties), jnp.zeros(()))

    return penalty
