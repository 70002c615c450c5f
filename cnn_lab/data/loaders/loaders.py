"""The two loaders behind one interface.

A loader gives *feeds*, small or large, for a stack of steps, and `prepare`, a pure function that
runs inside the compiled step and makes a batch from them. *Resident*: the whole uint8 split lies on
the devices and a feed is a row of positions. *Streaming*: a feed is the batch itself, read and
decoded ahead by Grain.

Both give the same batches, random resized crops apart: a split in memory holds images at their
final size, of which `prepare` crops a part; streaming crops the full image as it is decoded, with
no detail lost. These crops follow the same distribution, but other draws.
"""

import dataclasses
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from multiprocessing import resource_tracker
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from cnn_lab.core.arrays import Key, Tree
from cnn_lab.data.augment.crops import RandomCrops
from cnn_lab.data.preprocess import Preprocess
from cnn_lab.data.sampler import Sampler
from cnn_lab.data.source import Source
from cnn_lab.distributed.mesh import WHOLE, Shard

# (key, pixels, labels) -> the same, altered; see `cnn_lab.data.augment`.
Augment = Callable[[Key, Tree, Tree], tuple[Tree, Tree]]
READ_THREADS = 4
BATCHES_AHEAD = 4
MANY_STEPS = 2**40


@runtime_checkable
class Loader(Protocol):
    """What both loaders offer.

    Attributes:
        name: `in_memory` or `streaming`.
        in_memory: arrays that stay on the devices, the `constants` of normalisation among them, so
            that other values need no other program.
        max_steps: longest stack of steps that a feed may hold.
        sampler: which examples make up which step.
    """

    name: str
    in_memory: Tree
    max_steps: int
    sampler: Sampler

    def load(self, first_step: int, num_steps: int) -> Tree:
        """This process's share of consecutive steps, stacked and filled up to `max_steps`."""
        ...

    def raw_shapes(self) -> Tree:
        """Shapes of what `raw_batch` returns, over all processes."""
        ...

    def prepare(self, in_memory: Tree, raw_batch: Tree, key: Key) -> Tree:
        """Makes `image`, `label`, `weight` from one step's raw batch; pure, runs on the devices."""
        ...

    def close(self) -> None:
        """Stops reading ahead, and lets go of what lies on the devices."""
        ...


def take(array: Tree, positions: Tree) -> Tree:
    """Rows of an array that every device has whole."""
    return array[positions]


class InMemoryLoader:
    """The whole split on the devices; a feed is the positions of a batch.

    Args:
        in_memory: `image` and `label`, and perhaps `constants` of `preprocess`.
        preprocess: (images, constants) -> what the model takes.
        sampler: which examples make up which step.
        max_steps: longest stack of steps that a feed may hold.
        augment: alters the batch; None leaves it.
        shard: the part of every batch that `raw_batch` gives.
        take: (array, positions) -> rows, where the arrays lie in parts.
    """

    name = "in_memory"

    def __init__(
        self,
        in_memory: Tree,
        preprocess: Callable[[Tree, Tree | None], Tree],
        sampler: Sampler,
        max_steps: int,
        augment: Augment | None = None,
        shard: Shard = WHOLE,
        take: Callable[[Tree, Tree], Tree] = take,
    ):
        self.in_memory = in_memory
        self._take = take
        self._shard = shard
        self.sampler = sampler
        self.max_steps = max_steps
        self._preprocess = preprocess
        self._augment = augment

    def load(self, first_step: int, num_steps: int) -> Tree:
        """Positions and weights [max_steps n]; rows after `num_steps` are never used."""
        positions, weights = self.sampler.batches(first_step, num_steps)
        mine = self._shard.of(self.sampler.batch_size)
        positions, weights = positions[:, mine], weights[:, mine]
        fill = ((0, self.max_steps - num_steps), (0, 0))
        return {
            "position": np.pad(self.rows(first_step, positions).astype(np.int32), fill),
            "weight": np.pad(weights, fill),
        }

    def rows(self, first_step: int, positions: Int[np.ndarray, "s n"]) -> Int[np.ndarray, "s n"]:
        """Where the examples of consecutive steps lie in the arrays in memory."""
        del first_step  # they lie where they do in the source
        return positions

    def raw_shapes(self) -> Tree:
        """Shapes of a feed."""
        shape = (self.max_steps, self.sampler.batch_size)
        return {
            "position": jax.ShapeDtypeStruct(shape, jnp.int32),
            "weight": jax.ShapeDtypeStruct(shape, jnp.float32),
        }

    def prepare(self, in_memory: Tree, raw_batch: Tree, key: Key) -> Tree:
        """Gathers the batch on the devices, alters and normalises it."""
        images, labels = (
            self._take(in_memory[name], raw_batch["position"]) for name in ("image", "label")
        )
        images, labels = _altered(self._augment, key, images, labels)
        return {
            "image": self._preprocess(images, in_memory.get("constants")),
            "label": labels,
            "weight": raw_batch["weight"],
        }

    def close(self) -> None:
        """Lets go of the arrays."""
        self.in_memory = {}


@dataclasses.dataclass(frozen=True)
class _ReadBatch:
    """Reads a share of the batch of a step; sent to Grain's workers."""

    source: Source
    sampler: Sampler
    crops: RandomCrops | None
    shard: Shard

    def __call__(self, step: int) -> dict[str, np.ndarray]:
        positions, weights = self.sampler.batches(int(step), 1)
        mine, parts = self.shard.of(self.sampler.batch_size), None
        if self.crops is not None:  # of the whole batch, whoever reads which part of it
            parts = self.crops(int(step), self.sampler.batch_size)[mine]
        return {**self.source.gather(positions[0, mine], parts), "weight": weights[0, mine]}


class StreamingLoader:
    """Batches read and decoded ahead, whole batches at a time, by threads or processes.

    Args:
        source: the split.
        preprocess: what happens in the compiled step.
        sampler: which examples make up which step.
        num_workers: decoding processes; 0 decodes in threads.
        crops: what the readers keep of each image; None keeps what the source shows.
        augment: alters the batch in the compiled step; None leaves it.
        constants: of `preprocess`, on the devices; None writes them into the program.
        shard: the part of every batch that `raw_batch` gives.
        total_steps: steps of the whole training; None reads the epoch again and again, so that an
            evaluation does not start its readers anew each time.
    """

    name = "streaming"
    max_steps = 1

    def __init__(
        self,
        source: Source,
        preprocess: Preprocess,
        sampler: Sampler,
        *,
        num_workers: int,
        total_steps: int | None,
        crops: RandomCrops | None = None,
        augment: Augment | None = None,
        constants: Tree | None = None,
        shard: Shard = WHOLE,
    ):
        self.in_memory: Tree = {} if constants is None else {"constants": constants}
        self.sampler = sampler
        self._read = _ReadBatch(source, sampler, crops, shard)
        self._preprocess = preprocess
        self._augment = augment
        self._num_workers = num_workers
        self._endless = total_steps is None
        self._total_steps = MANY_STEPS if total_steps is None else total_steps
        self._next_step = -1
        self._batches: Any = None

    def load(self, first_step: int, num_steps: int) -> Tree:
        """The batch of one step, stacked [1 n ...]."""
        assert num_steps == 1
        if first_step == self._next_step:
            batch: Mapping[str, np.ndarray] = next(self._batches)
        else:
            self.close()
            # Ctrl-C, and the SIGTERM of a cluster, reach the whole process group: workers, which
            # start here and inherit the mask, must not die of it while the training still needs
            # them to save. The tracker unblocks both when it starts, so it starts before.
            resource_tracker.ensure_running()
            before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
            try:
                self._batches = self._read_from(first_step)
                batch = next(self._batches)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self._next_step = first_step + 1
        if self._endless and self._next_step == self.sampler.steps_per_epoch:
            self._next_step = 0  # the readers are already at the next pass
        return {name: array[None] for name, array in batch.items()}

    def raw_shapes(self) -> Tree:
        """Shapes of a feed."""
        rows = (1, self.sampler.batch_size)
        image_shape = _known_shape(self._read.source)
        return {
            "image": jax.ShapeDtypeStruct((*rows, *image_shape), jnp.uint8),
            "label": jax.ShapeDtypeStruct(rows, jnp.int32),
            "weight": jax.ShapeDtypeStruct(rows, jnp.float32),
        }

    def prepare(self, in_memory: Tree, raw_batch: Tree, key: Key) -> Tree:
        """Alters and normalises the batch."""
        images, labels = _altered(self._augment, key, raw_batch["image"], raw_batch["label"])
        images = self._preprocess(images, in_memory.get("constants"))
        return {**raw_batch, "image": images, "label": labels}

    def close(self) -> None:
        """Stops the readers."""
        if self._batches is not None:
            self._batches.close()
        self._batches, self._next_step = None, -1

    def _read_from(self, first_step: int) -> Iterator[dict[str, np.ndarray]]:
        import grain  # half a second that only this pipeline pays

        steps = grain.MapDataset.range(first_step, self._total_steps)
        batches = steps.map(self._read)
        threads = 1 if self._num_workers else READ_THREADS
        ahead = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=BATCHES_AHEAD)
        dataset = batches.to_iter_dataset(ahead)
        if self._num_workers:
            dataset = dataset.mp_prefetch(
                grain.MultiprocessingOptions(num_workers=self._num_workers),
                worker_init_fn=_end_with_the_parent,
            )
        return iter(dataset)


def _altered(augment: Augment | None, key: Key, images: Tree, labels: Tree) -> tuple[Tree, Tree]:
    return (images, labels) if augment is None else augment(key, images, labels)


def _end_with_the_parent(*_: int) -> None:
    """Ends this worker when the training is killed, which otherwise waits for ever to be read."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _known_shape(source: Source) -> tuple[int, int, int]:
    height, width, channels = source.info.image_shape
    assert height is not None
    assert width is not None
    return (height, width, channels)
