"""A loader that reads and decodes batches ahead, in Grain's threads or worker processes."""

import dataclasses
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from multiprocessing import resource_tracker
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from cnn_lab.core.arrays import Key, Tree
from cnn_lab.data.augment.compose import Augment
from cnn_lab.data.augment.crops import RandomCrops
from cnn_lab.data.normalize import Preprocess
from cnn_lab.data.sampler import Sampler
from cnn_lab.data.source import Source
from cnn_lab.distributed.mesh import WHOLE, Shard

READ_THREADS = 4
BATCHES_AHEAD = 4
MANY_STEPS = 2**40
WORKER_FLAG = "grain_enable_multiprocess_worker_profiling"


@dataclasses.dataclass(frozen=True)
class _ReadBatch:
    """Reads this process's shard of the batch of a step; sent to Grain's workers."""

    source: Source
    sampler: Sampler
    crops: RandomCrops | None
    shard: Shard

    def __call__(self, step: int) -> dict[str, np.ndarray]:
        positions, weights = self.sampler.batches(int(step), 1)
        mine, crops = self.shard.of(self.sampler.batch_size), None
        if self.crops is not None:  # of the whole batch, whatever part this process reads
            crops = self.crops(int(step), self.sampler.batch_size)[mine]
        return {**self.source.read(positions[0, mine], crops), "weight": weights[0, mine]}


@dataclasses.dataclass(eq=False)
class StreamingLoader:
    """Batches read and decoded ahead, whole batches at a time, by threads or processes.

    Attributes:
        num_workers: decoding processes; 0 decodes in threads.
        total_steps: steps of the whole training; None reads the epoch again and again, so that an
            evaluation does not start its readers anew each time.
        crops: random crops, applied while images are decoded; None keeps whole images.
        augment: augments the batch in the compiled step; None leaves it.
        constants: of `preprocess`, on the devices; None writes them into the program.
        shard: the part of every batch that this process loads.
    """

    source: Source
    preprocess: Preprocess
    sampler: Sampler
    _: dataclasses.KW_ONLY
    num_workers: int
    total_steps: int | None
    crops: RandomCrops | None = None
    augment: Augment | None = None
    constants: Tree | None = None
    shard: Shard = WHOLE
    name: str = dataclasses.field(default="streaming", init=False)
    max_steps: int = dataclasses.field(default=1, init=False)

    def __post_init__(self) -> None:
        self.device_arrays: Tree = {} if self.constants is None else {"constants": self.constants}
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
        if self.total_steps is None and self._next_step == self.sampler.steps_per_epoch:
            self._next_step = 0  # the readers are already at the next pass
        return {name: array[None] for name, array in batch.items()}

    def raw_shapes(self) -> Tree:
        """Shapes and dtypes of a raw batch, stacked [1 n ...]."""
        rows, target = (1, self.sampler.batch_size), self.source.info.target
        return {
            "image": jax.ShapeDtypeStruct((*rows, *self.source.fixed_shape), jnp.uint8),
            "label": jax.ShapeDtypeStruct((*rows, *target.shape), target.dtype),
            "weight": jax.ShapeDtypeStruct(rows, jnp.float32),
        }

    def prepare(self, device_arrays: Tree, raw_batch: Tree, key: Key) -> Tree:
        """Augments and normalises the batch."""
        images, labels = raw_batch["image"], raw_batch["label"]
        if self.augment is not None:
            images, labels = self.augment(key, images, labels)
        images = self.preprocess(images, device_arrays.get("constants"))
        return {**raw_batch, "image": images, "label": labels}

    def close(self) -> None:
        """Stops the readers."""
        if self._batches is not None:
            self._batches.close()
        self._batches, self._next_step = None, -1

    def _read_from(self, first_step: int) -> Iterator[dict[str, np.ndarray]]:
        import grain  # half a second that only this loader pays

        last = MANY_STEPS if self.total_steps is None else self.total_steps
        read = _ReadBatch(self.source, self.sampler, self.crops, self.shard)
        batches = grain.MapDataset.range(first_step, last).map(read)
        threads = 1 if self.num_workers else READ_THREADS
        ahead = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=BATCHES_AHEAD)
        dataset = batches.to_iter_dataset(ahead)
        if self.num_workers:
            # Grain reads this one of its flags, and from Python nobody may have parsed any. So it
            # is marked as Grain's workers mark theirs, and those of the user stay as they are.
            if WORKER_FLAG in flags.FLAGS and not flags.FLAGS.is_parsed():
                flags.FLAGS[WORKER_FLAG].present = True
            dataset = dataset.mp_prefetch(
                grain.MultiprocessingOptions(num_workers=self.num_workers),
                worker_init_fn=_end_with_the_parent,
            )
        return iter(dataset)


def _end_with_the_parent(*_: int) -> None:
    """Ends this worker when the training is killed, which otherwise waits for ever to be read."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
