"""Everything that a training step reads and writes."""

from collections.abc import Callable

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax

from cnn_lab.core.shapes import Key, Tree

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
            nothing is averaged (`train/averaging.py`).
        key: never changes; the randomness of a step is `fold_in(key, step)`.
    """

    step: Tree
    params: Tree
    collections: Tree
    opt_state: Tree
    averaged: Tree
    key: Tree


def step_key(state: TrainState) -> Key:
    """The randomness of the step that follows."""
    return jax.random.fold_in(state.key, state.step)


def make_init(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    image_shape: tuple[int, int, int],
    average: Callable[[TrainState], Tree] = lambda _: {},
) -> Callable[[Key], TrainState]:
    """Returns key -> fresh state, pure.

    Args:
        model: the network.
        optimizer: whose state is begun too.
        image_shape: (h, w, c).
        average: state -> the average that it begins with (`Average.init`).
    """

    def init(key: Key) -> TrainState:
        params_key, run_key = jax.random.split(key)
        images = jnp.zeros((1, *image_shape))
        collections = dict(model.init({"params": params_key}, images, train=False))
        params = collections.pop("params")
        state = TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            collections=collections,
            opt_state=optimizer.init(params),
            averaged={},
            key=run_key,
        )
        return state.replace(averaged=average(state))

    return init
