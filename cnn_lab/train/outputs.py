"""The outputs of a classifier for a whole split: every example once, in the split's order."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32, Int32

from cnn_lab.core.arrays import Images, Tree
from cnn_lab.core.errors import TrainingError
from cnn_lab.distributed.mesh import DeviceMesh
from cnn_lab.tasks.metrics import weighted_pairs
from cnn_lab.tasks.task import Task, last_logits
from cnn_lab.train.evaluate import EvaluationLoader, exact_sum
from cnn_lab.train.steps_per_call import StepsPerCall
from cnn_lab.train.views import View, whole

MOST_BYTES = 64 * 2**20  # of the outputs of one call


@dataclass(frozen=True)
class Collected:
    """What a classifier said of a split, row by row in the split's order.

    Attributes:
        logits: [n k]; over several views the logarithm of the mean of their probabilities, which
            are logits too.
        labels: [n].
        means: the task's metrics of these outputs.
    """

    logits: Float32[np.ndarray, "n k"]
    labels: Int32[np.ndarray, " n"]
    means: dict[str, float]


class Collector:
    """Collects the outputs for one split; compiles on first use, once for all weights.

    Args:
        apply: (variables, images, train=False) -> logits.
        task: per-example metrics.
        loader: the split, in order, the tail filled up with examples of weight 0.
        num_steps: of the feeder, for the whole split.
        num_examples: size of the split.
        mesh: devices; they must divide the batch size.
        views: what the network sees of each image, normalised; probabilities are averaged.
        most_bytes: of the outputs that one call may return, as far as one step allows.
    """

    def __init__(
        self,
        apply: Callable[..., Any],
        task: Task,
        loader: EvaluationLoader,
        *,
        num_steps: int,
        num_examples: int,
        mesh: DeviceMesh,
        views: Sequence[View] = (whole,),
        most_bytes: int = MOST_BYTES,
    ):
        self._outputs_of = _over_views(apply, views)
        self._task = task
        self._loader = loader
        self._num_steps = num_steps
        self._num_examples = num_examples
        self._mesh = mesh
        self._most_bytes = most_bytes
        self._program: Any = None
        self._steps_per_call = StepsPerCall(1)

    def __call__(self, variables: Tree) -> Collected:
        """Runs the split through the network once.

        Raises:
            TrainingError: examples were seen twice or not at all; a bug, not a mistake.
        """
        if self._program is None:
            self._program = self._make(variables)
        logits, labels, sums = [], [], {}
        first = 0
        while first < self._num_steps:
            num_steps = min(self._steps_per_call.num_steps, self._num_steps - first)
            raw_batches = self._mesh.put_batches(self._loader.load(first, num_steps))
            number = self._mesh.put_replicated(np.int32(num_steps))
            start = time.perf_counter()
            rows, pairs = self._program(variables, self._loader.in_memory, raw_batches, number)
            rows, pairs = jax.device_get((rows, pairs))
            self._steps_per_call.measure(num_steps, start, time.perf_counter())
            kept = rows["weight"][:num_steps] > 0
            logits.append(rows["logits"][:num_steps][kept])
            labels.append(rows["label"][:num_steps][kept])
            for name, (of_steps, _) in pairs.items():
                sums.setdefault(name, []).extend(of_steps[:num_steps].tolist())
            first += num_steps
        found = sum(len(part) for part in labels)
        if found != self._num_examples:
            raise TrainingError(
                f"The outputs of {found} examples were collected instead of {self._num_examples}."
            )
        means = {name: exact_sum(values) / found for name, values in sums.items()}
        return Collected(np.concatenate(logits), np.concatenate(labels), means)

    def _make(self, variables: Tree) -> Any:
        """Compiles (variables, in_memory, raw_batches, num_steps) -> (rows, sums of each step)."""
        loader = self._loader

        def one(variables, in_memory, raw_batch) -> tuple[Tree, Tree]:
            batch = loader.prepare(in_memory, raw_batch, jax.random.key(0))
            logits = self._outputs_of(variables, batch["image"])
            pairs = weighted_pairs(self._task.metrics(logits, batch), batch["weight"])
            kept = {"logits": logits, "label": batch["label"], "weight": batch["weight"]}
            return kept, pairs

        raw_batch = jax.tree.map(
            lambda stack: jax.ShapeDtypeStruct(stack.shape[1:], stack.dtype), loader.raw_shapes()
        )
        shapes = jax.eval_shape(one, variables, loader.in_memory, raw_batch)
        step_bytes = sum(math.prod(s.shape) * s.dtype.itemsize for s in shapes[0].values())
        longest = max(1, min(loader.max_steps, self._most_bytes // step_bytes))
        self._steps_per_call = StepsPerCall(longest)

        def collect(variables, in_memory, raw_batches, num_steps):  # names its compiled program
            history = jax.tree.map(lambda s: jnp.zeros((longest, *s.shape), s.dtype), shapes)

            def body(index, history):
                raw_batch = jax.tree.map(lambda stack: stack[index], raw_batches)
                found = one(variables, in_memory, raw_batch)
                return jax.tree.map(lambda h, f: h.at[index].set(f), history, found)

            return jax.lax.fori_loop(0, num_steps, body, history)

        replicated, split = self._mesh.replicated, self._mesh.batches
        return jax.jit(
            collect,
            in_shardings=(
                self._mesh.shardings(variables),
                self._mesh.shardings_as_placed(loader.in_memory),
                split,
                replicated,
            ),
            out_shardings=(split, replicated),  # rows stay where they were computed
        )


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
