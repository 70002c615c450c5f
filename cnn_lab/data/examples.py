"""Which examples of a data set take part, and which are held out."""

import dataclasses

import numpy as np
from jaxtyping import Int32, Int64

from cnn_lab.config import DataConfig
from cnn_lab.core.errors import ConfigError, DataError
from cnn_lab.core.formatting import counted
from cnn_lab.data.datasets.catalog import Dataset
from cnn_lab.data.source import Source
from cnn_lab.data.splits import stratified_split


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

    @property
    def labels(self) -> Int32[np.ndarray, " n"]:
        """Of these examples."""
        return self.source.labels[self.indices]

    def at(self, places: Int64[np.ndarray, " m"]) -> "Subset":
        """Some of these examples, by their places among them."""
        return Subset(self.source, self.indices[places])


def whole(source: Source, data: DataConfig) -> Subset:
    """All examples of a split, in the form that the config asks for."""
    if data.channels is not None:
        source = source.with_channels(data.channels)
    if data.image_size is not None:
        source = source.with_image_size(data.image_size)
    if data.classes is None:
        return Subset(source, np.arange(len(source), dtype=np.int64))
    source = source.with_classes(data.classes)
    return Subset(source, np.flatnonzero(source.labels >= 0))


def choose_examples(dataset: Dataset, data: DataConfig) -> tuple[Subset, Subset]:
    """The training examples, and the validation examples (none when nothing is held out).

    A data set's own validation split is used where there is one, as a whole or, where
    `num_validation` is set, a stratified, seeded slice of it; `validation_fraction` is a share of
    train and says nothing about it, except that 0 holds nothing out. Elsewhere it is a stratified,
    seeded, group-aware slice of train.

    Raises:
        ConfigError: there are fewer examples than were asked for.
    """
    everything = train = whole(dataset.split("train"), data)
    validation = Subset(train.source, train.indices[:0])
    wanted = data.num_validation if data.num_validation is not None else data.validation_fraction
    if wanted and "validation" in dataset.info.split_sizes:
        validation = _own_validation(whole(dataset.split("validation"), data), data)
    elif wanted:
        _check_held_out(wanted, len(train), dataset.info.name)
        groups = train.source.groups
        kept, held_out = stratified_split(
            train.labels,
            num_validation=data.num_validation,
            fraction=data.validation_fraction if data.num_validation is None else None,
            seed=data.split_seed,
            groups=None if groups is None else groups[train.indices],
        )
        train, validation = train.at(kept), train.at(held_out)
    if data.num_train is not None and data.num_train > len(train):
        held_out = len(everything) - len(train)
        without = f", {held_out:,} held out for validation aside" if held_out else ""
        raise ConfigError(
            f"config.data.num_train is {data.num_train}, but {dataset.info.name} has only "
            f"{counted(len(train), 'training example')}{without}; use at most that many."
        )
    if data.num_train is not None and data.num_train < len(train):
        _, chosen = stratified_split(
            train.labels, num_validation=data.num_train, seed=data.split_seed
        )
        train = train.at(chosen)
    return train, validation


def _check_held_out(wanted: int | float, num_examples: int, name: str) -> None:
    """Refuses to hold out all there is, or nothing, where some was asked for."""
    number = wanted if isinstance(wanted, int) else round(wanted * num_examples)
    if 1 <= number < num_examples:
        return
    examples = counted(num_examples, "training example")
    if isinstance(wanted, int):
        raise ConfigError(
            f"config.data.num_validation is {wanted}, but {name} has only {examples} to hold them "
            "out of; hold out fewer, or a share by config.data.validation_fraction."
        )
    raise ConfigError(
        f"config.data.validation_fraction is {wanted:g}, which holds out {number} of the "
        f"{examples} of {name}; hold out at least 1 and leave at least 1 to train on."
    )


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
    _, chosen = stratified_split(validation.labels, num_validation=wanted, seed=data.split_seed)
    return validation.at(chosen)


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
