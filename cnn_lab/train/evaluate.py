"""Metrics of a whole split: every example exactly once, whatever the batch size and devices."""

import math
import time
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import jax
import numpy as np

from cnn_lab.core.arrays import Tree
from cnn_lab.core.errors import TrainingError
from cnn_lab.distributed.mesh import Layout
from cnn_lab.train.dispatch import Prepare, Program, compile_evaluate
from cnn_lab.train.step import Task
from cnn_lab.train.steps_per_call import Pace


@runtime_checkable
class EvaluationFeeder(Protocol):
    """What an evaluation needs of an input pipeline over one split, in order."""

    resident: Tree
    max_steps: int
    prepare: Prepare

    def feed(self, first_step: int, num_steps: int) -> Tree:
        """Feeds of consecutive steps."""
        ...

    def feed_shapes(self) -> Tree:
        """Shapes of a feed."""
        ...


class EvaluationInterrupted(Exception):  # noqa: N818 - no error
    """Someone asked to stop before every example was seen."""


STEPS_TOGETHER = 16  # of a call, where several processes evaluate


class Evaluator:
    """Evaluates variables on one split; compiles on first use.

    Args:
        apply: (variables, images, train=False) -> outputs.
        task: per-example metrics.
        feeder: the split, in order, the tail filled up with examples of weight 0.
        num_examples: size of the split.
        layout: devices; they must divide the batch size.
    """

    def __init__(
        self,
        apply: Callable[..., Tree],
        task: Task,
        feeder: EvaluationFeeder,
        *,
        num_steps: int,
        num_examples: int,
        layout: Layout,
    ):
        self._make = lambda variables: compile_evaluate(
            apply, task, feeder.prepare, layout, variables, feeder.resident, feeder.feed_shapes()
        )
        self._feeder = feeder
        self._num_steps = num_steps
        self._num_examples = num_examples
        self._layout = layout
        self._pace = Pace(feeder.max_steps)
        self._program: Program | None = None

    def compile(self, variables: Tree) -> Program:
        """Compiles for variables of these shapes, once."""
        if self._program is None:
            self._program = self._make(variables)
        return self._program

    def __call__(
        self, variables: Tree, interrupted: Callable[[], bool] = lambda: False
    ) -> dict[str, float]:
        """Returns the mean of every metric over the split.

        Args:
            variables: parameters and statistics.
            interrupted: whether someone asked to stop; asked about every second, or every 16 steps
                where several processes evaluate, all of which then answer alike.

        Raises:
            EvaluationInterrupted: someone did.
            TrainingError: examples were counted twice or not at all; a bug, not a mistake.
        """
        program, feeder = self.compile(variables), self._feeder
        sums: dict[str, list[float]] = {}
        counts: dict[str, list[float]] = {}
        first = 0
        while first < self._num_steps:
            alone = self._layout.num_processes == 1
            if (alone or first % STEPS_TOGETHER == 0) and interrupted():
                raise EvaluationInterrupted
            # Each of several processes has a clock of its own, and all must make the same calls.
            most = self._pace.num_steps if alone else min(STEPS_TOGETHER, feeder.max_steps)
            num_steps = min(most, self._num_steps - first)
            feeds = self._layout.put_batches(feeder.feed(first, num_steps))
            number = self._layout.put_everywhere(np.int32(num_steps))
            start = time.perf_counter()
            history = jax.device_get(program.call(variables, feeder.resident, feeds, number))
            self._pace.measure(num_steps, start, time.perf_counter())
            for name, (of_steps, weights) in history.items():
                sums.setdefault(name, []).extend(of_steps[:num_steps].tolist())
                counts.setdefault(name, []).extend(weights[:num_steps].tolist())
            first += num_steps
        counted = {name: int(math.fsum(weights)) for name, weights in counts.items()}
        if any(count != self._num_examples for count in counted.values()):
            raise TrainingError(
                f"The evaluation counted {counted} examples instead of {self._num_examples}."
            )
        return {name: exact_sum(sums[name]) / counted[name] for name in sums}


def exact_sum(values: list[float]) -> float:
    """The same wherever the steps were cut into calls."""
    return math.fsum(values) if np.isfinite(values).all() else math.nan
