"""Foreign tensors brought into a model, strictly: the best naming, the head, the advice."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cnn_lab.core import trees
from cnn_lab.core.arrays import Tree
from cnn_lab.transfer import convert
from cnn_lab.transfer.convert import Leaf, Tensors
from cnn_lab.transfer.naming.rules import Naming


@dataclasses.dataclass(frozen=True)
class Fitted:
    """A model's variables, taken from a file.

    Attributes:
        variables: by collection; numpy arrays.
        naming: whose names the file has.
        fresh: layers that were left at their initial values.
        rounded: dtypes in the file other than float32.
    """

    variables: dict[str, Tree]
    naming: str
    fresh: tuple[str, ...]
    rounded: tuple[str, ...]


def fit(
    make: Callable[[int], nn.Module],
    num_classes: int,
    image_shape: tuple[int, int, int],
    namings: Mapping[str, Naming],
    tensors: Tensors,
    *,
    new_head: bool = False,
    seed: int = 0,
) -> Fitted:
    """Takes a model's variables from tensors of the library whose names fit best.

    Args:
        make: number of classes -> module.
        num_classes: of the model.
        image_shape: (h, w, c) of what the model takes.
        namings: by library.
        tensors: theirs, by name.
        new_head: leave the layers whose shape depends on the classes at their initial values,
            whatever the file has for them.
        seed: of those values.

    Raises:
        CheckpointError: they do not fit; lists the differences.
    """
    model = make(num_classes)
    init = lambda key: dict(model.init(key, jnp.zeros((1, *image_shape)), train=False))  # noqa: E731
    shapes = jax.eval_shape(init, jax.random.key(0))
    outputs = output_layers(make, num_classes, image_shape)
    unused = outputs if new_head else frozenset()
    tables = {name: convert.make_table(model, shapes, rule) for name, rule in namings.items()}
    naming = convert.best_table(tensors, tables, unused)
    table = tables[naming]
    advice = _advice(tensors, table, outputs)
    leaves: dict[str, Any] = dict(convert.to_ours(tensors, table, unused, advice))
    if new_head:
        kept = [leaf.path for leaf in table if leaf.layer in unused]
        begin = lambda key: {p: v for p, v in trees.flatten(init(key)).items() if p in kept}  # noqa: E731
        # The rest is never computed.
        leaves |= jax.tree.map(np.asarray, jax.jit(begin)(jax.random.key(seed)))
    variables = jax.tree_util.tree_map_with_path(lambda p, _: leaves[trees.path_of(p)], shapes)
    used = {leaf.name for leaf in table if leaf.layer not in unused}
    dtypes = {str(tensor.dtype) for name, tensor in tensors.items() if name in used}
    return Fitted(variables, naming, tuple(sorted(unused)), tuple(sorted(dtypes - {"float32"})))


def output_layers(
    make: Callable[[int], nn.Module], num_classes: int, image_shape: tuple[int, int, int]
) -> frozenset[str]:
    """The layers whose shape depends on the number of classes."""

    def shapes_for(number: int) -> dict[str, tuple[int, ...]]:
        model, image = make(number), jnp.zeros((1, *image_shape))
        made = jax.eval_shape(lambda key: model.init(key, image, train=False), jax.random.key(0))
        return {path: leaf.shape for path, leaf in trees.flatten(made).items()}

    here, there = shapes_for(num_classes), shapes_for(num_classes + 1)
    return frozenset(convert.layer_of(path) for path in here if here[path] != there[path])


def _advice(tensors: Tensors, table: list[Leaf], outputs: frozenset[str]) -> str:
    """What to do about tensors that do not fit."""
    wrong = set(convert.differences(tensors, table, frozenset()))
    heads = [leaf for leaf in table if leaf.layer in outputs and leaf.path.endswith("bias")]
    if wrong and not convert.differences(tensors, table, outputs):
        main = next((leaf for leaf in heads if leaf.layer.startswith("head/")), None)
        if main is not None and main.name in tensors:
            found = tensors[main.name].shape[0] if tensors[main.name].ndim else 0
            return (
                f"The file has {found} classes: give --num_classes={found}, or --new_head to "
                "leave the output layers at their initial values."
            )
        return "Only output layers do not fit: --new_head leaves them at their initial values."
    auxiliary = frozenset(leaf.layer for leaf in table if leaf.layer.startswith("auxiliary_"))
    if auxiliary and not convert.differences(tensors, table, auxiliary):
        return "The file has no auxiliary heads: --option=auxiliary=false leaves them out."
    return (
        "Look whether the file is of this architecture, give the --option values that it was made "
        "with, or bring its names to torchvision's by --rename."
    )
