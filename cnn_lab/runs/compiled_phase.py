"""The compiled programs of one phase of a training."""

from collections.abc import Callable

import jax

from cnn_lab.experiment.experiment import Experiment
from cnn_lab.train.averaging import evaluated_parts, with_statistics
from cnn_lab.train.recalibration import STATISTICS
from cnn_lab.train.state import TrainState
from cnn_lab.train.stepper import compile_train


class CompiledPhase:
    """A phase of an experiment, ready to run.

    Attributes:
        end_step: updates made when it ends.
        program: of its training steps.
        compile_seconds: cost of compiling.

    Args:
        experiment: built, with a loader or the shapes of one.
        number: of the phase, from 0.
    """

    def __init__(self, experiment: Experiment, number: int):
        self._phase, self._average = experiment.phases[number], experiment.average
        self.end_step = self._phase.end_step
        target = experiment.mesh.with_shardings(experiment.state_shapes(number))
        self._shardings = jax.tree.map(lambda leaf: leaf.sharding, target)
        loader = experiment.train_loader
        self.program = compile_train(
            self._phase.step,
            loader.prepare,
            experiment.mesh,
            target,
            loader.in_memory,
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
        enter = jax.jit(self._phase.enter, out_shardings=self._shardings, donate_argnums=0)
        return enter(state)

    def update_batch_stats(
        self, state: TrainState, heartbeat: Callable[[], None] = lambda: None
    ) -> TrainState:
        """The state with batch statistics of its averaged weights, where they must be measured.

        Args:
            state: as it was trained.
            heartbeat: called again and again meanwhile.
        """
        first = self._average.recalibrate_from_step
        if self._recalibration is None or first is None or int(jax.device_get(state.step)) < first:
            return state
        statistics = self._recalibration(evaluated_parts(state), heartbeat)
        return with_statistics(state, {STATISTICS: statistics})
