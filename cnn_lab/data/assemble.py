"""From a `DataConfig` to examples and pipelines."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Int64

from cnn_lab.config import DataConfig
from cnn_lab.core.errors import ConfigError, DataError
from cnn_lab.core.memory import host_bytes
from cnn_lab.core.numbers import counted, human_bytes
from cnn_lab.core.shapes import Tree
from cnn_lab.data.augment.crops import RandomCrops
from cnn_lab.data.augment.make import Augment, make_augment
from cnn_lab.data.augment.recipes import Augmentation
from cnn_lab.data.catalog import Dataset
from cnn_lab.data.moments import moments_of
from cnn_lab.data.order import Order
from cnn_lab.data.pipelines import Pipeline, ResidentPipeline, StreamingPipeline
from cnn_lab.data.preprocess import Preprocess, check_channels
from cnn_lab.data.source import Source
from cnn_lab.data.splits import stratified_split

MIB = 2**20
PlaceSplit = Callable[[Source, Any], Tree]


@dataclasses.dataclass(frozen=True)
class Subset:
    """Some examples of one split.

    Attributes:
        source: the split, with the size and channels of the config.
        indices: positions in it, int64 [n].
    """

    source: Source
    indices: Int64[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.indices)


def whole(source: Source, data: DataConfig) -> Subset:
    """All examples of a split, in the form that the config asks for."""
    if data.channels is not None:
        source = source.with_channels(data.channels)
    if data.image_size is not None:
        source = source.with_image_size(data.image_size)
    return Subset(source, np.arange(len(source), dtype=np.int64))


def choose_examples(dataset: Dataset, data: DataConfig) -> tuple[Subset, Subset]:
    """The training examples, and the validation examples (none when nothing is held out).

    A data set's own validation split is used where there is one, as a whole or, where
    `num_validation` is set, a stratified, seeded slice of it; `validation_fraction` is a share of
    train and says nothing about it, except that 0 holds nothing out. Elsewhere it is a stratified,
    seeded, group-aware slice of train.

    Raises:
        ConfigError: there are fewer examples than were asked for.
    """
    train = whole(dataset.split("train"), data)
    validation = Subset(train.source, train.indices[:0])
    wanted = data.num_validation if data.num_validation is not None else data.validation_fraction
    if wanted and "validation" in dataset.info.split_sizes:
        validation = _own_validation(whole(dataset.split("validation"), data), data)
    elif wanted:
        kept, held_out = stratified_split(
            train.source.labels,
            num_validation=data.num_validation,
            fraction=data.validation_fraction if data.num_validation is None else None,
            seed=data.split_seed,
            groups=train.source.groups,
        )
        train, validation = Subset(train.source, kept), Subset(train.source, held_out)
    if data.num_train is not None and data.num_train > len(train):
        held_out = len(train.source) - len(train)
        without = f", {held_out:,} held out for validation aside" if held_out else ""
        raise ConfigError(
            f"config.data.num_train is {data.num_train}, but {dataset.info.name} has only "
            f"{counted(len(train), 'training example')}{without}; use at most that many."
        )
    if data.num_train is not None and data.num_train < len(train):
        labels = train.source.labels[train.indices]
        _, chosen = stratified_split(labels, num_validation=data.num_train, seed=data.split_seed)
        train = Subset(train.source, train.indices[chosen])
    return train, validation


def _own_validation(validation: Subset, data: DataConfig) -> Subset:
    wanted = data.num_validation
    if wanted is None or wanted == len(validation):
        return validation
    if wanted > len(validation):
        raise ConfigError(
            f"config.data.num_validation is {wanted}, but {validation.source.info.name} has a "
            f"validation split of its own with {len(validation)} examples; use at most that many, "
            "or leave it out to use them all."
        )
    # The rest is not used, so groups need not stay together.
    labels = validation.source.labels
    _, chosen = stratified_split(labels, num_validation=wanted, seed=data.split_seed)
    return Subset(validation.source, validation.indices[chosen])


def fixed_shape(source: Source) -> tuple[int, int, int]:
    """(h, w, c) of a source's images.

    Raises:
        DataError: they differ in size.
    """
    height, width, channels = source.info.image_shape
    if height is None or width is None:
        raise DataError(
            f"The images of {source.info.name} differ in size; set config.data.image_size, for "
            "example --config.data.image_size=224,224."
        )
    return height, width, channels


def is_resident(data: DataConfig, source: Source) -> bool:
    """Whether the config keeps a split on the devices: when told to, or when it is small."""
    num_bytes = len(source) * int(np.prod(fixed_shape(source)))
    small = num_bytes <= data.resident_limit_mib * MIB
    return data.pipeline == "resident" or (data.pipeline == "auto" and small)


def make_preprocess(data: DataConfig, train: Subset) -> Preprocess:
    """Padding and normalisation, measured on the training examples where the config says nothing.

    Raises:
        ConfigError: mean or std have another number of channels than the images.
    """
    if data.mean is not None and data.std is not None:
        mean, std = data.mean, data.std
    else:
        in_memory = is_resident(data, train.source)
        if in_memory:
            check_fits(train.source)
        mean, std = moments_of(train.source, train.indices, in_memory=in_memory)
    preprocess = Preprocess(mean, std, data.pad)
    check_channels(preprocess, train.source.info.image_shape[2])
    return preprocess


def unmeasured_preprocess(data: DataConfig, train: Subset) -> Preprocess:
    """As `make_preprocess`, with a half where it would look at pixels: for shapes only."""
    if data.mean is None or data.std is None:
        half = (0.5,) * train.source.info.image_shape[2]
        data = dataclasses.replace(data, mean=half, std=half)
    return make_preprocess(data, train)


def place_split(source: Source, sharding: Any) -> Tree:
    """A whole split on the devices."""
    check_fits(source)
    images, labels = source.read_all()
    return jax.device_put({"image": images, "label": labels}, sharding)


def check_fits(source: Source) -> None:
    """Refuses a split that is larger than the memory, before it is read as a whole.

    Raises:
        DataError: it is; the system would answer by a kill.
    """
    num_bytes, most = len(source) * int(np.prod(fixed_shape(source))), host_bytes()
    if most is not None and num_bytes > most:
        raise DataError(
            f"The images of split {source.split!r} of {source.info.name} take "
            f"{human_bytes(num_bytes)}, but there are {human_bytes(most)} of memory; set "
            "config.data.pipeline=streaming or lower config.data.image_size."
        )


def shapes_of_split(source: Source, sharding: Any) -> Tree:  # noqa: ARG001 - as `place_split`
    """Shapes of what `place_split` would return; no pixel is read."""
    return {
        "image": jax.ShapeDtypeStruct((len(source), *fixed_shape(source)), np.uint8),
        "label": jax.ShapeDtypeStruct((len(source),), np.int32),
    }


def augment_of(source: Source, augmentation: Augmentation) -> Augment:
    """The augmentation of a source's images in the compiled step.

    Raises:
        ConfigError: it does not fit images of their size.
    """
    return make_augment(augmentation, fixed_shape(source), source.info.num_classes)


class PipelineMaker:
    """Makes pipelines of the kind that a config asks for; splits are placed on devices once.

    Args:
        data: the config.
        preprocess: what happens to the images in the compiled step.
        sharding: where resident data lie.
        place: (split, sharding) -> its arrays there, `place_split` or `shapes_of_split`.
    """

    def __init__(
        self,
        data: DataConfig,
        preprocess: Preprocess,
        sharding: Any,
        place: PlaceSplit = place_split,
    ):
        self._data = data
        self._preprocess = preprocess
        self._sharding = sharding
        self._place_split = place
        self._placed: dict[str, Tree] = {}

    def training(
        self,
        subset: Subset,
        batch_size: int,
        *,
        seed: int,
        num_epochs: int,
        longest: int,
        augmentation: Augmentation,
    ) -> Pipeline:
        """Shuffled and altered anew every epoch; a feed holds at most `longest` steps.

        Where images are streamed, random crops are taken while they are decoded, when all their
        pixels are there; all other changes, and of resident images all, are left to the step.
        """
        classes = None
        if self._data.sampling == "balanced":
            classes = subset.source.labels[subset.indices]
        order = Order(subset.indices, batch_size, seed, classes)
        return self._altering(subset.source, order, seed, num_epochs, longest, augmentation)

    def passes(
        self,
        subset: Subset,
        batch_size: int,
        *,
        seed: int,
        num_passes: int,
        augmentation: Augmentation,
    ) -> Pipeline:
        """Every example once a pass, shuffled and altered anew; a feed holds one step."""
        order = Order(subset.indices, batch_size, seed)
        return self._altering(subset.source, order, seed, num_passes, 1, augmentation)

    def evaluation(self, subset: Subset, batch_size: int, num_devices: int) -> Pipeline:
        """One pass in order; the batch is at most the data, rounded up to what devices share."""
        rounded = -(-min(batch_size, len(subset)) // num_devices) * num_devices
        order = Order(subset.indices, rounded, None)
        if is_resident(self._data, subset.source):
            images = self._place(subset.source)
            return ResidentPipeline(images, self._preprocess, order, order.steps_per_epoch)
        num_workers = self._data.num_workers
        return StreamingPipeline(
            subset.source, self._preprocess, order, num_workers=num_workers, total_steps=None
        )

    def _altering(
        self,
        source: Source,
        order: Order,
        seed: int,
        num_epochs: int,
        longest: int,
        augmentation: Augmentation,
    ) -> Pipeline:
        if is_resident(self._data, source):
            images, augment = self._place(source), augment_of(source, augmentation)
            return ResidentPipeline(images, self._preprocess, order, longest, augment)
        crops = None
        if augmentation.crops:
            crops = RandomCrops(augmentation.crop_area, augmentation.crop_aspect, seed)
        return StreamingPipeline(
            source,
            self._preprocess,
            order,
            num_workers=self._data.num_workers,
            total_steps=order.steps_per_epoch * num_epochs,
            crops=crops,
            augment=augment_of(source, augmentation.without_crops()),
        )

    def _place(self, source: Source) -> Tree:
        if source.split not in self._placed:
            self._placed[source.split] = self._place_split(source, self._sharding)
        return self._placed[source.split]
