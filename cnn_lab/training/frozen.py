"""Layers that a training leaves as they are.

What is frozen lies in a state of its own field, `TrainState.frozen`, so that it has no gradient, no
weight decay, no memory of the optimizer and no average. A layer all of whose parameters are frozen
runs as in evaluation: its statistics neither move nor are those of the batch, and nothing is
dropped in it. Dropout that stands between layers, in none of them, follows what contains it: it
ends where the whole backbone is frozen.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import flax.linen as nn
import jax

from cnn_lab.core import trees
from cnn_lab.core.arrays import Key, Tree
from cnn_lab.layers.normalization import BatchNorm


def apply_in_training(
    model: nn.Module, params: Tree, collections: Tree, frozen: Tree, images: jax.Array, key: Key
) -> tuple[Any, Tree]:
    """The outputs of a model as a training step runs it, and the collections after it.

    `params` and `collections` are what a step may change, `frozen` what it may not, by collection;
    images are [n h w c], and dropout draws from the key.
    """
    with as_evaluated(frozen_layers(params, frozen)):
        outputs, changed = model.apply(
            trees.merge({"params": params, **collections}, frozen),
            images,
            train=True,
            rngs={"dropout": key},
            mutable=list(collections),
        )
    return outputs, trees.partition(changed, trees.flatten(collections).__contains__)[0]


def frozen_layers(params: Tree, frozen: Tree) -> frozenset[str]:
    """Paths of the layers all of whose parameters are frozen, those inside others included."""
    return _layers_above(frozen.get("params", {})) - _layers_above(params)


@contextmanager
def as_evaluated(layers: frozenset[str]) -> Iterator[None]:
    """Runs layers as in evaluation inside a `with`, whatever `train` the model passes them."""

    def intercept(call: Any, arguments: Any, options: Any, context: nn.module.InterceptorContext):
        module = context.module
        if "/".join(module.path) in layers:
            # Batch normalisation gets `train` when it is made, the others in the call; its own call
            # passes here too, on its way to Linen's.
            is_norm = isinstance(module, BatchNorm) and "use_running_average" not in options
            if options.get("train") or (is_norm and context.method_name == "__call__"):
                options = {**options, "train": False}
        return call(*arguments, **options)

    with nn.intercept_methods(intercept):
        yield


def partition_frozen(variables: Tree, trainable: Callable[[str], bool]) -> tuple[Tree, Tree]:
    """Partitions variables by collection into those that a step may change, and the frozen ones.

    Statistics belong to their layer: they are frozen where all of its parameters are.

    Args:
        variables: `params` and other collections.
        trainable: whether a parameter is trained, by its path.
    """
    moving, still = trees.partition(variables["params"], trainable)
    layers = frozen_layers(moving, {"params": still})

    def moves(path: str) -> bool:
        return path.rpartition("/")[0] not in layers

    changing, frozen = {"params": moving}, {"params": still} if still else {}
    for name, tree in variables.items():
        if name != "params":
            ours, others = trees.partition(tree, moves)
            changing |= {name: ours} if ours else {}
            frozen |= {name: others} if others else {}
    return changing, frozen


def _layers_above(params: Tree) -> frozenset[str]:
    found = set()
    for path in trees.flatten(params):
        while path := path.rpartition("/")[0]:
            found.add(path)
    return frozenset(found)
