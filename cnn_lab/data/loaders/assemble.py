"""From a `DataConfig` to examples and loaders."""

import dataclasses
from collections.abc import Callable

import jax
import numpy as np

from cnn_lab.config import DataConfig
from cnn_lab.core.arrays import Tree
from cnn_lab.core.errors import DataError
from cnn_lab.core.formatting import human_bytes
from cnn_lab.core.memory import host_bytes
from cnn_lab.data.augment.crops import RandomCrops
from cnn_lab.data.augment.make import Augment, make_augment
from cnn_lab.data.augment.recipes import Augmentation
from cnn_lab.data.examples import Subset, fixed_shape
from cnn_lab.data.loaders.in_memory import InMemoryLoader, gather_rows
from cnn_lab.data.loaders.loader import Loader
from cnn_lab.data.loaders.streaming import StreamingLoader
from cnn_lab.data.moments import moments_of
from cnn_lab.data.preprocess import Preprocess, check_channels
from cnn_lab.data.sampler import Sampler
from cnn_lab.data.source import Source
from cnn_lab.distributed.mesh import DeviceMesh
from cnn_lab.distributed.processes import present
from cnn_lab.distributed.shard import WHOLE, Shard

MIB = 2**20
PlaceSplit = Callable[..., Tree]  # as `place_split`


def is_in_memory(data: DataConfig, source: Source) -> bool:
    """Whether the config keeps a split on the devices: when told to, or when it is small."""
    num_bytes = len(source) * int(np.prod(fixed_shape(source)))
    small = num_bytes <= data.in_memory_limit_mib * MIB
    return data.loader in ("in_memory", "sharded") or (data.loader == "auto" and small)


def make_preprocess(data: DataConfig, train: Subset) -> Preprocess:
    """Padding and normalisation, measured on the training examples where the config says nothing.

    Raises:
        ConfigError: mean or std have another number of channels than the images.
    """
    if data.mean is not None and data.std is not None:
        mean, std = data.mean, data.std
    else:
        processes = present()
        in_memory = is_in_memory(data, train.source)
        if data.loader == "sharded" and processes.count > 1:
            in_memory = False
        if in_memory:
            check_fits(train.source)
        measured = None
        if processes.is_primary:  # others' arithmetic may differ in the last bit
            measured = moments_of(train.source, train.indices, in_memory=in_memory)
        mean, std = map(tuple, processes.broadcast(measured))
    preprocess = Preprocess(mean, std, data.pad)
    check_channels(preprocess, train.source.info.image_shape[2])
    return preprocess


def unmeasured_preprocess(data: DataConfig, train: Subset) -> Preprocess:
    """As `make_preprocess`, with a half where it would look at pixels: for shapes only."""
    if data.mean is None or data.std is None:
        half = (0.5,) * train.source.info.image_shape[2]
        data = dataclasses.replace(data, mean=half, std=half)
    return make_preprocess(data, train)


def place_split(source: Source, devices: DeviceMesh, *, in_parts: bool = False) -> Tree:
    """A split on the devices: whole on each, or each with a part of it."""
    shard = devices.shard if in_parts else WHOLE
    check_fits(source, shard)
    if not in_parts:
        images, labels = source.read_all()
        return devices.put_replicated({"image": images, "label": labels})
    filled_up = np.arange(_filled_up(source, devices))
    # What fills up the last part is never asked for.
    mine = np.minimum(filled_up[shard.of(len(filled_up))], len(source) - 1)
    if shard.count > 1:
        return devices.put_sharded(source.gather(mine))
    images, labels = source.read_all()  # keeps what it decodes for the next time
    return devices.put_sharded({"image": images[mine], "label": labels[mine]})


def _filled_up(source: Source, devices: DeviceMesh) -> int:
    """Rows of a split in equal parts."""
    return -(-len(source) // devices.num_devices) * devices.num_devices


def check_fits(source: Source, shard: Shard = WHOLE) -> None:
    """Refuses a split whose share is larger than the memory, before it is read.

    Other processes of this machine may need as much.

    Raises:
        DataError: it is; the system would answer by a kill.
    """
    num_bytes = len(source) * int(np.prod(fixed_shape(source))) // shard.count
    most = host_bytes()
    if most is not None and num_bytes > most:
        whose = f" that process {shard.index} of {shard.count} holds" if shard.count > 1 else ""
        raise DataError(
            f"The images of split {source.split!r} of {source.info.name}{whose} take "
            f"{human_bytes(num_bytes)}, but there are {human_bytes(most)} of memory; set "
            "config.data.loader=streaming or lower config.data.image_size."
        )


def shapes_of_split(source: Source, devices: DeviceMesh, *, in_parts: bool = False) -> Tree:
    """Shapes of what `place_split` would return; no pixel is read."""
    number = _filled_up(source, devices) if in_parts else len(source)
    lies = devices.sharded if in_parts else None
    return {
        "image": jax.ShapeDtypeStruct((number, *fixed_shape(source)), np.uint8, sharding=lies),
        "label": jax.ShapeDtypeStruct((number,), np.int32, sharding=lies),
    }


def augment_of(source: Source, augmentation: Augmentation) -> Augment:
    """The augmentation of a source's images in the compiled step.

    Raises:
        ConfigError: it does not fit images of their size.
    """
    return make_augment(augmentation, fixed_shape(source), source.info.num_classes)


class LoaderFactory:
    """Makes loaders of the kind that a config asks for; splits are placed on devices once.

    Args:
        data: the config.
        preprocess: what happens to the images in the compiled step.
        devices: where data in memory lie.
        place: `place_split` or `shapes_of_split`.
    """

    def __init__(
        self,
        data: DataConfig,
        preprocess: Preprocess,
        devices: DeviceMesh,
        place: PlaceSplit = place_split,
    ):
        self._data = data
        self._preprocess = preprocess
        self._devices, self._shard = devices, devices.shard
        self._in_parts = data.loader == "sharded"
        self._gather = devices.take if self._in_parts else gather_rows
        self._place_split = place
        self._placed: dict[str, Tree] = {}
        self._constants = devices.put_replicated(preprocess.constants)

    def training(
        self,
        subset: Subset,
        batch_size: int,
        *,
        seed: int,
        num_epochs: int,
        longest: int,
        augmentation: Augmentation,
    ) -> Loader:
        """Shuffled and altered anew every epoch; a feed holds at most `longest` steps.

        Where images are streamed, random crops are taken while they are decoded, when all their
        pixels are there; all other changes, and of images in memory all, are left to the step.
        """
        classes = None
        if self._data.sampling == "balanced":
            classes = subset.labels
        sampler = Sampler(subset.indices, batch_size, seed, classes)
        return self._altering(subset.source, sampler, seed, num_epochs, longest, augmentation)

    def passes(
        self,
        subset: Subset,
        batch_size: int,
        *,
        seed: int,
        num_passes: int,
        augmentation: Augmentation,
    ) -> Loader:
        """Every example once a pass, shuffled and altered anew; a feed holds one step."""
        sampler = Sampler(subset.indices, batch_size, seed)
        return self._altering(subset.source, sampler, seed, num_passes, 1, augmentation)

    def evaluation(self, subset: Subset, batch_size: int, num_devices: int) -> Loader:
        """One pass in order; the batch is at most the data, rounded up to what devices share."""
        rounded = -(-min(batch_size, len(subset)) // num_devices) * num_devices
        sampler = Sampler(subset.indices, rounded, None)
        if is_in_memory(self._data, subset.source):
            images = self._place(subset.source)
            return InMemoryLoader(
                images,
                self._preprocess,
                sampler,
                sampler.steps_per_epoch,
                shard=self._shard,
                gather=self._gather,
            )
        num_workers = self._data.num_workers
        return StreamingLoader(
            subset.source,
            self._preprocess,
            sampler,
            num_workers=num_workers,
            total_steps=None,
            constants=self._constants,
            shard=self._shard,
        )

    def _altering(
        self,
        source: Source,
        sampler: Sampler,
        seed: int,
        num_epochs: int,
        longest: int,
        augmentation: Augmentation,
    ) -> Loader:
        if is_in_memory(self._data, source):
            images, augment = self._place(source), augment_of(source, augmentation)
            return InMemoryLoader(
                images, self._preprocess, sampler, longest, augment, self._shard, self._gather
            )
        crops = None
        if augmentation.crops:
            crops = RandomCrops(augmentation.crop_area, augmentation.crop_aspect, seed)
        return StreamingLoader(
            source,
            self._preprocess,
            sampler,
            num_workers=self._data.num_workers,
            total_steps=sampler.steps_per_epoch * num_epochs,
            crops=crops,
            augment=augment_of(source, augmentation.without_crops()),
            constants=self._constants,
            shard=self._shard,
        )

    def _place(self, source: Source) -> Tree:
        if source.split not in self._placed:
            images = self._place_split(source, self._devices, in_parts=self._in_parts)
            self._placed[source.split] = {**images, "constants": self._constants}
        return self._placed[source.split]
