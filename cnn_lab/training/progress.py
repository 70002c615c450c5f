"""Where a run is, and the steps at which it logs, evaluates and saves."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from cnn_lab.training.monitor import PlateauState, SelectionState
from cnn_lab.training.state import TrainState


@dataclasses.dataclass
class Progress:
    """The host's part of what continues a run, beside the `TrainState`; in every checkpoint.

    Attributes:
        step: updates made.
        sums: training metrics since the last row, name -> [sum, count].
        selection: best value so far and patience used up.
        plateau: factor that the learning rate was lowered to, and patience used up.
        seconds: wall time of training steps, evaluations and saves left out, over all sessions.
        eval_pending: this step's evaluation was interrupted, and is what comes next.
        phase: number of the phase that the run is in (`training/phases.py`).
    """

    step: int = 0
    sums: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    selection: SelectionState = dataclasses.field(default_factory=SelectionState)
    plateau: PlateauState = dataclasses.field(default_factory=PlateauState)
    seconds: float = 0.0
    eval_pending: bool = False
    phase: int = 0

    def add(self, metrics: Mapping[str, tuple[float, float]]) -> None:
        """Adds the (sum, count) of a step's metrics to those since the last row."""
        for name, (total, count) in metrics.items():
            sums = self.sums.setdefault(name, [0.0, 0.0])
            sums[0] += total
            sums[1] += count

    def means(self) -> dict[str, float]:
        """Mean of every training metric since the last row."""
        return {name: total / count for name, (total, count) in self.sums.items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Progress":
        """Reads back `dataclasses.asdict`."""
        selection = SelectionState(**values["selection"])
        plateau = PlateauState.from_json(values["plateau"])
        return cls(**{**values, "selection": selection, "plateau": plateau})


@dataclasses.dataclass(frozen=True)
class Intervals:
    """Steps at which a run logs, evaluates and saves.

    Attributes:
        steps_per_epoch: ceil(examples / batch size).
        num_epochs: passes over the data.
        log_every_steps: steps between training rows.
        evaluate_every_epochs: epochs between evaluations; the last epoch is always evaluated.
        save_every_steps: steps between saves besides the ones after evaluations.
        end_step: updates made when the phase ends; None where it is the whole run.
        hook_steps: updates made when the loop's hooks are called.
    """

    steps_per_epoch: int
    num_epochs: int
    log_every_steps: int
    evaluate_every_epochs: int
    save_every_steps: int | None = None
    end_step: int | None = None
    hook_steps: tuple[int, ...] = ()

    @property
    def last_step(self) -> int:
        """Updates made when the phase ends."""
        return self.total_steps if self.end_step is None else self.end_step

    @property
    def total_steps(self) -> int:
        """Updates made when the whole run ends."""
        return self.steps_per_epoch * self.num_epochs

    def evaluates_at(self, step: int) -> bool:
        """Whether the validation split is evaluated after `step` updates."""
        every = self.steps_per_epoch * self.evaluate_every_epochs
        return step % every == 0 or step == self.total_steps

    def logs_at(self, step: int) -> bool:
        """Whether a training row is written after `step` updates."""
        return step % self.log_every_steps == 0 or self.evaluates_at(step)

    def saves_at(self, step: int) -> bool:
        """Whether a checkpoint is written after `step` updates."""
        every = self.save_every_steps
        return self.evaluates_at(step) or (every is not None and step % every == 0)

    def next_stop(self, step: int, max_steps: int) -> int:
        """First step after `step`, at most `max_steps` later, at which something happens."""
        last = min(step + max_steps, self.last_step)
        stops = (
            s
            for s in range(step + 1, last)
            if self.logs_at(s) or self.saves_at(s) or s in self.hook_steps
        )
        return next(stops, last)


@runtime_checkable
class Checkpointer(Protocol):
    """Saves the state of a run (`cnn_lab.checkpoint.writer.Checkpoints`)."""

    def save(self, state: TrainState, record: dict[str, Any], *, best_step: int | None) -> None:
        """Starts saving; a step that is saved already is skipped."""
        ...

    def amend(self, step: int, record: dict[str, Any], *, best_step: int | None) -> None:
        """Replaces the record of a checkpoint."""
        ...

    def wait(self) -> None:
        """Waits until everything is on disk."""
        ...
