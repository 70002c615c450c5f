"""Phases of a training, in each of which other parameters are trained."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import optax

from cnn_lab.core import trees
from cnn_lab.core.arrays import Tree
from cnn_lab.layers.initialize import TracedInit
from cnn_lab.training.averaging import Average
from cnn_lab.training.frozen import partition_frozen
from cnn_lab.training.state import TrainState
from cnn_lab.training.step import Step


@dataclasses.dataclass(frozen=True)
class Phase:
    """One phase of a training.

    Attributes:
        end_step: updates made when it ends.
        init: (key, given, anchor) -> fresh state, traced.
        step: the training step.
        enter: last state of the phase before -> first state of this one.
    """

    end_step: int
    init: TracedInit[TrainState]
    step: Step
    enter: Callable[[TrainState], TrainState]


def make_phase_transition(
    optimizer: optax.GradientTransformation, average: Average, trainable: Callable[[str], bool]
) -> Callable[[TrainState], TrainState]:
    """Returns a pure function to a state in which other parameters are trained.

    What was trained already keeps its momentum, its average and all other optimizer state; what is
    new starts with a fresh one. Arguments are those of the phase that is entered.
    """

    def regrouped(params: Tree, collections: Tree, frozen: Tree) -> tuple[Tree, Tree]:
        return partition_frozen(trees.merge({"params": params, **collections}, frozen), trainable)

    def enter(state: TrainState) -> TrainState:
        changing, frozen = regrouped(state.params, state.collections, state.frozen)
        params = changing.pop("params")
        opt_state = _carried(state.opt_state, optimizer.init(params))
        new = state.replace(
            params=params, collections=changing, opt_state=opt_state, frozen=frozen, averaged={}
        )
        if not state.averaged:
            return new.replace(averaged=average.init(new))
        averaged, _ = regrouped(
            state.averaged["params"], state.averaged["collections"], state.frozen
        )
        return new.replace(averaged={"params": averaged.pop("params"), "collections": averaged})

    return enter


def _carried(old: Tree, fresh: Tree) -> Tree:
    """A fresh optimizer state, with the values of an earlier one wherever that has them."""
    earlier = trees.flatten(old)

    def carry(path: Any, leaf: jax.Array) -> jax.Array:
        return earlier.get(trees.path_of(path), leaf)

    return jax.tree_util.tree_map_with_path(carry, fresh)
