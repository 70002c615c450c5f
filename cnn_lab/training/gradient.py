"""The gradient of a batch's summed loss: at once, or micro-batch after micro-batch."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from cnn_lab.core.arrays import Key, Tree
from cnn_lab.distributed.mesh import BATCH_AXES, DeviceMesh
from cnn_lab.tasks.metrics import Pair, weighted_pairs
from cnn_lab.training.frozen import apply_in_training
from cnn_lab.training.state import MICRO_BATCH_STREAM

SAVED_IN_FORWARD = frozenset({"conv_general_dilated", "dot_general"})


class GradientResult(NamedTuple):
    """Gradients of a loss by parameter, the batch's metrics, and the collections after it."""

    gradients: Tree
    metrics: dict[str, Pair]
    collections: Tree


# (params, collections, frozen, batch, key) -> of the summed loss
Gradient = Callable[[Tree, Tree, Tree, Tree, Key], GradientResult]


def make_summed_loss(
    model: nn.Module, task: Any, *, rematerialise: bool = False
) -> Callable[[Tree, Tree, Tree, Tree, Key], tuple[jax.Array, tuple[dict[str, Pair], Tree]]]:
    """Returns (params, collections, frozen, batch, key) -> (summed loss, (metrics, collections)).

    Args:
        model: the network, trained.
        task: its losses and metrics.
        rematerialise: keep what convolutions and products give, and compute what is cheap
            (normalisation, activation, pooling) a second time in the backward pass (Chen et al.
            2016, arXiv:1604.06174). XLA for CPUs undoes it, since it merges what is computed twice.
    """

    def summed_loss(params: Tree, collections: Tree, frozen: Tree, batch: Tree, key: Key):
        outputs, collections = apply_in_training(
            model, params, collections, frozen, batch["image"], key
        )
        pairs = weighted_pairs(task.metrics(outputs, batch), batch["weight"])
        return pairs["loss"][0], (pairs, collections)

    if not rematerialise:
        return summed_loss

    def saves(primitive: Any, *_: Any, **__: Any) -> bool:
        return primitive.name in SAVED_IN_FORWARD

    return jax.checkpoint(summed_loss, policy=saves)


def make_gradient(
    model: nn.Module, task: Any, *, num_micro_batches: int = 1, rematerialise: bool = False
) -> Gradient:
    """Returns the gradient of the summed loss (`make_summed_loss`).

    Args:
        model: the network, trained.
        task: its losses and metrics.
        num_micro_batches: parts that the batch is taken in, one after the other; it divides the
            batch. Sums are those of the whole batch up to rounding. Batch normalisation sees each
            part for itself and moves its running statistics once a part; dropout draws anew for
            each part.
        rematerialise: as in `make_summed_loss`.
    """
    summed_loss = make_summed_loss(model, task, rematerialise=rematerialise)
    differentiated = jax.value_and_grad(summed_loss, has_aux=True)

    def at_once(
        params: Tree, collections: Tree, frozen: Tree, batch: Tree, key: Key
    ) -> GradientResult:
        (_, others), gradients = differentiated(params, collections, frozen, batch, key)
        return GradientResult(gradients, *others)

    def in_micro_batches(
        params: Tree, collections: Tree, frozen: Tree, batch: Tree, key: Key
    ) -> GradientResult:
        micro_batches = jax.tree.map(lambda x: split(x, num_micro_batches), batch)
        first = jax.tree.map(lambda x: x[0], micro_batches)
        shapes = jax.eval_shape(at_once, params, collections, frozen, first, key)
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

        def add(sums: GradientResult, inputs: Tree) -> tuple[GradientResult, None]:
            index, micro_batch = inputs
            new = at_once(
                params, sums.collections, frozen, micro_batch, micro_batch_key(key, index)
            )
            gradients = jax.tree.map(jnp.add, sums.gradients, new.gradients)
            metrics = jax.tree.map(jnp.add, sums.metrics, new.metrics)
            return GradientResult(gradients, metrics, new.collections), None

        start = zeros._replace(collections=collections)
        sums, _ = jax.lax.scan(add, start, (jnp.arange(num_micro_batches), micro_batches))
        return sums

    return at_once if num_micro_batches == 1 else in_micro_batches


def per_device(gradient: Gradient, mesh: DeviceMesh) -> Gradient:
    """A gradient that every device takes of its share of the batch, and the sums of them all.

    Batch normalisation measures each share for itself. Collections are the mean over devices, and
    dropout draws anew on each, so that the number of devices matters.
    """

    def of_share(
        params: Tree, collections: Tree, frozen: Tree, batch: Tree, key: Key
    ) -> GradientResult:
        key = jax.random.fold_in(key, jax.lax.axis_index(BATCH_AXES))
        found = gradient(params, collections, frozen, batch, key)
        gradients, metrics = jax.lax.psum((found.gradients, found.metrics), BATCH_AXES)
        return GradientResult(gradients, metrics, jax.lax.pmean(found.collections, BATCH_AXES))

    whole, shared = PartitionSpec(), PartitionSpec(BATCH_AXES)
    # Gradients stay those of a share until they are summed here, since nothing is checked to be the
    # same on all devices; with that check they would be summed already, and then once more.
    return jax.shard_map(
        of_share,
        mesh=mesh.device_grid,
        in_specs=(whole, whole, whole, shared, whole),
        out_specs=whole,
        check_vma=False,
    )


def micro_batch_key(key: Key, index: jax.Array | int) -> Key:
    """The key that the model draws from in one micro-batch."""
    return jax.random.fold_in(jax.random.fold_in(key, MICRO_BATCH_STREAM), index)


def split(x: jax.Array | np.ndarray, num_parts: int) -> jax.Array:
    """[n ...] to [parts n/parts ...]; each part has its share of every device's examples."""
    return jnp.moveaxis(x.reshape(-1, num_parts, *x.shape[1:]), 1, 0)
