"""The decisions that follow from a validation metric: best weights, early stop, learning rate.

The rules run on the host, between two calls of the compiled program. The factor of the learning
rate after a plateau is part of the optimizer's state (`optim/assemble.py`).
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from cnn_lab.optim.assemble import with_rate_scale
from cnn_lab.training.state import TrainState

if TYPE_CHECKING:
    from cnn_lab.training.progress import Progress


@dataclasses.dataclass(frozen=True)
class Selection:
    """The metric that decides, its direction, and the patience of early stopping.

    Attributes:
        metric: name of a validation metric.
        mode: `max` or `min`.
        check_every_epochs: epochs between checks; None never stops early.
        patience: checks in a row without improvement after which training stops, at least 1.
        min_delta: smallest change that counts as an improvement for stopping.
    """

    metric: str
    mode: Literal["max", "min"]
    check_every_epochs: int | None = None
    patience: int = 1
    min_delta: float = 0.0


@dataclasses.dataclass(frozen=True)
class SelectionState:
    """State of a `Selection`; saved in every checkpoint.

    Attributes:
        best_value: best value of the metric, None before the first evaluation.
        best_step: step of that evaluation.
        reference: value that the next check must improve on by `min_delta`.
        stale_checks: checks in a row without improvement.
        stopped: patience is used up.
    """

    best_value: float | None = None
    best_step: int | None = None
    reference: float | None = None
    stale_checks: int = 0
    stopped: bool = False


def update_selection(
    state: SelectionState, rule: Selection, value: float, *, step: int, epoch: int
) -> SelectionState:
    """The state after an evaluation at `step` updates and `epoch` epochs.

    A value that is not finite never improves anything.
    """

    def better(new: float, old: float | None, by: float) -> bool:
        if not math.isfinite(new):
            return False
        return old is None or (new > old + by if rule.mode == "max" else new < old - by)

    best = (state.best_value, state.best_step)
    if better(value, state.best_value, 0.0):
        best = (value, step)
    reference, stale = state.reference, state.stale_checks
    if rule.check_every_epochs is not None and epoch % rule.check_every_epochs == 0:
        improved = better(value, reference, rule.min_delta)
        reference = value if improved else reference
        stale = 0 if improved else stale + 1
    stopped = rule.check_every_epochs is not None and stale >= rule.patience
    return SelectionState(*best, reference, stale, stopped)


@dataclasses.dataclass(frozen=True)
class Plateau:
    """The rule by which the learning rate is lowered.

    Attributes:
        watch: metric, direction, patience and smallest improvement.
        factor: of the rate, each time that patience is used up, in (0, 1).
        min_fraction: of the schedule's rate that is always left, in [0, 1].
    """

    watch: Selection
    factor: float
    min_fraction: float


@dataclasses.dataclass(frozen=True)
class PlateauState:
    """State of a `Plateau`; saved in every checkpoint.

    Attributes:
        scale: factor of the schedule's rate now.
        watched: best value, and evaluations without improvement since the last reduction.
    """

    scale: float = 1.0
    watched: SelectionState = dataclasses.field(default_factory=SelectionState)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "PlateauState":
        """Reads back `dataclasses.asdict`."""
        return cls(values["scale"], SelectionState(**values["watched"]))


def update_plateau(
    state: PlateauState, rule: Plateau, value: float, *, step: int, epoch: int
) -> PlateauState:
    """The state after an evaluation at `step` updates and `epoch` epochs."""
    watched = update_selection(state.watched, rule.watch, value, step=step, epoch=epoch)
    scale = state.scale
    if watched.stopped:
        scale = max(scale * rule.factor, rule.min_fraction)
        watched = dataclasses.replace(watched, stale_checks=0, stopped=False)
    return PlateauState(scale, watched)


@dataclasses.dataclass(frozen=True)
class Monitor:
    """The best weights, early stop and learning rate that follow from a validation metric."""

    selection: Selection
    plateau: Plateau | None = None

    def update(self, progress: "Progress", metrics: Mapping[str, float], epoch: int) -> None:
        """Takes the metrics of an evaluation into account."""
        value = metrics[self.selection.metric]
        progress.selection = update_selection(
            progress.selection, self.selection, value, step=progress.step, epoch=epoch
        )
        if self.plateau is not None:
            progress.plateau = update_plateau(
                progress.plateau, self.plateau, value, step=progress.step, epoch=epoch
            )

    @staticmethod
    def lower_rate(state: TrainState, progress: "Progress") -> TrainState:
        """The state with the learning rate that the plateau rule has arrived at."""
        # Only an optimizer whose rate is reduced has a place for the scale.
        if progress.plateau.scale == 1:
            return state
        return state.replace(opt_state=with_rate_scale(state.opt_state, progress.plateau.scale))
