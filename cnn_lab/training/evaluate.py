"""Metrics and outputs over a whole split: every example exactly once, in the split's order.

Neither the batch size nor the number of devices changes a result; the tail of the last batch is
filled up with examples of weight 0.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32

from cnn_lab.core import trees
from cnn_lab.core.arrays import Images, Tree
from cnn_lab.core.errors import TrainingError
from cnn_lab.data.loaders.loader import Loader
from cnn_lab.data.source import Labels
from cnn_lab.distributed.mesh import DeviceMesh
from cnn_lab.tasks.metrics import example_weights, weighted_pairs
from cnn_lab.tasks.task import Task, last_logits
from cnn_lab.training.stepper import (
    Program,
    StepsPerCall,
    batch_at,
    compile_over_batches,
    empty_history,
    traced_once,
    with_row,
)
from cnn_lab.training.views import View, whole

MAX_OUTPUT_BYTES = 64 * 2**20  # of one call
STEPS_TOGETHER = 16  # of a call, where several processes evaluate


class EvaluationInterrupted(Exception):  # noqa: N818 - no error
    """Someone asked to stop before every example was seen."""


class Evaluator:
    """Mean metrics of variables over one split; compiles on first use, or ahead of it.

    Args:
        apply: (variables, images, train=False) -> outputs.
        task: per-example metrics.
        loader: one pass over the split.
        mesh: devices; they must divide the batch size.
    """

    def __init__(self, apply: Callable[..., Tree], task: Task, loader: Loader, mesh: DeviceMesh):
        self._apply, self._task, self._loader, self._mesh = apply, task, loader, mesh
        self._steps_per_call = StepsPerCall(loader.max_steps)
        self._program: Future[Program] | None = None

    def compile(self, variables: Tree) -> Future[Program]:
        """Traces for variables of these shapes and begins to compile, once; see `stepper.py`."""

        def pairs_of(variables: Tree, batch: Tree) -> Tree:
            outputs = self._apply(variables, batch["image"], train=False)
            return weighted_pairs(self._task.metrics(outputs, batch), example_weights(batch))

        if self._program is None:
            self._program = compile_evaluate(pairs_of, self._loader, self._mesh, variables)
        return self._program

    def __call__(
        self, variables: Tree, interrupted: Callable[[], bool] = lambda: False
    ) -> dict[str, float]:
        """The mean of every metric over the split.

        Args:
            variables: parameters and statistics.
            interrupted: whether someone asked to stop; called about every second, or every 16 steps
                where several processes evaluate, all of which then answer alike.

        Raises:
            EvaluationInterrupted: someone did.
        """
        compiled = self.compile(variables)
        # Several processes wait alike, so that they call `interrupted` equally often.
        while self._mesh.num_processes == 1 and not wait([compiled], timeout=0.2).done:
            if interrupted():
                raise EvaluationInterrupted
        program = compiled.result().call
        sums: dict[str, list[float]] = {}
        counts: dict[str, list[float]] = {}
        loader, mesh = self._loader, self._mesh
        calls = _calls(program, variables, loader, mesh, self._steps_per_call, interrupted)
        for history in calls:
            for name, (step_sums, step_counts) in history.items():
                sums.setdefault(name, []).extend(step_sums.tolist())
                counts.setdefault(name, []).extend(step_counts.tolist())
        counted = {name: int(math.fsum(weights)) for name, weights in counts.items()}
        num_examples = len(self._loader.sampler.indices)
        if any(count != num_examples for count in counted.values()):
            problem = f"The evaluation counted {counted} examples instead of {num_examples}."
            raise TrainingError(problem, found=counted, allowed=str(num_examples))
        means = {name: _exact_sum(sums[name]) / counted[name] for name in sums}
        return self._task.summarize(means)


@dataclasses.dataclass(frozen=True)
class SplitPredictions:
    """The outputs of a network for a split, a row an example in the split's order.

    Attributes:
        outputs: [n k], of a classifier logits; over several views the task's average of theirs.
        labels: [n], or [n d] numbers.
        metrics: the task's metrics of these outputs.
    """

    outputs: Float32[np.ndarray, "n k"]
    labels: Labels
    metrics: dict[str, float]


class SplitPredictor:
    """Predictions for a whole split; compiles on first use, once for all weights.

    Args:
        apply, task, loader, mesh: as in `Evaluator`.
        views: normalised images -> normalised images that the network sees; the task averages
            the outputs of all of them.
        max_bytes: of the outputs that one call may return, as far as one step allows.
    """

    def __init__(
        self,
        apply: Callable[..., Any],
        task: Task,
        loader: Loader,
        mesh: DeviceMesh,
        *,
        views: Sequence[View] = (whole,),
        max_bytes: int = MAX_OUTPUT_BYTES,
    ):
        self._apply, self._task, self._loader, self._mesh = apply, task, loader, mesh
        self._views, self._max_bytes = views, max_bytes
        self._program: Program | None = None
        self._steps_per_call = StepsPerCall(1)

    def __call__(self, variables: Tree) -> SplitPredictions:
        """Runs the split through the network once."""
        program = self.compile(variables).call
        outputs, labels, sums = [], [], {}
        loader, mesh = self._loader, self._mesh
        for rows, pairs in _calls(program, variables, loader, mesh, self._steps_per_call):
            real = rows["weight"] > 0
            outputs.append(rows["outputs"][real])
            labels.append(rows["label"][real])
            for name, (step_sums, _) in pairs.items():
                sums.setdefault(name, []).extend(step_sums.tolist())
        num_seen, num_examples = sum(map(len, labels)), len(self._loader.sampler.indices)
        if num_seen != num_examples:
            problem = (
                f"The outputs of {num_seen} examples were collected instead of {num_examples}."
            )
            raise TrainingError(problem, found=num_seen, allowed=str(num_examples))
        means = {name: _exact_sum(values) / num_seen for name, values in sums.items()}
        metrics = self._task.summarize(means)
        return SplitPredictions(np.concatenate(outputs), np.concatenate(labels), metrics)

    def compile(self, variables: Tree) -> Program:
        """Compiles (variables, device_arrays, raw_batches, num_steps) -> (rows, pairs), once.

        Rows are `outputs`, `label` and `weight` [steps n ...], pairs those of the metrics [steps].
        """
        if self._program is not None:
            return self._program
        loader, outputs_of = self._loader, _over_views(self._apply, self._task, self._views)

        def rows_of(variables: Tree, batch: Tree) -> tuple[Tree, Tree]:
            outputs = outputs_of(variables, batch["image"])
            pairs = weighted_pairs(self._task.metrics(outputs, batch), example_weights(batch))
            return {"outputs": outputs, "label": batch["label"], "weight": batch["weight"]}, pairs

        def first(variables: Tree, device_arrays: Tree, raw_batches: Tree) -> Tree:
            batch = loader.prepare(device_arrays, batch_at(raw_batches, 0), jax.random.key(0))
            return rows_of(variables, batch)[0]

        row = jax.eval_shape(first, variables, loader.device_arrays, loader.raw_shapes())
        max_steps = max(1, min(loader.max_steps, self._max_bytes // trees.num_bytes(row)))
        self._steps_per_call = StepsPerCall(max_steps)
        # Rows stay where they were computed.
        out_shardings = (self._mesh.batches, self._mesh.replicated)
        self._program = compile_evaluate(
            rows_of, loader, self._mesh, variables, max_steps, out_shardings
        ).result()
        return self._program


def compile_evaluate(
    outputs_of: Callable[[Tree, Tree], Tree],
    loader: Loader,
    mesh: DeviceMesh,
    variables: Tree,
    max_steps: int | None = None,
    out_shardings: Any = None,
) -> Future[Program]:
    """Compiles (variables, device_arrays, raw_batches, num_steps) -> outputs [max_steps ...].

    Args:
        outputs_of: (variables, batch) -> the outputs of a step.
        loader: of the batches.
        mesh: devices.
        variables: a tree or its shapes.
        max_steps: by default as many as a stack holds.
        out_shardings: by default replicated.
    """

    def evaluate(variables, device_arrays, raw_batches, num_steps):
        def prepared_step(variables, device_arrays, raw_batches, index) -> Tree:
            raw_batch = batch_at(raw_batches, index)
            return outputs_of(
                variables, loader.prepare(device_arrays, raw_batch, jax.random.key(0))
            )

        inputs = (variables, device_arrays, raw_batches)
        one, shapes = traced_once(prepared_step, *inputs, jnp.zeros((), jnp.int32))
        history = empty_history(shapes, loader.max_steps if max_steps is None else max_steps)
        return jax.lax.fori_loop(
            0, num_steps, lambda i, h: with_row(h, i, one(*inputs, i)), history
        )

    return compile_over_batches(
        evaluate,
        mesh,
        variables,
        loader.device_arrays,
        loader.raw_shapes(),
        num_indices=1,
        out_shardings=out_shardings or mesh.replicated,
    )


def _calls(
    program: Callable[..., Tree],
    variables: Tree,
    loader: Loader,
    mesh: DeviceMesh,
    steps_per_call: StepsPerCall,
    interrupted: Callable[[], bool] = lambda: False,
) -> Iterator[Tree]:
    """Runs all steps of a split and yields the results of each call [steps ...], on the host."""
    first, single_process = 0, mesh.num_processes == 1
    while first < loader.sampler.steps_per_epoch:
        if (single_process or first % STEPS_TOGETHER == 0) and interrupted():
            raise EvaluationInterrupted
        # Each of several processes has a clock of its own, and all must make the same calls.
        max_steps = min(STEPS_TOGETHER, loader.max_steps)
        if single_process:
            max_steps = steps_per_call.num_steps
        num_steps = min(max_steps, loader.sampler.steps_per_epoch - first)
        raw_batches = mesh.put(loader.load(first, num_steps), mesh.batches)
        number = mesh.put(np.int32(num_steps))
        start = time.perf_counter()
        results = jax.device_get(program(variables, loader.device_arrays, raw_batches, number))
        steps_per_call.measure(num_steps, start, time.perf_counter())
        yield jax.tree.map(lambda stack, count=num_steps: stack[:count], results)
        first += num_steps


def _exact_sum(values: list[float]) -> float:
    """A sum that is the same wherever the steps were cut into calls."""
    return math.fsum(values) if np.isfinite(values).all() else math.nan


def _over_views(apply: Callable[..., Any], task: Task, views: Sequence[View]) -> Callable[..., Any]:
    """(variables, images) -> float32 outputs [n k] of one view, or the average of many."""

    def outputs_of(variables, images: Images):
        return last_logits(apply(variables, images, train=False)).astype(jnp.float32)

    def over_views(variables, images: Images):
        if len(views) == 1:
            return outputs_of(variables, views[0](images))
        stacked = jnp.stack([view(images) for view in views])
        # A loop, so that the network is compiled once and holds the maps of one view at a time.
        return task.average(jax.lax.map(lambda seen: outputs_of(variables, seen), stacked))

    return over_views
