"""The training loop: run steps, then log, evaluate and save at the steps of the intervals."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from cnn_lab.training.evaluate import EvaluationInterrupted
from cnn_lab.training.monitor import Monitor
from cnn_lab.training.progress import Checkpointer, Intervals, Progress
from cnn_lab.training.state import TrainState
from cnn_lab.training.stepper import NonFiniteStepError, Stepper
from cnn_lab.workdir.training_log import TrainingLog

Status = Literal["finished", "stopped early", "interrupted", "phase ended"]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a training ended."""

    status: Status
    state: TrainState
    progress: Progress


@dataclasses.dataclass
class TrainLoop:
    """The loop of one phase.

    Attributes:
        evaluate: validation metrics, or `EvaluationInterrupted`; None where nothing is held out.
        update_batch_stats: measures batch statistics of averaged weights before they are used.
        metadata: JSON values that go into every checkpoint.
        learning_rate: step -> rate, for the rows.
        diagnose: (state before a step that was not finite, the step) -> the error to raise.
        hooks: observers, called with the updates made; they see a step and change nothing.
    """

    stepper: Stepper
    intervals: Intervals
    evaluate: Callable[[TrainState], dict[str, float]] | None
    monitor: Monitor
    update_batch_stats: Callable[[TrainState], TrainState]
    checkpoints: Checkpointer
    metadata: Mapping[str, Any]
    training_log: TrainingLog
    learning_rate: Callable[[int], float]
    diagnose: Callable[[TrainState, int], Exception]
    hooks: Sequence[Callable[[int], None]] = ()

    def run(self, state: TrainState, progress: Progress) -> Outcome:
        """Trains until the phase ends, the monitor stops it, or someone asks to stop."""
        intervals, stepper, log = self.intervals, self.stepper, self.training_log
        updated_at = progress.step  # the state of every checkpoint has its batch statistics
        # A pending evaluation may have lowered the rate after its state was saved.
        state = self.monitor.lower_rate(state, progress)
        if self.evaluate is not None and progress.eval_pending:
            state = self._evaluate(state, progress)
            if not progress.eval_pending:
                self._save(state, progress, amend=True)
        while not self._ended(progress) and not stepper.should_stop:
            if progress.step in intervals.hook_steps:
                self._collect(state, progress, wait=True)
                for hook in self.hooks:
                    hook(progress.step)
            started, first = time.perf_counter(), progress.step
            stop = intervals.next_stop(first, stepper.steps_per_call)
            next_state = stepper.run(state, first, stop)
            if next_state is None:
                break
            state, progress.step = next_state, stop
            log.waited_for_data(stepper.wait_seconds)
            wait = intervals.logs_at(stop) or intervals.saves_at(stop)
            self._collect(state, progress, wait=wait)
            progress.seconds += time.perf_counter() - started
            if intervals.logs_at(stop):
                rate = self.learning_rate(stop - 1) * progress.plateau.scale
                log.training_row(stop, {**progress.means(), "learning_rate": rate})
                progress.sums = {}
            with log.paused():
                if intervals.evaluates_at(stop):
                    state, updated_at = self.update_batch_stats(state), stop
                    if self.evaluate is not None:
                        state = self._evaluate(state, progress)
                if intervals.saves_at(stop):
                    if updated_at != stop:
                        state, updated_at = self.update_batch_stats(state), stop
                    self._save(state, progress)
        self._collect(state, progress, wait=True)
        status = self._status(progress)
        if updated_at != progress.step and status in ("interrupted", "phase ended"):
            state = self.update_batch_stats(state)
        if status == "interrupted":
            self._save(state, progress)
        self.checkpoints.wait()
        return Outcome(status, state, progress)

    def _ended(self, progress: Progress) -> bool:
        done = progress.step >= self.intervals.last_step or progress.selection.stopped
        return done and not progress.eval_pending

    def _status(self, progress: Progress) -> Status:
        if not self._ended(progress):
            return "interrupted"
        if progress.step >= self.intervals.total_steps:
            return "finished"
        if progress.selection.stopped:
            return "stopped early"
        return "interrupted" if self.stepper.should_stop else "phase ended"

    def _collect(self, state: TrainState, progress: Progress, *, wait: bool) -> None:
        try:
            steps = self.stepper.collect(wait=wait)
        except NonFiniteStepError as error:
            raise self.diagnose(state, error.step) from None
        for metrics in steps:
            progress.add(metrics)
        if steps:
            num_examples = sum(metrics["loss"][1] for metrics in steps)
            self.training_log.advance(self.stepper.finished_step, num_examples, progress.means())

    def _evaluate(self, state: TrainState, progress: Progress) -> TrainState:
        """Evaluates, or leaves the evaluation to the next session; may lower the learning rate."""
        assert self.evaluate is not None
        progress.eval_pending = True
        try:
            metrics = self.evaluate(state)
        except EvaluationInterrupted:
            self.stepper.request_stop()
            return state
        progress.eval_pending = False
        self.training_log.validation_row(progress.step, metrics)
        self.monitor.update(progress, metrics, progress.step // self.intervals.steps_per_epoch)
        return self.monitor.lower_rate(state, progress)

    def _save(self, state: TrainState, progress: Progress, *, amend: bool = False) -> None:
        record = {"progress": dataclasses.asdict(progress), "metadata": dict(self.metadata)}
        best_step = progress.selection.best_step
        if amend:  # the state is on disk
            self.checkpoints.amend(progress.step, record, best_step=best_step)
        else:
            self.checkpoints.save(state, record, best_step=best_step)
