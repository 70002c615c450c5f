"""A training state as nested plain dicts, as it lies on disk, and how two such trees differ."""

import dataclasses

import jax

from cnn_lab.core import trees
from cnn_lab.core.shapes import Tree
from cnn_lab.train.state import TrainState

MOST_LINES = 20


def describe_difference(found: Tree, expected: Tree) -> str:
    """Lists missing, extra and reshaped leaves, one a line; empty when the trees agree.

    Args:
        found: leaves with `shape`, as stored.
        expected: leaves with `shape`, as the model has them.
    """
    old = {path: tuple(leaf.shape) for path, leaf in trees.flatten(found).items()}
    new = {path: tuple(leaf.shape) for path, leaf in trees.flatten(expected).items()}
    lines = [f"  missing in the checkpoint: {path} {new[path]}" for path in new if path not in old]
    lines += [f"  only in the checkpoint: {path} {old[path]}" for path in old if path not in new]
    lines += [
        f"  other shape: {path} is {old[path]} in the checkpoint, {shape} in the model"
        for path, shape in new.items()
        if path in old and old[path] != shape
    ]
    if len(lines) > MOST_LINES:
        lines = [*lines[:MOST_LINES], f"  ... and {len(lines) - MOST_LINES} more"]
    return "\n".join(lines)


def sharded_shapes(shapes: TrainState, sharding: jax.sharding.Sharding) -> TrainState:
    """Shapes of a state (`jax.eval_shape`) with a sharding for every leaf, to restore into."""
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
