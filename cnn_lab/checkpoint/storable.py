"""A training state as nested plain dicts, as it lies on disk, and how two such trees differ."""

import dataclasses
from typing import TypeVar

import jax

from cnn_lab.core import trees
from cnn_lab.core.arrays import Tree
from cnn_lab.train.state import TrainState

MAX_LINES = 20

Shapes = TypeVar("Shapes")


def describe_difference(found: Tree, expected: Tree) -> str:
    """Lists missing, extra, reshaped and retyped leaves, one a line; empty when the trees agree.

    Args:
        found: leaves with `shape` and `dtype`, as stored.
        expected: leaves with `shape` and `dtype`, as the model has them.
    """
    old, new = shapes_and_dtypes(found), shapes_and_dtypes(expected)
    lines = [
        f"  missing in the checkpoint: {path} {new[path][0]}" for path in new if path not in old
    ]
    lines += [f"  only in the checkpoint: {path} {old[path][0]}" for path in old if path not in new]
    for index, kind in enumerate(("shape", "dtype")):
        lines += [
            f"  other {kind}: {path} is {old[path][index]} in the checkpoint, "
            f"{new[path][index]} in the model"
            for path in new
            if path in old and old[path][index] != new[path][index]
        ]
    if len(lines) > MAX_LINES:
        lines = [*lines[:MAX_LINES], f"  ... and {len(lines) - MAX_LINES} more"]
    return "\n".join(lines)


def shapes_and_dtypes(tree: Tree) -> dict[str, tuple[tuple[int, ...], str]]:
    """Returns path -> (shape, dtype) of every leaf."""
    return {
        path: (tuple(leaf.shape), str(leaf.dtype)) for path, leaf in trees.flatten(tree).items()
    }


def sharded_shapes(shapes: Shapes, sharding: jax.sharding.Sharding) -> Shapes:
    """Shapes (`jax.eval_shape`) with a sharding for every leaf, to restore into."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shapes
    )


def to_storable(state: TrainState) -> dict[str, Tree]:
    """The state as nested plain dicts, keys as their raw data: what lies on disk."""
    key = state.key
    if isinstance(key, jax.ShapeDtypeStruct):
        data = jax.eval_shape(jax.random.key_data, key)
        data = jax.ShapeDtypeStruct(data.shape, data.dtype, sharding=key.sharding)
    else:
        data = jax.random.key_data(key)
    values = {f.name: getattr(state, f.name) for f in dataclasses.fields(state)}
    return {**values, "key": data}


def from_storable(values: dict[str, Tree]) -> TrainState:
    """The state that `to_storable` was given."""
    return TrainState(**{**values, "key": jax.random.wrap_key_data(values["key"])})
