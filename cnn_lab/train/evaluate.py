"""Metrics of a whole split: every example exactly once, whatever the batch size and devices."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import jax
from jax.sharding import Mesh

from cnn_lab.core.errors import TrainingError
from cnn_lab.core.shapes import Tree
from cnn_lab.train.dispatch import Prepare, Program, compile_evaluate
from cnn_lab.train.mesh import stacked_batches
from cnn_lab.train.step import Task


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


class Evaluator:
    """Evaluates variables on one split; compiles on first use.

    Args:
        apply: (variables, images, train=False) -> outputs.
        task: per-example metrics.
        feeder: the split, in order, the tail filled up with examples of weight 0.
        num_examples: size of the split.
        mesh: devices; they must divide the batch size.
    """

    def __init__(
        self,
        apply: Callable[..., Tree],
        task: Task,
        feeder: EvaluationFeeder,
        *,
        num_steps: int,
        num_examples: int,
        mesh: Mesh,
    ):
        self._make = lambda variables: compile_evaluate(
            apply, task, feeder.prepare, mesh, variables, feeder.resident, feeder.feed_shapes()
        )
        self._feeder = feeder
        self._num_steps = num_steps
        self._num_examples = num_examples
        self._sharding = stacked_batches(mesh)
        self._program: Program | None = None

    def compile(self, variables: Tree) -> Program:
        """Compiles for variables of these shapes, once."""
        if self._program is None:
            self._program = self._make(variables)
        return self._program

    def __call__(self, variables: Tree) -> dict[str, float]:
        """Returns the mean of every metric over the split.

        Raises:
            TrainingError: examples were counted twice or not at all; a bug, not a mistake.
        """
        program, feeder = self.compile(variables), self._feeder
        totals: dict[str, list[float]] = {}
        stride = feeder.max_steps
        for first in range(0, self._num_steps, stride):
            feeds = feeder.feed(first, min(stride, self._num_steps - first))
            feeds = jax.device_put(feeds, self._sharding)
            sums = jax.device_get(program.call(variables, feeder.resident, feeds))
            for name, (total, count) in sums.items():
                entry = totals.setdefault(name, [0.0, 0.0])
                entry[0] += float(total)
                entry[1] += float(count)
        counted = {name: int(count) for name, (_, count) in totals.items()}
        if any(count != self._num_examples for count in counted.values()):
            raise TrainingError(
                f"The evaluation counted {counted} examples instead of {self._num_examples}."
            )
        return {name: total / count for name, (total, count) in totals.items()}
