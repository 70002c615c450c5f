"""Everything that a training step reads and writes."""

import dataclasses
from collections.abc import Callable

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax

from cnn_lab.core import trees
from cnn_lab.core.arrays import Key, Tree
from cnn_lab.layers.initialize import TracedInit, own_arrays, trace_module
from cnn_lab.training.frozen import partition_frozen

NONE: Tree = {}
# What is drawn in a step beside what the model draws from the step's key itself.
AUGMENT_STREAM, MICRO_BATCH_STREAM = 1, 2


class TrainState(flax.struct.PyTreeNode):
    """The whole state of a training; together with the data it determines what follows.

    The leaves are arrays, or their shapes where a state is only planned.

    Attributes:
        step: number of updates made, int32.
        params: trainable values.
        collections: the model's other variables, such as `batch_stats`.
        opt_state: the optimizer's.
        averaged: `params` and `collections` that are evaluated in place of those above; empty where
            nothing is averaged (`training/averaging.py`).
        key: never changes; the randomness of a step is `fold_in(key, step)`.
        frozen: variables by collection that no step changes, `params` among them
            (`training/frozen.py`); those above are the others.
        anchor: parameters that a penalty pulls towards, which no step changes either.
    """

    step: Tree
    params: Tree
    collections: Tree
    opt_state: Tree
    averaged: Tree
    key: Tree
    frozen: Tree = dataclasses.field(default_factory=dict)
    anchor: Tree = dataclasses.field(default_factory=dict)


def step_key(state: TrainState) -> Key:
    """The randomness of the step that follows."""
    return jax.random.fold_in(state.key, state.step)


def make_init(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    input_shape: tuple[int, int, int],
    average: Callable[[TrainState], Tree] = lambda _: {},
    trainable: Callable[[str], bool] = lambda _: True,
) -> Callable[..., TrainState]:
    """Returns (key, given, anchor) -> fresh state, pure.

    `given` holds variables by collection that take the place of the model's initial ones, and
    `anchor` parameters that a penalty pulls towards; both may be left out.

    Args:
        model: the network.
        optimizer: of its parameters.
        input_shape: (h, w, c).
        average: state -> its first average (`Average.init`).
        trainable: whether a parameter is trained, by its path; the others are frozen.
    """

    def init(key: Key, given: Tree = NONE, anchor: Tree = NONE) -> TrainState:
        params_key, run_key = jax.random.split(key)
        variables = trace_module(model, input_shape, params_key)(params_key)
        collections, frozen = partition_frozen(trees.merge(variables, given), trainable)
        params = collections.pop("params")
        state = TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            collections=collections,
            opt_state=optimizer.init(params),
            averaged={},
            key=run_key,
            frozen=frozen,
            anchor=anchor,
        )
        return state.replace(averaged=average(state))

    return init


def init_state(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    image_shape: tuple[int, int, int],
    seed: int = 0,
) -> TrainState:
    """The first state of a training loop of one's own (`training/step.py:make_train_step`).

    Its leaves are NumPy arrays, but for the key.

    Args:
        model: the network.
        optimizer: of its parameters.
        image_shape: (h, w, c) of its input.
        seed: of the initial weights and of dropout.

    >>> from cnn_lab.models.create import create_model
    >>> state = init_state(create_model("linear"), optax.sgd(0.1), (8, 8, 1))
    >>> int(state.step)
    0
    """
    key = jax.random.key(seed)
    return own_arrays(TracedInit(make_init(model, optimizer, image_shape), key)(key))


UNCHANGED: dict[str, tuple[()]] = {"key": (), "frozen": (), "anchor": ()}  # by every step


def where_finite(values: Tree, new: TrainState, old: TrainState) -> tuple[TrainState, jax.Array]:
    """The new state where all of the values are finite, else the old one; and whether they are."""
    finite = jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(values)]).all()
    chosen = jax.tree.map(
        lambda n, o: jnp.where(finite, n, o), new.replace(**UNCHANGED), old.replace(**UNCHANGED)
    )
    return chosen.replace(key=old.key, frozen=old.frozen, anchor=old.anchor), finite
