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
        feeder: of the examples of its steps.
        learning_rate: step -> rate.

    Args:
        experiment: what is trained.
        number: of the phase, from 0.
    """

    def __init__(self, experiment: Experiment, number: int):
        self.phase, self._average = experiment.phases[number], experiment.average
        target = experiment.layout.placed(experiment.state_shapes(number))
        self._shardings = jax.tree.map(lambda leaf: leaf.sharding, target)
        pipeline = experiment.train_pipeline
        self.program = compile_train(
            self.phase.step,
            pipeline.prepare,
            experiment.layout,
            target,
            pipeline.resident,
            pipeline.feed_shapes(),
        )
        self.compile_seconds = self.program.compile_seconds
        self.feeder, self.learning_rate = pipeline, experiment.learning_rate
        self._refit = experiment.refit() if STATISTICS in target.collections else None
        if self._refit is not None:
            self.compile_seconds += self._refit.compile(evaluated_parts(target)).compile_seconds

    def enter(self, state: TrainState) -> TrainState:
        """The state before its first step, from the last one of the phase before, given away."""
        enter = jax.jit(self.phase.enter, out_shardings=self._shardings, donate_argnums=0)
        return enter(state)

    def settle(self, state: TrainState, went_on: Callable[[], None] = lambda: None) -> TrainState:
        """The state with statistics of averaged weights measured anew, where that is due.

        Args:
            state: as it was trained.
            went_on: called again and again meanwhile.
        """
        begins = self._average.refit_from_step
        if self._refit is None or begins is None or int(jax.device_get(state.step)) < begins:
            return state
        return with_statistics(state, {STATISTICS: self._refit(evaluated_parts(state), went_on)})
