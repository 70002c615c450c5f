"""The interface of the loaders.

A loader gives *raw batches*, stacked for several steps, and `prepare`, a pure function that runs
inside the compiled step and makes a batch from one of them. *In memory*: the whole uint8 split is
on the devices and a raw batch is a row of positions. *Streaming*: a raw batch holds the images
themselves, read and decoded ahead by Grain.

Both give the same batches, random resized crops apart: a split in memory holds images at their
final size, of which `prepare` crops a part; streaming crops the full image as it is decoded, with
no detail lost. These crops follow the same distribution, but other draws.
"""

from typing import Protocol, runtime_checkable

from cnn_lab.core.arrays import Key, Tree
from cnn_lab.data.sampler import Sampler


@runtime_checkable
class Loader(Protocol):
    """Batches of a split, by step.

    Attributes:
        name: `in_memory` or `streaming`.
        device_arrays: what stays on the devices: a split in memory, and the `constants` of
            normalisation, so that other values need no other program.
        max_steps: maximum number of steps in one stack of raw batches.
        sampler: chooses the examples of every step.
    """

    name: str
    device_arrays: Tree
    max_steps: int
    sampler: Sampler

    def load(self, first_step: int, num_steps: int) -> Tree:
        """Raw batches of 1 to `max_steps` steps, stacked and padded to [max_steps, n, ...].

        With several processes each loads its own shard of every batch.
        """
        ...

    def raw_shapes(self) -> Tree:
        """Shapes and dtypes of the stack that `load` returns, over all processes."""
        ...

    def prepare(self, device_arrays: Tree, raw_batch: Tree, key: Key) -> Tree:
        """Makes `image`, `label`, `weight` from one step's raw batch; pure, runs on the devices.

        `device_arrays` is the attribute of that name, an argument of the compiled step.
        """
        ...

    def close(self) -> None:
        """Stops reading ahead, and lets go of the arrays on the devices."""
        ...
