"""Metrics of a whole split: every example exactly once, whatever the batch size and devices."""

import math
import time
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import jax
import numpy as np

from cnn_lab.core.arrays import Tree
from cnn_lab.core.errors import TrainingError
from cnn_lab.distributed.mesh import DeviceMesh
from cnn_lab.tasks.task import Task
from cnn_lab.train.dispatch import Prepare, Program, compile_evaluate
from cnn_lab.train.steps_per_call import StepsPerCall


@runtime_checkable
class EvaluationLoader(Protocol):
    """What an evaluation needs of an input pipeline over one split, in order."""

    in_memory: Tree
    max_steps: int
    prepare: Prepare

    def load(self, first_step: int, num_steps: int) -> Tree:
        """Feeds of consecutive steps."""
        ...

    def raw_shapes(self) -> Tree:
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
        loader: the split, in order, the tail filled up with examples of weight 0.
        num_examples: size of the split.
        mesh: devices; they must divide the batch size.
    """

    def __init__(
        self,
        apply: Callable[..., Tree],
        task: Task,
        loader: EvaluationLoader,
        *,
        num_steps: int,
        num_examples: int,
        mesh: DeviceMesh,
    ):
        self._make = lambda variables: compile_evaluate(
            apply, task, loader.prepare, mesh, variables, loader.in_memory, loader.raw_shapes()
        )
        self._loader = loader
        self._num_steps = num_steps
        self._num_examples = num_examples
        self._mesh = mesh
        self._steps_per_call = StepsPerCall(loader.max_steps)
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
        program, loader = self.compile(variables), self._loader
        sums: dict[str, list[float]] = {}
        counts: dict[str, list[float]] = {}
        first = 0
        while first < self._num_steps:
            alone = self._mesh.num_processes == 1
            if (alone or first % STEPS_TOGETHER == 0) and interrupted():
                raise EvaluationInterrupted
            # Each of several processes has a clock of its own, and all must make the same calls.
            most = (
                self._steps_per_call.num_steps if alone else min(STEPS_TOGETHER, loader.max_steps)
            )
            num_steps = min(most, self._num_steps - first)
            raw_batches = self._mesh.put_batches(loader.load(first, num_steps))
            number = self._mesh.put_replicated(np.int32(num_steps))
            start = time.perf_counter()
            history = jax.device_get(program.call(variables, loader.in_memory, raw_batches, number))
            self._steps_per_call.measure(num_steps, start, time.perf_counter())
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
