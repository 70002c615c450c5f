"""The phases of a training: each is compiled, and run by a `TrainLoop`."""

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import suppress

import jax

from cnn_lab.checkpoint.writer import Checkpoints
from cnn_lab.core import trees
from cnn_lab.core.errors import CnnLabError
from cnn_lab.core.text import counted
from cnn_lab.distributed.processes import (
    Processes,
)
from cnn_lab.distributed.watchdog import Watchdog
from cnn_lab.experiment.experiment import Experiment
from cnn_lab.optim.kernels import weight_complexity
from cnn_lab.runs.linear_probe import fit_linear_probe
from cnn_lab.training.averaging import evaluated_parts, evaluated_variables, with_statistics
from cnn_lab.training.evaluate import Evaluator
from cnn_lab.training.loop import Outcome, TrainLoop
from cnn_lab.training.monitor import Monitor
from cnn_lab.training.progress import Progress
from cnn_lab.training.recalibration import STATISTICS
from cnn_lab.training.state import TrainState
from cnn_lab.training.stepper import Stepper, compile_train
from cnn_lab.workdir.preemption import StopSignals
from cnn_lab.workdir.training_log import TrainingLog


class CompiledPhase:
    """A phase of an experiment, by its number from 0, ready to run.

    Attributes:
        end_step: updates made when it ends.
        program: of its training steps.
        compile_seconds: of all its programs.
    """

    def __init__(
        self, experiment: Experiment, number: int, heartbeat: Callable[[], None] = lambda: None
    ):
        self._phase, self._average = experiment.phases[number], experiment.average
        self._heartbeat = heartbeat
        self.end_step = self._phase.end_step
        target = experiment.mesh.with_shardings(experiment.state_shapes(number))
        self._shardings = jax.tree.map(lambda leaf: leaf.sharding, target)
        loader = experiment.train_loader
        self.program = compile_train(
            self._phase.step,
            loader.prepare,
            experiment.mesh,
            target,
            loader.device_arrays,
            loader.raw_shapes(),
        )
        self.compile_seconds = self.program.compile_seconds
        self._recalibration = None
        if STATISTICS in target.collections:
            self._recalibration = experiment.recalibration()
        if self._recalibration is not None:
            compiled = self._recalibration.compile(evaluated_parts(target))
            self.compile_seconds += compiled.compile_seconds

    def enter(self, state: TrainState) -> TrainState:
        """The state before its first step, from the last one of the phase before, given away."""
        return jax.jit(self._phase.enter, out_shardings=self._shardings, donate_argnums=0)(state)

    def update_batch_stats(self, state: TrainState) -> TrainState:
        """The state with batch statistics of its averaged weights, where they must be measured."""
        first = self._average.recalibrate_from_step
        if self._recalibration is None or first is None or int(jax.device_get(state.step)) < first:
            return state
        statistics = self._recalibration(evaluated_parts(state), self._heartbeat)
        return with_statistics(state, {STATISTICS: statistics})


@dataclasses.dataclass
class Trainer:
    """Trains an experiment, phase after phase.

    Attributes:
        evaluator: None where nothing is held out.
        hook_steps: updates made when the hooks are called; the same in all processes, whose calls
            end there.
        hooks: observers of the loop, such as a profiler.
    """

    experiment: Experiment
    evaluator: Evaluator | None
    checkpoints: Checkpoints
    training_log: TrainingLog
    processes: Processes
    signals: StopSignals
    watchdog: Watchdog
    hook_steps: tuple[int, ...] = ()
    hooks: Sequence[Callable[[int], None]] = ()

    def train(
        self, state: TrainState, progress: Progress, phase: CompiledPhase, num_parameters: int
    ) -> Outcome:
        """Trains from `progress` on, in the phase that it is in and those after it."""
        outcome = self._loop(phase).run(state, progress)
        while outcome.status == "phase ended":
            progress = outcome.progress
            progress.phase += 1
            phase = CompiledPhase(self.experiment, progress.phase, self.watchdog.heartbeat)
            self.watchdog.heartbeat()
            state = phase.enter(outcome.state)
            number = trees.count(state.params)
            self.training_log.log(
                f"From step {progress.step + 1} {counted(number, 'parameter')} of "
                f"{num_parameters:,} are trained; compiled in {phase.compile_seconds:.1f} s."
            )
            outcome = self._loop(phase).run(state, progress)
        return outcome

    def fit_linear_probe(self, state: TrainState, progress: Progress) -> Outcome:
        """Fits the output layer in place of a training in steps."""
        return fit_linear_probe(
            self.experiment,
            state,
            progress,
            evaluate=self.evaluate,
            checkpoints=self.checkpoints,
            training_log=self.training_log,
            stop_requested=self.signals.received,
        )

    def _loop(self, phase: CompiledPhase) -> TrainLoop:
        experiment, components = self.experiment, self.experiment.components
        return TrainLoop(
            stepper=Stepper(
                phase.program,
                experiment.train_loader,
                experiment.mesh,
                self.signals.received,
                self.watchdog.heartbeat,
            ),
            intervals=dataclasses.replace(
                experiment.intervals, end_step=phase.end_step, hook_steps=self.hook_steps
            ),
            evaluate=self.evaluate if self.evaluator else None,
            monitor=Monitor(components.selection, components.plateau),
            update_batch_stats=phase.update_batch_stats,
            checkpoints=self.checkpoints,
            metadata=experiment.network.metadata(),
            training_log=self.training_log,
            learning_rate=experiment.learning_rate,
            diagnose=lambda state, step: experiment.explain_non_finite(state, step, self._saved()),
            hooks=self.hooks,
        )

    def evaluate(self, state: TrainState) -> dict[str, float]:
        """Validation metrics of a state."""
        assert self.evaluator is not None
        variables = evaluated_variables(state)
        metrics = self.evaluator(variables, self._stop_requested)
        if self.experiment.config.evaluate.weight_complexity:
            counts = jax.device_get(weight_complexity(variables["params"]))
            metrics |= {f"weights_{name}": float(count) for name, count in counts.items()}
        return metrics

    def _stop_requested(self) -> bool:
        """Whether someone asked any of the processes to stop."""
        self.watchdog.heartbeat()
        return any(self.processes.all_gather(self.signals.received()))

    def _saved(self) -> str:
        """A clause on the checkpoints of a run that is about to fail."""
        steps: list[int] = []
        with suppress(CnnLabError):
            self.checkpoints.wait()
        with suppress(CnnLabError):  # also where this process alone has failed: all call this
            steps = self.checkpoints.steps()
        if steps:
            return "the checkpoints saved before are intact."
        return "no checkpoint had been saved before."
