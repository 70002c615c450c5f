"""Loaders of a split, or of its features, that is wholly in the devices' memory."""

import dataclasses
import math
import operator
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from cnn_lab.config import DataConfig
from cnn_lab.core.arrays import Key, Tree
from cnn_lab.core.errors import DataError
from cnn_lab.core.memory import host_bytes
from cnn_lab.core.text import human_bytes
from cnn_lab.data.augment.compose import Augment
from cnn_lab.data.sampler import Sampler
from cnn_lab.data.source import Source
from cnn_lab.distributed.mesh import WHOLE, DeviceMesh, Shard

MIB = 2**20
PutSplit = Callable[..., Tree]
"""The type of `put_split` and `shapes_of_split`."""


def is_in_memory(data: DataConfig, source: Source) -> bool:
    """Whether a split is put on the devices: if the config asks for it, or if it is small."""
    if data.loader == "auto":
        return len(source) * math.prod(source.fixed_shape) <= data.in_memory_limit_mib * MIB
    return data.loader != "streaming"


def put_split(source: Source, mesh: DeviceMesh, *, sharded: bool = False) -> Tree:
    """Reads a split into the devices' memory: replicated on each, or sharded over all."""
    shard = mesh.shard if sharded else WHOLE
    check_host_memory(source, shard)
    if not sharded:
        images, labels = source.read_all()
        return mesh.put({"image": images, "label": labels})
    positions = np.arange(_padded_length(source, mesh))
    # The padding of the last shard repeats the last example; no sampler asks for it.
    mine = np.minimum(positions[shard.of(len(positions))], len(source) - 1)
    if shard.count > 1:
        return mesh.put(source.read(mine), mesh.sharded)
    images, labels = source.read_all()  # caches the decoded images for the next time
    return mesh.put({"image": images[mine], "label": labels[mine]}, mesh.sharded)


def shapes_of_split(source: Source, mesh: DeviceMesh, *, sharded: bool = False) -> Tree:
    """Shapes of the arrays that `put_split` would return; no pixel is read."""
    length = _padded_length(source, mesh) if sharded else len(source)
    sharding, target = mesh.sharded if sharded else None, source.info.target
    return {
        "image": jax.ShapeDtypeStruct((length, *source.fixed_shape), np.uint8, sharding=sharding),
        "label": jax.ShapeDtypeStruct((length, *target.shape), target.dtype, sharding=sharding),
    }


def check_host_memory(source: Source, shard: Shard = WHOLE) -> None:
    """Refuses a split whose shard is larger than the host's memory, before it is read.

    The system would kill the process; other processes of this machine may need as much.
    """
    num_bytes = len(source) * math.prod(source.fixed_shape) // shard.count
    max_bytes = host_bytes()
    if max_bytes is not None and num_bytes > max_bytes:
        whose = f" that process {shard.index} of {shard.count} holds" if shard.count > 1 else ""
        raise DataError(
            f"The images of split {source.split!r} of {source.info.name}{whose} take "
            f"{human_bytes(num_bytes)}, but there are {human_bytes(max_bytes)} of memory; set "
            "config.data.loader=streaming or lower config.data.image_size.",
            where="config.data.loader",
            found=num_bytes,
            allowed=f"at most {max_bytes} bytes",
        )


def _padded_length(source: Source, mesh: DeviceMesh) -> int:
    """Examples of a split, rounded up to shards of equal size."""
    return -(-len(source) // mesh.num_devices) * mesh.num_devices


@dataclasses.dataclass(eq=False)
class InMemoryLoader:
    """The whole split on the devices; a raw batch is the positions of its examples.

    Attributes:
        device_arrays: `image` and `label`, and perhaps `constants` of `preprocess`.
        preprocess: (images, constants) -> the model's input.
        augment: augments the batch; None leaves it.
        shard: the part of every batch that this process loads.
        gather: (array, positions) -> rows.
    """

    device_arrays: Tree
    preprocess: Callable[[Tree, Tree | None], Tree]
    sampler: Sampler
    max_steps: int
    augment: Augment | None = None
    shard: Shard = WHOLE
    gather: Callable[[Tree, Tree], Tree] = operator.getitem
    name: str = dataclasses.field(default="in_memory", init=False)

    def load(self, first_step: int, num_steps: int) -> Tree:
        """Positions and weights [max_steps n]; rows after `num_steps` are padding."""
        positions, weights = self.sampler.batches(first_step, num_steps)
        mine = self.shard.of(self.sampler.batch_size)
        positions, weights = positions[:, mine], weights[:, mine]
        padding = ((0, self.max_steps - num_steps), (0, 0))
        return {
            "position": np.pad(self.rows(first_step, positions).astype(np.int32), padding),
            "weight": np.pad(weights, padding),
        }

    def rows(self, first_step: int, positions: Int[np.ndarray, "s n"]) -> Int[np.ndarray, "s n"]:
        """Rows of the arrays in memory that hold the examples of consecutive steps."""
        del first_step  # a row of the arrays is a position in the source
        return positions

    def raw_shapes(self) -> Tree:
        """Shapes and dtypes of stacked raw batches."""
        shape = (self.max_steps, self.sampler.batch_size)
        return {
            "position": jax.ShapeDtypeStruct(shape, jnp.int32),
            "weight": jax.ShapeDtypeStruct(shape, jnp.float32),
        }

    def prepare(self, device_arrays: Tree, raw_batch: Tree, key: Key) -> Tree:
        """Gathers the batch on the devices, augments and normalises it."""
        rows = raw_batch["position"]
        images, labels = (self.gather(device_arrays[name], rows) for name in ("image", "label"))
        if self.augment is not None:
            images, labels = self.augment(key, images, labels)
        return {
            "image": self.preprocess(images, device_arrays.get("constants")),
            "label": labels,
            "weight": raw_batch["weight"],
        }

    def close(self) -> None:
        """Lets go of the arrays."""
        self.device_arrays = {}


class FeatureLoader(InMemoryLoader):
    """Features that a frozen backbone computed once, in place of images.

    Args:
        device_arrays: features and labels, one pass over the images after the other, each in the
            order of `sampler.indices`; or their shapes.
        name: of the loader that the images came from.
        num_passes: over the images; epochs use them in turn.
    """

    def __init__(
        self, device_arrays: Tree, sampler: Sampler, max_steps: int, name: str, num_passes: int = 1
    ):
        super().__init__(device_arrays, lambda features, _: features, sampler, max_steps)
        self.name = name
        self._num_passes = num_passes
        self._row_of = row_finder(sampler.indices)

    def rows(self, first_step: int, positions: Int[np.ndarray, "s n"]) -> Int[np.ndarray, "s n"]:
        """Rows of the features that belong to the examples of consecutive steps."""
        steps = np.arange(first_step, first_step + len(positions))
        passes = steps // self.sampler.steps_per_epoch % self._num_passes
        return passes[:, None] * len(self.sampler.indices) + self._row_of(positions)


def row_finder(indices: Int[np.ndarray, " n"]) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a function from positions in a source to places in `indices`."""
    ascending = np.argsort(indices)
    return lambda positions: ascending[np.searchsorted(indices, positions, sorter=ascending)]
