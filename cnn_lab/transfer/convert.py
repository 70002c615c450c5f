"""Our variables and theirs, leaf by leaf: one table that is read in both directions.

Images are NHWC here and NCHW there; kernels HWIO and [in out] here, OIHW and [out in] there. A
dense layer that reads a flattened map sees rows, columns, channels here and channels, rows, columns
there. Nothing is computed: values are copied to other places, so there and back is the identity.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32, Shaped

from cnn_lab.core import trees
from cnn_lab.core.arrays import Tree
from cnn_lab.core.errors import CheckpointError
from cnn_lab.transfer.naming.rules import Naming

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
MOST_LINES = 6  # of each kind of difference


@dataclasses.dataclass(frozen=True)
class Leaf:
    """Where one of our leaves lies there, and how.

    Attributes:
        path: ours, from the collection on.
        shape: ours.
        name: theirs.
        shape_there: theirs.
        unfolded: their shape with the axes of a flattened map apart.
        axes: of `unfolded`, in our order.
    """

    path: str
    shape: tuple[int, ...]
    name: str
    shape_there: tuple[int, ...]
    unfolded: tuple[int, ...]
    axes: tuple[int, ...]

    @property
    def layer(self) -> str:
        """Our path of the layer."""
        return layer_of(self.path)

    def to_ours(self, values: Shaped[np.ndarray, "..."]) -> Float32[np.ndarray, "..."]:
        """Brings their array into our order, as float32."""
        ours = values.reshape(self.unfolded).transpose(self.axes).reshape(self.shape)
        return np.ascontiguousarray(ours, np.float32)

    def to_theirs(self, values: Float32[np.ndarray, "..."]) -> Float32[np.ndarray, "..."]:
        """Brings our array into their order."""
        unfolded = values.reshape([self.unfolded[axis] for axis in self.axes])
        theirs = unfolded.transpose(np.argsort(self.axes))
        return np.ascontiguousarray(theirs).reshape(self.shape_there)


def layer_of(path: str) -> str:
    """The path of a leaf's layer, without the collection."""
    inside = path.partition("/")[2]
    layer, _, leaf = inside.rpartition("/")
    return layer if leaf in LEAVES else inside


def make_table(model: Any, variables: Tree, naming: Naming) -> list[Leaf]:
    """Where each leaf of a model lies there.

    Args:
        model: the module.
        variables: its variables, or their shapes.
        naming: the library's.
    """
    shapes = {path: tuple(leaf.shape) for path, leaf in trees.flatten(variables).items()}
    names = naming.names(model, list(dict.fromkeys(map(layer_of, shapes))))
    sides = naming.map_sides(model)
    table = []
    for path, shape in shapes.items():
        layer, leaf = layer_of(path), path.rpartition("/")[2]
        name = f"{names[layer]}.{LEAVES[leaf]}" if leaf in LEAVES else names[layer]
        unfolded = there = shape
        axes = tuple(range(len(shape)))
        if leaf == "kernel":
            side = sides.get(layer, 1)
            height, width, channels = (side, side, shape[0] // side**2)
            if len(shape) == 4:
                height, width, channels = shape[:3]
            there = unfolded = (shape[-1], channels, height, width)
            axes = (2, 3, 1, 0)
            convolves = naming.as_convolutions and layer.startswith("head/hidden")
            if len(shape) == 2 and not convolves:
                there = (shape[1], shape[0])
        elif leaf not in LEAVES and naming.scales_as_maps:
            there = (*shape, 1, 1)
        table.append(Leaf(path, shape, name, there, unfolded, axes))
    return table


def differences(tensors: Tensors, table: Sequence[Leaf], unused: frozenset[str]) -> list[str]:
    """Missing, extra, reshaped and unfit leaves, one a line; none where the two fit.

    Args:
        tensors: theirs, by name.
        table: of the model.
        unused: layers whose leaves may be there or not, in any shape.
    """
    wanted = {leaf.name: leaf for leaf in table if leaf.layer not in unused}
    known = {leaf.name for leaf in table}
    extra = [name for name in tensors if name not in known and not name.endswith(COUNTER)]
    lines = [
        f"  missing in the file: {name} {leaf.shape_there}, for {leaf.path}"
        for name, leaf in wanted.items()
        if name not in tensors
    ]
    lines += [f"  only in the file: {name} {tensors[name].shape}" for name in extra]
    for name, leaf in wanted.items():
        if name in tensors and tensors[name].shape != leaf.shape_there:
            lines.append(
                f"  other shape: {name} is {tensors[name].shape} in the file, {leaf.shape_there} "
                f"in the model, for {leaf.path}"
            )
        elif name in tensors and str(tensors[name].dtype) not in FLOATS:
            lines.append(f"  no weights: {name} is {tensors[name].dtype} in the file")
    return lines


def best_table(
    tensors: Tensors, tables: Mapping[str, Sequence[Leaf]], unused: frozenset[str]
) -> str:
    """Name of the table that fits the tensors best, the first of those that fit alike."""
    return min(tables, key=lambda name: len(differences(tensors, tables[name], unused)))


def to_ours(
    tensors: Tensors, table: Sequence[Leaf], unused: frozenset[str], advice: str = ""
) -> dict[str, Float32[np.ndarray, "..."]]:
    """Their tensors as our leaves, by path; those of the unused layers are left out.

    Args:
        tensors: theirs, by name.
        table: of the model.
        unused: layers that are not taken over.
        advice: ends the error's text.

    Raises:
        CheckpointError: they do not fit; lists every difference.
    """
    if lines := differences(tensors, table, unused):
        text = "\n".join(_shortened(lines))
        raise CheckpointError(f"The weights do not fit the model:\n{text}\n{advice}".rstrip())
    return {
        leaf.path: leaf.to_ours(tensors[leaf.name]) for leaf in table if leaf.layer not in unused
    }


def _shortened(lines: list[str]) -> list[str]:
    """The first few lines of each kind, and how many there are besides."""
    kinds: dict[str, list[str]] = {}
    for line in lines:
        kinds.setdefault(line.partition(":")[0], []).append(line)
    short = []
    for kind, alike in kinds.items():
        short += alike[:MOST_LINES]
        if len(alike) > MOST_LINES:
            short.append(f"{kind}: {len(alike) - MOST_LINES} more")
    return short


def to_theirs(variables: Tree, table: Sequence[Leaf]) -> dict[str, Float32[np.ndarray, "..."]]:
    """Our variables as their tensors, by name."""
    ours = trees.flatten(variables)
    return {leaf.name: leaf.to_theirs(np.asarray(ours[leaf.path])) for leaf in table}


def num_values(tensors: Tensors) -> int:
    """How many numbers there are in all tensors but the counters."""
    return sum(math.prod(t.shape) for name, t in tensors.items() if not name.endswith(COUNTER))
