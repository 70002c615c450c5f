"""The compiled programs of one part of a training."""

from collections.abc import Callable

import jax

from cnn_lab.experiment.experiment import Experiment
from cnn_lab.train.averaging import evaluated_parts, with_statistics
from cnn_lab.train.dispatch import compile_train
from cnn_lab.train.recalibration import STATISTICS
from cnn_lab.train.state import TrainState


class CompiledPhase:
    """A phase of an experiment, ready to run.

    Attributes:
        phase: what is trained, and until when.
        program: of its training steps.
        compile_seconds: what compiling cost.
        loader: of the examples of its steps.
        learning_rate: step -> rate.

    Args:
        experiment: what is trained.
        number: of the phase, from 0.
    """

    def __init__(self, experiment: Experiment, number: int):
        self.phase, self._average = experiment.phases[number], experiment.average
        target = experiment.mesh.with_shardings(experiment.state_shapes(number))
        self._shardings = jax.tree.map(lambda leaf: leaf.sharding, target)
        loader = experiment.train_loader
        self.program = compile_train(
            self.phase.step,
            loader.prepare,
            experiment.mesh,
            target,
            loader.in_memory,
            loader.raw_shapes(),
        )
        self.compile_seconds = self.program.compile_seconds
        self.loader, self.learning_rate = loader, experiment.learning_rate
        self._recalibration = (
            experiment.recalibration() if STATISTICS in target.collections else None
        )
        if self._recalibration is not None:
            self.compile_seconds += self._recalibration.compile(
                evaluated_parts(target)
            ).compile_seconds

    def enter(self, state: TrainState) -> TrainState:
        """The state before its first step, from the last one of the phase before, given away."""
        enter = jax.jit(self.phase.enter, out_shardings=self._shardings, donate_argnums=0)
        return enter(state)

    def update_batch_stats(
        self, state: TrainState, heartbeat: Callable[[], None] = lambda: None
    ) -> TrainState:
        """The state with statistics of averaged weights measured anew, where that is due.

        Args:
            state: as it was trained.
            heartbeat: called again and again meanwhile.
        """
        begins = self._average.recalibrate_from_step
        if (
            self._recalibration is None
            or begins is None
            or int(jax.device_get(state.step)) < begins
        ):
            return state
        return with_statistics(
            state, {STATISTICS: self._recalibration(evaluated_parts(state), heartbeat)}
        )
