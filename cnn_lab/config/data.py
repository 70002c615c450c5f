"""The data of an experiment: data set, form of the images, splits, loader and augmentation."""

import dataclasses
from typing import Any, Literal

from cnn_lab.config.node import Node, runtime
from cnn_lab.config.values import Count, Fraction, Natural, Positive, ProperFraction, Seed

NO_DATA = "none"  # the name of the data of a run whose weights came from elsewhere


@dataclasses.dataclass(kw_only=True)
class AugmentConfig(Node):
    """The augmentation of training images, drawn at every step, inside the compiled step.

    Attributes:
        strength: one knob for a whole recipe.
        recipe: as `cnn-lab list augmentations` shows it; None takes that of the kind of data:
            `strokes` for handwritten digits, `cifar` for CIFAR, `photos` for all else.
        options: single values that differ from the recipe's, such as `flip` or `mixup`;
            `cnn-lab list augmentations NAME` shows them.
        extra: augmentations of your own (`config.imports`) that follow, one after the other, at
            any strength, before images are mixed; the options of one are `options.NAME.OPTION`.
    """

    strength: Literal["none", "light", "heavy"] = "none"
    recipe: str | None = None
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    extra: tuple[str, ...] = ()


@dataclasses.dataclass(kw_only=True)
class DataConfig(Node):
    """The data set, the form of its images, its splits and its loader.

    Attributes:
        name: a catalogue name (`mnist`), `folder:PATH`, `table:FILE`, `tfds:PATH` or `tfds:NAME`.
        classes: names of the classes that take part, in the order of their labels; None takes all.
        image_size: (height, width) that images are resized to; None keeps their own.
        pad: rows and columns of black added on every side after resizing, in pixels.
        channels: 1 or 3; None keeps the data's own.
        mean: per-channel mean in [0, 1]; None measures the training split.
        std: per-channel standard deviation; None measures the training split.
        num_validation: examples held out of train, or taken from the data's own validation split
            where there is one; None uses `validation_fraction`.
        validation_fraction: share of train held out where the data have no validation split of
            their own; 0 holds out none.
        num_train: examples of train that are used, each class in proportion; None uses all.
        sampling: `uniform` draws every training example once an epoch; `balanced` draws every class
            equally often, the examples of small ones repeatedly and not all of large ones.
        augment: the augmentation of training images.
        split_seed: seed of these choices, apart from the training seed.
        loader: `in_memory` keeps the whole data set on each of the devices, `sharded` a part of it
            on each, `streaming` decodes in workers; `auto` decides by size between the first and
            the last. Only random resized crops differ where they are streamed: a run that
            draws any is resumed with the loader that it started with.
        in_memory_limit_mib: largest data set that `auto` keeps in memory.
        num_workers: decoding processes of the streaming loader; 0 decodes in threads.
        data_dir: where prepared data sets live; None is the user's cache.
    """

    name: str = "digits"
    classes: tuple[str, ...] | None = None
    image_size: tuple[Count, Count] | None = None
    pad: Natural = 0
    channels: Literal[1, 3] | None = None
    mean: tuple[Fraction, ...] | None = None
    std: tuple[Positive, ...] | None = None
    num_validation: Natural | None = None
    validation_fraction: ProperFraction = 0.1
    num_train: Count | None = None
    sampling: Literal["uniform", "balanced"] = "uniform"
    augment: AugmentConfig = dataclasses.field(default_factory=AugmentConfig)
    split_seed: Seed = 0
    loader: Literal["auto", "in_memory", "sharded", "streaming"] = runtime("auto")
    in_memory_limit_mib: Natural = runtime(2048)
    num_workers: Natural = runtime(0)
    data_dir: str | None = runtime(None)
