"""Metrics and outputs over a whole split: every example exactly once, in the split's order.

Neither the batch size nor the number of devices changes a result; the tail of the last batch is
filled up with examples of weight 0.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32, Int32

from cnn_lab.core.arrays import Images, Tree
from cnn_lab.core.errors import ConfigError, TrainingError, lookup
from cnn_lab.data.loaders.loader import Loader
from cnn_lab.distributed.mesh import DeviceMesh
from cnn_lab.tasks.metrics import weighted_pairs
from cnn_lab.tasks.task import Task, last_logits
from cnn_lab.train.stepper import Program, StepsPerCall, compile_evaluate

View = Callable[[Images], Images]
PLACES = ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1))  # down and right, in shifts
TTA = {name: name.split("+") for name in ("none", "flip", "shifts", "flip+shifts")}


def whole(images: Images) -> Images:
    """The images as they are."""
    return images


def mirrored(images: Images) -> Images:
    """Left and right exchanged."""
    return images[:, :, ::-1]


def shifted(down: int, right: int) -> View:
    """Moves the content by whole pixels; the edge is repeated where nothing moves in."""

    def shift(images: Images) -> Images:
        height, width = images.shape[1:3]
        fill = max(abs(down), abs(right))
        edges = ((0, 0), (fill, fill), (fill, fill), (0, 0))
        top, left = fill - down, fill - right
        padded = jnp.pad(images, edges, mode="edge")
        return padded[:, top : top + height, left : left + width]

    return shift


def check_pixels(pixels: int, image_shape: Sequence[int]) -> None:
    """Refuses shifts that leave nothing of an image.

    Raises:
        ConfigError: they are not shorter than its sides.
    """
    if pixels >= min(image_shape[:2]):
        raise ConfigError(
            f"--tta_pixels is {pixels}, but the images have {image_shape[0]} x {image_shape[1]} "
            "pixels, of which nothing might be left; use fewer."
        )


def make_views(name: str, pixels: int) -> tuple[View, ...]:
    """The views of that name, the images as they are first.

    Args:
        name: in `TTA`.
        pixels: how far shifts go, at least 1.

    Raises:
        ConfigError: no such name, or shifts by less than a pixel.
    """
    parts = lookup(TTA, name, "test-time augmentation (--tta)")
    if pixels < 1:
        raise ConfigError(f"--tta_pixels must be at least 1; found {pixels}.")
    views: list[View] = [whole]
    if "shifts" in parts:
        views = [shifted(down * pixels, right * pixels) for down, right in PLACES]
    if "flip" in parts:
        views = [
            flipped
            for view in views
            for flipped in (view, lambda images, view=view: mirrored(view(images)))
        ]
    return tuple(views)


MAX_OUTPUT_BYTES = 64 * 2**20  # of one call
STEPS_TOGETHER = 16  # of a call, where several processes evaluate


class EvaluationInterrupted(Exception):  # noqa: N818 - no error
    """Someone asked to stop before every example was seen."""


class Evaluator:
    """Evaluates variables on one split; compiles on first use.

    Args:
        apply: (variables, images, train=False) -> outputs.
        task: per-example metrics.
        loader: one pass over the split.
        mesh: devices; they must divide the batch size.
    """

    def __init__(self, apply: Callable[..., Tree], task: Task, loader: Loader, mesh: DeviceMesh):
        self._apply, self._task, self._loader, self._mesh = apply, task, loader, mesh
        self._steps_per_call = StepsPerCall(loader.max_steps)
        self._program: Program | None = None

    def compile(self, variables: Tree) -> Program:
        """Compiles for variables of these shapes, once."""
        if self._program is None:
            loader = self._loader
            self._program = compile_evaluate(
                self._apply,
                self._task,
                loader.prepare,
                self._mesh,
                variables,
                loader.in_memory,
                loader.raw_shapes(),
            )
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
        call = self.compile(variables).call
        sums: dict[str, list[float]] = {}
        counts: dict[str, list[float]] = {}
        for history in _calls(
            call, variables, self._loader, self._mesh, self._steps_per_call, interrupted
        ):
            for name, (step_sums, step_counts) in history.items():
                sums.setdefault(name, []).extend(step_sums.tolist())
                counts.setdefault(name, []).extend(step_counts.tolist())
        counted = {name: int(math.fsum(weights)) for name, weights in counts.items()}
        num_examples = len(self._loader.sampler.indices)
        if any(count != num_examples for count in counted.values()):
            raise TrainingError(
                f"The evaluation counted {counted} examples instead of {num_examples}."
            )
        return {name: _exact_sum(sums[name]) / counted[name] for name in sums}


@dataclasses.dataclass(frozen=True)
class SplitPredictions:
    """The outputs of a classifier for a split, a row an example in the split's order.

    Attributes:
        logits: [n k]; over several views the logarithm of the mean of their probabilities, which
            are logits too.
        labels: [n].
        metrics: the task's metrics of these outputs.
    """

    logits: Float32[np.ndarray, "n k"]
    labels: Int32[np.ndarray, " n"]
    metrics: dict[str, float]


class SplitPredictor:
    """Predicts a whole split; compiles on first use, once for all weights.

    Args:
        apply: (variables, images, train=False) -> logits.
        task: per-example metrics.
        loader: one pass over the split.
        mesh: devices; they must divide the batch size.
        views: normalised images -> normalised images that the network sees; probabilities are
            averaged over all of them.
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
        self._program: Any = None
        self._steps_per_call = StepsPerCall(1)

    def __call__(self, variables: Tree) -> SplitPredictions:
        """Runs the split through the network once.

        Raises:
            TrainingError: examples were seen twice or not at all; a bug, not a mistake.
        """
        program = self.compile(variables)
        logits, labels, sums = [], [], {}
        for rows, pairs in _calls(
            program, variables, self._loader, self._mesh, self._steps_per_call
        ):
            real = rows["weight"] > 0
            logits.append(rows["logits"][real])
            labels.append(rows["label"][real])
            for name, (step_sums, _) in pairs.items():
                sums.setdefault(name, []).extend(step_sums.tolist())
        num_seen, num_examples = sum(map(len, labels)), len(self._loader.sampler.indices)
        if num_seen != num_examples:
            raise TrainingError(
                f"The outputs of {num_seen} examples were collected instead of {num_examples}."
            )
        metrics = {name: _exact_sum(values) / num_seen for name, values in sums.items()}
        return SplitPredictions(np.concatenate(logits), np.concatenate(labels), metrics)

    def compile(self, variables: Tree) -> Any:
        """The jitted (variables, in_memory, raw_batches, num_steps) -> (rows, sums), made once.

        Rows are `logits`, `label` and `weight` [steps n ...], sums those of the metrics [steps].
        """
        if self._program is not None:
            return self._program
        loader, logits_of = self._loader, _over_views(self._apply, self._views)

        def one(variables, in_memory, raw_batch) -> tuple[Tree, Tree]:
            batch = loader.prepare(in_memory, raw_batch, jax.random.key(0))
            logits = logits_of(variables, batch["image"])
            pairs = weighted_pairs(self._task.metrics(logits, batch), batch["weight"])
            return {"logits": logits, "label": batch["label"], "weight": batch["weight"]}, pairs

        raw_batch = jax.tree.map(
            lambda stack: jax.ShapeDtypeStruct(stack.shape[1:], stack.dtype), loader.raw_shapes()
        )
        shapes = jax.eval_shape(one, variables, loader.in_memory, raw_batch)
        step_bytes = sum(math.prod(s.shape) * s.dtype.itemsize for s in shapes[0].values())
        max_steps = max(1, min(loader.max_steps, self._max_bytes // step_bytes))

        def predict(variables, in_memory, raw_batches, num_steps):  # names its compiled program
            history = jax.tree.map(lambda s: jnp.zeros((max_steps, *s.shape), s.dtype), shapes)

            def body(index, history):
                raw_batch = jax.tree.map(lambda stack: stack[index], raw_batches)
                outputs = one(variables, in_memory, raw_batch)
                return jax.tree.map(lambda h, o: h.at[index].set(o), history, outputs)

            return jax.lax.fori_loop(0, num_steps, body, history)

        replicated, batches = self._mesh.replicated, self._mesh.batches
        self._steps_per_call = StepsPerCall(max_steps)
        self._program = jax.jit(
            predict,
            in_shardings=(
                self._mesh.shardings(variables),
                self._mesh.shardings_as_placed(loader.in_memory),
                batches,
                replicated,
            ),
            out_shardings=(batches, replicated),  # rows stay where they were computed
        )
        return self._program


def _calls(
    program: Callable[..., Tree],
    variables: Tree,
    loader: Loader,
    mesh: DeviceMesh,
    steps_per_call: StepsPerCall,
    interrupted: Callable[[], bool] = lambda: False,
) -> Iterator[Tree]:
    """Runs all steps of a split and yields the results of each call [steps ...], on the host.

    Raises:
        EvaluationInterrupted: `interrupted` was true before a call.
    """
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
        results = jax.device_get(program(variables, loader.in_memory, raw_batches, number))
        steps_per_call.measure(num_steps, start, time.perf_counter())
        yield jax.tree.map(lambda stack, count=num_steps: stack[:count], results)
        first += num_steps


def _exact_sum(values: list[float]) -> float:
    """A sum that is the same wherever the steps were cut into calls."""
    return math.fsum(values) if np.isfinite(values).all() else math.nan


def _over_views(apply: Callable[..., Any], views: Sequence[View]) -> Callable[..., Any]:
    """(variables, images) -> float32 logits of one view, or of the mean probabilities of many."""

    def logits_of(variables, images: Images):
        return last_logits(apply(variables, images, train=False)).astype(jnp.float32)

    def over_views(variables, images: Images):
        if len(views) == 1:
            return logits_of(variables, views[0](images))
        stacked = jnp.stack([view(images) for view in views])
        # A loop, so that the network is compiled once and holds the maps of one view at a time.
        logits = jax.lax.map(lambda seen: logits_of(variables, seen), stacked)
        summed = jax.nn.logsumexp(jax.nn.log_softmax(logits), axis=0)
        return summed - math.log(len(views))

    return over_views
