"""Makes preprocessing and loaders from a `DataConfig`."""

import dataclasses

from cnn_lab.config import DataConfig
from cnn_lab.core.arrays import Tree
from cnn_lab.data.augment.compose import Augment, make_augment
from cnn_lab.data.augment.crops import RandomCrops
from cnn_lab.data.augment.recipes import Augmentation
from cnn_lab.data.loaders.in_memory import (
    InMemoryLoader,
    PutSplit,
    check_host_memory,
    gather_rows,
    is_in_memory,
    put_split,
)
from cnn_lab.data.loaders.loader import Loader
from cnn_lab.data.loaders.streaming import StreamingLoader
from cnn_lab.data.normalize import Preprocess, channel_statistics, check_channels
from cnn_lab.data.sampler import Sampler
from cnn_lab.data.source import Source
from cnn_lab.data.subsets import Subset
from cnn_lab.distributed.mesh import DeviceMesh
from cnn_lab.distributed.processes import present


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
            check_host_memory(train.source)
        measured = None
        if processes.is_primary:  # others' arithmetic may differ in the last bit
            measured = channel_statistics(train.source, train.indices, in_memory=in_memory)
        mean, std = map(tuple, processes.broadcast(measured))
    preprocess = Preprocess(mean, std, data.pad)
    check_channels(preprocess, train.source.info.image_shape[2])
    return preprocess


def unmeasured_preprocess(data: DataConfig, train: Subset) -> Preprocess:
    """As `make_preprocess`, with 0.5 in place of measured values: for shapes only."""
    if data.mean is None or data.std is None:
        half = (0.5,) * train.source.info.image_shape[2]
        data = dataclasses.replace(data, mean=half, std=half)
    return make_preprocess(data, train)


class LoaderFactory:
    """Makes loaders of the kind that a config asks for; a split is put on the devices once.

    Args:
        data: the config.
        preprocess: padding and normalisation, in the compiled step.
        mesh: the devices, for data in memory.
        put_split: `put_split` or `shapes_of_split`.
    """

    def __init__(
        self,
        data: DataConfig,
        preprocess: Preprocess,
        mesh: DeviceMesh,
        put_split: PutSplit = put_split,
    ):
        self._data = data
        self._preprocess = preprocess
        self._mesh = mesh
        self._put_split = put_split
        self._in_memory: dict[str, Tree] = {}
        self._constants = mesh.put(preprocess.constants)

    def training(
        self,
        subset: Subset,
        batch_size: int,
        *,
        seed: int,
        num_epochs: int,
        max_steps: int,
        augmentation: Augmentation,
    ) -> Loader:
        """Batches shuffled and augmented anew every epoch, at most `max_steps` in a stack.

        Where images are streamed, random crops are cut while they are decoded, when all their
        pixels are there; all other augmentation, and of images in memory all, is left to the step.
        """
        classes = subset.labels if self._data.sampling == "balanced" else None
        sampler = Sampler(subset.indices, batch_size, seed, classes)
        return self._augmenting(subset.source, sampler, seed, num_epochs, max_steps, augmentation)

    def augmented_passes(
        self,
        subset: Subset,
        batch_size: int,
        *,
        seed: int,
        num_passes: int,
        augmentation: Augmentation,
    ) -> Loader:
        """Every example once a pass, shuffled and augmented anew, one batch in a stack."""
        sampler = Sampler(subset.indices, batch_size, seed)
        return self._augmenting(subset.source, sampler, seed, num_passes, 1, augmentation)

    def evaluation(self, subset: Subset, batch_size: int, num_devices: int) -> Loader:
        """One pass in order; a batch is at most the data, rounded up to a multiple of devices."""
        rounded = -(-min(batch_size, len(subset)) // num_devices) * num_devices
        sampler = Sampler(subset.indices, rounded, None)
        if is_in_memory(self._data, subset.source):
            return self._in_memory_loader(subset.source, sampler, sampler.steps_per_epoch)
        return self._streaming_loader(subset.source, sampler, total_steps=None)

    def _augmenting(
        self,
        source: Source,
        sampler: Sampler,
        seed: int,
        num_epochs: int,
        max_steps: int,
        augmentation: Augmentation,
    ) -> Loader:
        in_memory = is_in_memory(self._data, source)
        in_step = augmentation if in_memory else augmentation.without_crops()
        augment = make_augment(in_step, source.fixed_shape, source.info.num_classes)
        if in_memory:
            return self._in_memory_loader(source, sampler, max_steps, augment)
        crops = None
        if augmentation.crops:
            crops = RandomCrops(augmentation.crop_area, augmentation.crop_aspect, seed)
        total_steps = sampler.steps_per_epoch * num_epochs
        return self._streaming_loader(source, sampler, total_steps, crops, augment)

    def _in_memory_loader(
        self, source: Source, sampler: Sampler, max_steps: int, augment: Augment | None = None
    ) -> InMemoryLoader:
        sharded = self._data.loader == "sharded"
        if source.split not in self._in_memory:
            arrays = self._put_split(source, self._mesh, sharded=sharded)
            self._in_memory[source.split] = {**arrays, "constants": self._constants}
        return InMemoryLoader(
            self._in_memory[source.split],
            self._preprocess,
            sampler,
            max_steps,
            augment,
            shard=self._mesh.shard,
            gather=self._mesh.take if sharded else gather_rows,
        )

    def _streaming_loader(
        self,
        source: Source,
        sampler: Sampler,
        total_steps: int | None,
        crops: RandomCrops | None = None,
        augment: Augment | None = None,
    ) -> StreamingLoader:
        return StreamingLoader(
            source,
            self._preprocess,
            sampler,
            num_workers=self._data.num_workers,
            total_steps=total_steps,
            crops=crops,
            augment=augment,
            constants=self._constants,
            shard=self._mesh.shard,
        )
