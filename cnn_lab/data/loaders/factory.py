"""Makes preprocessing and loaders from a `DataConfig`."""

import dataclasses
import operator

from cnn_lab.config import DataConfig
from cnn_lab.core.arrays import Tree
from cnn_lab.core.errors import ConfigError
from cnn_lab.core.text import counted
from cnn_lab.data.augment.compose import Augment, make_augment
from cnn_lab.data.augment.crops import RandomCrops
from cnn_lab.data.augment.recipes import Augmentation
from cnn_lab.data.loaders import in_memory
from cnn_lab.data.loaders.loader import Loader
from cnn_lab.data.loaders.streaming import StreamingLoader
from cnn_lab.data.normalize import Preprocess, channel_statistics
from cnn_lab.data.sampler import Sampler
from cnn_lab.data.source import Source
from cnn_lab.data.subsets import Subset
from cnn_lab.distributed.mesh import DeviceMesh
from cnn_lab.distributed.processes import current_processes


def make_preprocess(data: DataConfig, train: Subset) -> Preprocess:
    """Padding and normalisation, measured on the training examples where the config says nothing.

    Raises:
        ConfigError: mean or std have another number of channels than the images.
    """
    if data.mean is None or data.std is None:
        processes, measured = current_processes(), None
        in_parts = data.loader == "sharded" and processes.count > 1
        whole = in_memory.is_in_memory(data, train.source) and not in_parts
        if whole:
            in_memory.check_host_memory(train.source)
        if processes.is_primary:  # others' arithmetic may differ in the last bit
            measured = channel_statistics(train.source, train.indices, in_memory=whole)
        mean, std = map(tuple, processes.broadcast(measured))
        return Preprocess(mean, std, data.pad)
    num_channels = train.source.info.image_shape[2]
    for name, values in (("mean", data.mean), ("std", data.std)):
        if len(values) != num_channels:
            allowed = f"{counted(num_channels, 'value')}, one per channel, or none to measure it"
            raise ConfigError(where=f"config.data.{name}", found=values, allowed=allowed)
    return Preprocess(data.mean, data.std, data.pad)


def unmeasured_preprocess(data: DataConfig, train: Subset) -> Preprocess:
    """As `make_preprocess`, with 0.5 in place of measured values: for shapes only."""
    if data.mean is None or data.std is None:
        half = (0.5,) * train.source.info.image_shape[2]
        data = dataclasses.replace(data, mean=half, std=half)
    return make_preprocess(data, train)


@dataclasses.dataclass(eq=False)
class LoaderFactory:
    """Makes loaders of the kind that a config asks for; a split is put on the devices once."""

    data: DataConfig
    preprocess: Preprocess
    mesh: DeviceMesh
    put_split: in_memory.PutSplit = in_memory.put_split  # or `shapes_of_split`

    def __post_init__(self) -> None:
        self._in_memory: dict[str, Tree] = {}
        self._constants = self.mesh.put(self.preprocess.constants)

    def training(
        self,
        subset: Subset,
        batch_size: int,
        *,
        seed: int,
        num_epochs: int,
        max_steps: int,
        augmentation: Augmentation,
        sampling: str = "uniform",
    ) -> Loader:
        """Batches shuffled and augmented anew every epoch, at most `max_steps` in a stack.

        Where images are streamed, random crops are cut while they are decoded, when all their
        pixels are there; all other augmentation, and of images in memory all, is left to the step.
        `sampling` is that of the config.
        """
        classes, crops = subset.labels if sampling == "balanced" else None, None
        sampler = Sampler(subset.indices, batch_size, seed, classes)
        source = subset.source
        if augmentation.crops and not in_memory.is_in_memory(self.data, source):
            crops = RandomCrops(augmentation.crop_area, augmentation.crop_aspect, seed)
            augmentation = augmentation.without_crops()
        augment = make_augment(augmentation, source.fixed_shape, source.info.num_classes)
        total_steps = sampler.steps_per_epoch * num_epochs
        return self._make(source, sampler, max_steps, total_steps, augment, crops)

    def evaluation(self, subset: Subset, batch_size: int, num_devices: int) -> Loader:
        """One pass in order; a batch is at most the data, rounded up to a multiple of devices."""
        rounded = -(-min(batch_size, len(subset)) // num_devices) * num_devices
        sampler = Sampler(subset.indices, rounded, None)
        return self._make(subset.source, sampler, sampler.steps_per_epoch, None)

    def _make(
        self,
        source: Source,
        sampler: Sampler,
        max_steps: int,
        total_steps: int | None,
        augment: Augment | None = None,
        crops: RandomCrops | None = None,
    ) -> Loader:
        if not in_memory.is_in_memory(self.data, source):
            return StreamingLoader(
                source,
                self.preprocess,
                sampler,
                num_workers=self.data.num_workers,
                total_steps=total_steps,
                crops=crops,
                augment=augment,
                constants=self._constants,
                shard=self.mesh.shard,
            )
        sharded = self.data.loader == "sharded"
        if source.split not in self._in_memory:
            arrays = self.put_split(source, self.mesh, sharded=sharded)
            self._in_memory[source.split] = {**arrays, "constants": self._constants}
        return in_memory.InMemoryLoader(
            self._in_memory[source.split],
            self.preprocess,
            sampler,
            max_steps,
            augment,
            shard=self.mesh.shard,
            gather=self.mesh.take if sharded else operator.getitem,
        )
