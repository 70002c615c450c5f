"""Weights of torchvision and timm as our variables and back, leaf by leaf, by one table.

Images are NHWC here and NCHW there; kernels HWIO and [in out] here, OIHW and [out in] there. A
dense layer that reads a flattened map sees rows, columns, channels here and channels, rows, columns
there. Nothing is computed: values are copied to other places, so there and back is the identity.
An import is strict: every weight must find its place, and every place its weight.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jaxtyping import Float32, Shaped

from cnn_lab.core import trees
from cnn_lab.core.arrays import Tree
from cnn_lab.core.errors import CheckpointError
from cnn_lab.layers.initialize import TracedInit, trace_module
from cnn_lab.transfer.naming import Naming

Tensors = Mapping[str, Shaped[np.ndarray, "..."]]
LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
COUNTER = ".num_batches_tracked"  # counts the batches of a training; nothing here reads it
FLOATS = ("float16", "bfloat16", "float32", "float64")
MAX_LINES = 6  # of each kind of difference


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One of our leaves and the tensor that holds its values there.

    Attributes:
        path: of the leaf, from the collection on.
        shape: of the leaf.
        unfolded: shape of the tensor with the axes of a flattened map apart.
        axes: of `unfolded`, in the order of the leaf.
    """

    path: str
    shape: tuple[int, ...]
    torch_name: str
    torch_shape: tuple[int, ...]
    unfolded: tuple[int, ...]
    axes: tuple[int, ...]

    @property
    def layer(self) -> str:
        """The path of the leaf's layer."""
        return layer_of(self.path)

    def from_torch(self, values: Shaped[np.ndarray, "..."]) -> Float32[np.ndarray, "..."]:
        """The leaf that a tensor holds, as float32."""
        ours = values.reshape(self.unfolded).transpose(self.axes).reshape(self.shape)
        return np.ascontiguousarray(ours, np.float32)

    def to_torch(self, values: Float32[np.ndarray, "..."]) -> Float32[np.ndarray, "..."]:
        """The tensor that holds a leaf."""
        unfolded = values.reshape([self.unfolded[axis] for axis in self.axes])
        theirs = unfolded.transpose(np.argsort(self.axes))
        return np.ascontiguousarray(theirs).reshape(self.torch_shape)


def layer_of(path: str) -> str:
    """The path of a leaf's layer, without the collection."""
    inside = path.partition("/")[2]
    layer, _, leaf = inside.rpartition("/")
    return layer if leaf in LEAVES else inside


def make_table(model: Any, variables: Tree, naming: Naming) -> list[Leaf]:
    """The leaves of a model, each with its tensor in a library; shapes will do for `variables`."""
    shapes = {path: tuple(leaf.shape) for path, leaf in trees.flatten(variables).items()}
    names = naming.names(model, list(dict.fromkeys(map(layer_of, shapes))))
    sides = naming.map_sides(model)
    table = []
    for path, shape in shapes.items():
        layer, leaf = layer_of(path), path.rpartition("/")[2]
        name = f"{names[layer]}.{LEAVES[leaf]}" if leaf in LEAVES else names[layer]
        unfolded = torch_shape = shape
        axes = tuple(range(len(shape)))
        if leaf == "kernel":
            side = sides.get(layer, 1)
            height, width, channels = (side, side, shape[0] // side**2)
            if len(shape) == 4:
                height, width, channels = shape[:3]
            torch_shape = unfolded = (shape[-1], channels, height, width)
            axes = (2, 3, 1, 0)
            convolves = naming.as_convolutions and layer.startswith("head/hidden")
            if len(shape) == 2 and not convolves:
                torch_shape = (shape[1], shape[0])
        elif leaf not in LEAVES and naming.scales_as_maps:
            torch_shape = (*shape, 1, 1)
        table.append(Leaf(path, shape, name, torch_shape, unfolded, axes))
    return table


def to_torch(variables: Tree, table: Sequence[Leaf]) -> dict[str, Float32[np.ndarray, "..."]]:
    """Our variables as tensors, by name."""
    ours = trees.flatten(variables)
    return {leaf.torch_name: leaf.to_torch(np.asarray(ours[leaf.path])) for leaf in table}


def from_torch(
    tensors: Tensors,
    table: Sequence[Leaf],
    unused: frozenset[str],
    where: str | None = None,
    advice: str = "",
    found: int | None = None,
) -> dict[str, Float32[np.ndarray, "..."]]:
    """Tensors as our leaves, by path; those of the unused layers are left out.

    Raises:
        CheckpointError: they do not fit; lists differences of every kind, and ends with the advice,
            which is to set the flag `where`, of `found` classes where that is their number.
    """
    if lines := differences(tensors, table, unused):
        text = "\n".join(_shortened(lines))
        problem = f"The weights do not fit the model:\n{text}\n{advice}".rstrip()
        raise CheckpointError(problem, where=where, found=found)
    return {
        leaf.path: leaf.from_torch(tensors[leaf.torch_name])
        for leaf in table
        if leaf.layer not in unused
    }


def differences(tensors: Tensors, table: Sequence[Leaf], unused: frozenset[str]) -> list[str]:
    """Missing, extra, reshaped and unfit leaves, one a line; none where the two fit.

    Leaves of the unused layers may be there or not, in any shape.
    """
    wanted = {leaf.torch_name: leaf for leaf in table if leaf.layer not in unused}
    known = {leaf.torch_name for leaf in table}
    extra = [name for name in tensors if name not in known and not name.endswith(COUNTER)]
    lines = [
        f"  missing in the file: {name} {leaf.torch_shape}, for {leaf.path}"
        for name, leaf in wanted.items()
        if name not in tensors
    ]
    lines += [f"  only in the file: {name} {tensors[name].shape}" for name in extra]
    for name, leaf in wanted.items():
        tensor, shape = tensors.get(name), leaf.torch_shape
        if tensor is not None and tensor.shape != shape:
            found = f"{name} is {tensor.shape} in the file, {shape} in the model, for {leaf.path}"
            lines.append(f"  other shape: {found}")
        elif tensor is not None and str(tensor.dtype) not in FLOATS:
            lines.append(f"  no weights: {name} is {tensor.dtype} in the file")
    return lines


def _shortened(lines: list[str]) -> list[str]:
    """The first few lines of each kind, and how many there are besides."""
    kinds: dict[str, list[str]] = {}
    for line in lines:
        kinds.setdefault(line.partition(":")[0], []).append(line)
    short = []
    for kind, alike in kinds.items():
        short += alike[:MAX_LINES]
        if len(alike) > MAX_LINES:
            short.append(f"{kind}: {len(alike) - MAX_LINES} more")
    return short


@dataclasses.dataclass(frozen=True)
class ImportedWeights:
    """A model's variables, taken from a file.

    Attributes:
        variables: by collection; numpy arrays.
        library: with the names of the file.
        new_layers: layers that were left at their initial values.
        other_dtypes: dtypes in the file other than float32.
    """

    variables: dict[str, Tree]
    library: str
    new_layers: tuple[str, ...]
    other_dtypes: tuple[str, ...]


def import_tensors(
    make: Callable[[int], nn.Module],
    num_classes: int,
    image_shape: tuple[int, int, int],
    namings: Mapping[str, Naming],
    tensors: Tensors,
    *,
    new_head: bool = False,
    seed: int = 0,
) -> ImportedWeights:
    """A model's variables from tensors of the library whose names fit best.

    Args:
        make: number of classes -> module.
        image_shape: (h, w, c).
        namings: by library.
        new_head: leave the layers whose shape depends on the classes at their initial values,
            of `seed`, whatever the file has for them.

    Raises:
        CheckpointError: they do not fit; lists the differences.
    """
    model = make(num_classes)
    init = trace_module(model, image_shape)
    shapes = init.shapes
    outputs = output_layers(make, num_classes, image_shape)
    unused = outputs if new_head else frozenset()
    tables = {library: make_table(model, shapes, naming) for library, naming in namings.items()}
    # Of those that fit alike, the first.
    library = min(tables, key=lambda name: len(differences(tensors, tables[name], unused)))
    table = tables[library]
    leaves = from_torch(tensors, table, unused, *_advice(tensors, table, outputs))
    if new_head:
        leaves |= initial_values(init, {leaf.path for leaf in table if leaf.layer in unused}, seed)
    variables = jax.tree_util.tree_map_with_path(lambda p, _: leaves[trees.path_of(p)], shapes)
    used = [leaf.torch_name for leaf in table if leaf.layer not in unused]
    dtypes = {str(tensors[name].dtype) for name in used} - {"float32"}
    return ImportedWeights(variables, library, tuple(sorted(unused)), tuple(sorted(dtypes)))


def output_layers(
    make: Callable[[int], nn.Module], num_classes: int, image_shape: tuple[int, int, int]
) -> frozenset[str]:
    """The layers whose shape depends on the number of classes."""

    def shapes_for(number: int) -> dict[str, tuple[int, ...]]:
        made = trace_module(make(number), image_shape).shapes
        return {path: leaf.shape for path, leaf in trees.flatten(made).items()}

    here, there = shapes_for(num_classes), shapes_for(num_classes + 1)
    return frozenset(layer_of(path) for path in here if here[path] != there[path])


def initial_values(
    init: Callable[[Any], Tree], paths: set[str], seed: int
) -> dict[str, np.ndarray]:
    """Initial values of some leaves (key -> variables), by path; the others are never computed."""

    def chosen(key: Any) -> dict[str, jax.Array]:
        return {path: leaf for path, leaf in trees.flatten(init(key)).items() if path in paths}

    key = jax.random.key(seed)
    return jax.tree.map(np.array, TracedInit(chosen, key)(key))


def _advice(
    tensors: Tensors, table: list[Leaf], outputs: frozenset[str]
) -> tuple[str, str, int | None]:
    """The flag that helps where tensors do not fit, a sentence about it, and classes found."""
    if differences(tensors, table, frozenset()) and not differences(tensors, table, outputs):
        heads = [leaf for leaf in table if leaf.layer in outputs and leaf.layer.startswith("head/")]
        for leaf in heads:
            if leaf.path.endswith("bias") and leaf.torch_name in tensors:
                shape = tensors[leaf.torch_name].shape
                found = shape[0] if shape else 0
                advice = (
                    f"The file has {found} classes: give --num_classes={found}, or --new_head to "
                    "leave the output layers at their initial values."
                )
                return "--num_classes", advice, found
        advice = "Only output layers do not fit: --new_head leaves them at their initial values."
        return "--new_head", advice, None
    auxiliary = frozenset(leaf.layer for leaf in table if leaf.layer.startswith("auxiliary_"))
    if auxiliary and not differences(tensors, table, auxiliary):
        advice = "The file has no auxiliary heads: --option=auxiliary=false leaves them out."
        return "--option", advice, None
    advice = (
        "Look whether the file is of this architecture, give the --option values that it was made "
        "with, or bring its names to torchvision's by --rename."
    )
    return "--from", advice, None


def num_values(tensors: Tensors) -> int:
    """The number of values in all tensors but the counters."""
    return sum(math.prod(t.shape) for name, t in tensors.items() if not name.endswith(COUNTER))
