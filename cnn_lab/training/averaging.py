"""Averages of the weights along a training, which are evaluated in place of the last weights.

An average is a pure function of the states so far; it is a part of the `TrainState`, beside the
weights, and saved with it. Statistics of normalisation belong to the weights that they were
measured with: a moving average averages them too, which follows closely; where weights far apart
are averaged, they are measured again (`training/recalibration.py`).
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from cnn_lab.core import trees
from cnn_lab.core.arrays import Scalar, Tree
from cnn_lab.training.state import TrainState


@dataclasses.dataclass(frozen=True)
class Average:
    """An average along a training, as an initial value and an update.

    Attributes:
        init: fresh state -> the average, `params` and `collections`, or nothing at all.
        update: state after a step, which holds the average before it -> the average after it.
        recalibrate_from_step: from this step on statistics are measured again before an
            evaluation; None where they never are.
    """

    init: Callable[[TrainState], Tree]
    update: Callable[[TrainState], Tree]
    recalibrate_from_step: int | None = None


NO_AVERAGE = Average(lambda _: {}, lambda _: {})


def ema(decay: float) -> Average:
    """Exponential moving average of weights and statistics (Polyak & Juditsky 1992).

    A step keeps the share `decay`, in [0, 1), of the average; the t-th one at most t / (9 + t), so
    that the initial weights are soon forgotten.
    """

    def update(state: TrainState) -> Tree:
        share = jnp.minimum(decay, state.step / (9.0 + state.step))
        return jax.tree.map(
            lambda old, new: (share * old + (1 - share) * new).astype(new.dtype),
            state.averaged,
            _current(state),
        )

    return Average(_current, update)


def swa(first_step: int, every_steps: int) -> Average:
    """The plain mean of the weights after `first_step` steps and every `every_steps` from there.

    Izmailov et al. 2018, arXiv:1803.05407. Until then it is the current weights.
    """

    def update(state: TrainState) -> Tree:
        since = state.step - first_step
        earlier = (since // every_steps).astype(jnp.float32)  # weights in the mean already
        taken = (since >= 0) & (since % every_steps == 0)
        share = jnp.where(since < 0, 1.0, jnp.where(taken, 1 / (earlier + 1), 0.0))
        params = jax.tree.map(
            lambda old, new: _mixed(old, new, share), state.averaged["params"], state.params
        )
        return {"params": params, "collections": _statistics(state, since < 0)}

    return Average(_current, update, recalibrate_from_step=first_step)


def of_optimizer(weights: Callable[[Tree, Tree], Tree]) -> Average:
    """The average that an optimizer keeps itself: `weights` is (its state, params) -> params."""

    def current(state: TrainState) -> Tree:
        params = weights(state.opt_state, state.params)
        return {"params": params, "collections": state.collections}

    return Average(current, current, recalibrate_from_step=1)


def evaluated_variables(state: TrainState) -> dict[str, Tree]:
    """Parameters and statistics that a state is evaluated with, by collection."""
    parts = evaluated_parts(state)
    return trees.merge({"params": parts["params"], **parts["collections"]}, parts["frozen"])


def evaluated_parts(state: TrainState) -> dict[str, Tree]:
    """The same variables as `params`, `collections` and `frozen`, as a state has them apart."""
    return {**(state.averaged or _current(state)), "frozen": state.frozen}


def with_statistics(state: TrainState, statistics: Tree) -> TrainState:
    """The state with other statistics (collections by name) of its averaged weights."""
    collections = {**state.averaged["collections"], **statistics}
    return state.replace(averaged={**state.averaged, "collections": collections})


def _current(state: TrainState) -> Tree:
    return {"params": state.params, "collections": state.collections}


def _mixed(old: jax.Array, new: jax.Array, share: Scalar) -> jax.Array:
    # Exactly the old or the new value where the share is 0 or 1.
    return jnp.where(share == 1, new, old + share.astype(old.dtype) * (new - old))


def _statistics(state: TrainState, follow: jax.Array) -> Tree:
    """Those of the current weights before there is an average, then the ones measured last."""
    return jax.tree.map(
        lambda old, new: jnp.where(follow, new, old),
        state.averaged["collections"],
        state.collections,
    )
