"""Prepares data sets for training, checks them, and shows what augmentation makes of them.

`prepare` reads the published files from a folder of yours or downloads them, verifies them and
writes them once as TFDS array_record. `check` looks for images that are in two splits, test
included, or twice in one; it ends with status 1 if two splits share images. `show` draws training
images, each beside augmented ones, as a training would see them. All take a catalogue name,
`folder:PATH` or `tfds:PATH`; training prepares by itself too.

Examples:
  cnn-lab data prepare mnist --from_dir=downloads/mnist
  cnn-lab data prepare folder:photos --skip_bad_files
  cnn-lab data check cifar10
  cnn-lab data show mnist --augment=heavy --out=sheet.png
  cnn-lab data show folder:photos --image_size=64,64 --config.data.augment.options.mixup=0.2
"""

import functools
import os
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from cnn_lab.cli import runtime
from cnn_lab.cli.main import Invocation
from cnn_lab.cli.reference import flag_text
from cnn_lab.cli.runtime import log, picture_path
from cnn_lab.config import DataConfig, ExperimentConfig
from cnn_lab.config.load import load_config
from cnn_lab.config.node import override
from cnn_lab.core.errors import ConfigError, counted, lookup
from cnn_lab.core.files import write_bytes

if TYPE_CHECKING:
    from cnn_lab.data.datasets.catalog import Dataset

MAX_LISTED = 10
LEAK_STATUS = 1
STRENGTHS = ("none", "light", "heavy")
NUM_VERSIONS = 8  # of each image that `show` draws


def define_flags(values: flags.FlagValues) -> None:
    """Declares the flags of this command."""
    flags.DEFINE_string(
        "from_dir",
        None,
        "folder with the published files; else they are downloaded",
        flag_values=values,
    )
    flags.DEFINE_string(
        "data_dir",
        None,
        "where prepared data live; $CNN_LAB_DATA_DIR or the user's cache by default",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "skip_bad_files", False, "leave out files that are no images", flag_values=values
    )
    _define_show_flags(values)


def _define_show_flags(values: flags.FlagValues) -> None:
    """Declares the flags of `show`."""
    flags.DEFINE_string(
        "augment",
        None,
        "show: none, light or heavy; that of --config, or light, by default",
        flag_values=values,
    )
    flags.DEFINE_string(
        "config", None, "show: experiment whose data and augmentation to show", flag_values=values
    )
    flags.DEFINE_string("out", "sheet.png", "show: where the picture goes", flag_values=values)
    flags.DEFINE_string("image_size", None, "show: HEIGHT,WIDTH", flag_values=values)
    flags.DEFINE_integer("num_images", 10, "show: images", flag_values=values)
    flags.DEFINE_integer("seed", 0, "show: another seed, other images", flag_values=values)


def main(invocation: Invocation) -> int:
    """Runs `prepare`, `check` or `show` on one data set."""
    if len(invocation.arguments) != 2:
        raise ConfigError("data takes an action and a name: cnn-lab data prepare|check|show NAME.")
    action, name = invocation.arguments
    act = lookup(ACTIONS, action, "action of data")
    values = invocation.flags
    data_dir = values.data_dir
    if action == "show":
        data = _data_to_show(invocation, name)
        act, data_dir = functools.partial(_show, invocation, data), data.data_dir
    elif invocation.overrides:
        raise ConfigError(f"data {action} takes no --config.* overrides.")
    else:
        _refuse_show_flags(invocation, action)
    runtime.start_logging()
    from cnn_lab.data.datasets.catalog import open_dataset

    dataset = open_dataset(
        name,
        data_dir,
        from_dir=Path(values.from_dir) if values.from_dir else None,
        on_bad_files="skip" if values.skip_bad_files else "error",
        progress=log,
    )
    return act(dataset)


def _refuse_show_flags(invocation: Invocation, action: str) -> None:
    """Refuses the flags of `show` for another action.

    Raises:
        ConfigError: one was given.
    """
    show_flags = flags.FlagValues()
    _define_show_flags(show_flags)
    if given := [name for name in show_flags if invocation.flags[name].present]:
        raise ConfigError(
            f"data {action} takes no --{given[0]}, which is for data show: leave it out."
        )


def _data_to_show(invocation: Invocation, name: str) -> DataConfig:
    """The data and augmentation to show, from flags and config.

    Raises:
        ConfigError: a flag that does not fit, or two that disagree.
    """
    values = invocation.flags
    if values.config:
        config = load_config(values.config, invocation.overrides)
    else:
        config = ExperimentConfig()
        config.data.augment.strength = "light"
        for path, text in invocation.overrides:
            override(config, path, text)
    named = values.config or "data.name" in dict(invocation.overrides)
    if named and _comparable(config.data.name) != _comparable(name):
        raise ConfigError(
            f"data show {name} was asked for, but the config's data are {config.data.name}; give "
            "one of them in both places."
        )
    config.data.name = name
    config.data.data_dir = _data_dir(invocation, config.data)
    if values.augment is not None:
        if values.augment not in STRENGTHS:
            raise ConfigError(
                f"--augment must be one of {', '.join(STRENGTHS)}; found {values.augment!r}. "
                "Recipes: --config.data.augment.recipe."
            )
        config.data.augment.strength = values.augment
    if values.image_size:
        override(config, "data.image_size", values.image_size)
    if values.num_images < 1:
        raise ConfigError(f"--num_images must be at least 1; found {values.num_images}.")
    picture_path(values.out)
    return config.data


def _data_dir(invocation: Invocation, data: DataConfig) -> str | None:
    """The folder of prepared data: that of the command line before that of a config file."""
    given = invocation.flags.data_dir
    overridden = dict(invocation.overrides).get("data.data_dir")
    if given and overridden and _comparable(given) != _comparable(overridden):
        raise ConfigError(
            f"--data_dir={given} and --config.data.data_dir={overridden} are two places; leave one "
            "out."
        )
    return given or data.data_dir


def _comparable(text: str) -> tuple[str, Path]:
    """The name or folder of data in a form that can be compared."""
    kind, _, path = text.rpartition(":")
    # Path.expanduser raises where there is no such user.
    return kind, Path(os.path.expanduser(path)).resolve()  # noqa: PTH111


def _prepare(dataset: "Dataset") -> int:
    from cnn_lab.data.storage.prepared import check_files_of

    info = dataset.info
    check_files_of(dataset.storage, info)
    height, width, channels = info.image_shape
    size = f"{height}x{width}" if height and width else "images of various sizes,"
    log(f"{info.name} is ready in {dataset.storage.directory}")
    classes = f"{counted(info.num_classes, 'class')}: {_few(info.class_names)}"
    log(f"  {size} {counted(channels, 'channel')}, {classes}")
    log("  " + ", ".join(f"{split} {count:,}" for split, count in info.split_sizes.items()))
    log(f"  licence: {info.licence}")
    return 0


def _check(dataset: "Dataset") -> int:
    from cnn_lab.data.datasets.catalog import unlock_test
    from cnn_lab.data.datasets.duplicates import (
        describe_duplicate,
        find_duplicates,
        summarise_duplicates,
    )

    sources = {}
    # Train first, so that a leaked image is reported as one of the other split.
    for split in sorted(dataset.info.split_sizes, key=lambda split: split != "train"):
        # Looking for copies of test images in train is what keeps the test split honest.
        sources[split] = unlock_test(dataset) if split == "test" else dataset.split(split)
    pairs = find_duplicates(sources, log)
    summary = summarise_duplicates(pairs, sources)
    images = counted(sum(map(len, sources.values())), "image")
    log(f"{dataset.info.name}: {images} in {', '.join(sources)}")
    for split, count in summary.within.items():
        log(f"  {count:,} image(s) of {split} are in it more than once")
    for (split_a, split_b), count in summary.across.items():
        log(f"  {count:,} image(s) of {split_b} are in {split_a} too")
    log(f"  {len(pairs):,} duplicate(s), {len(summary.disagreeing):,} of them under two labels")
    # Those between splits first: they are what makes a score worth less.
    pairs = sorted(pairs, key=lambda pair: pair[0] == pair[2])
    for pair in pairs[:MAX_LISTED]:
        log(f"  {describe_duplicate(pair, sources)}")
    if len(pairs) > MAX_LISTED:
        log(f"  ... and {len(pairs) - MAX_LISTED:,} more pairs")
    return LEAK_STATUS if summary.across else 0


def _show(invocation: Invocation, data: DataConfig, dataset: "Dataset") -> int:
    from cnn_lab.data.augment.compose import augmented_versions
    from cnn_lab.data.augment.recipes import choose_augmentation, default_recipe
    from cnn_lab.data.subsets import whole_split
    from cnn_lab.report.sheet import contact_sheet, target_captions

    values = invocation.flags
    train = whole_split(dataset.split("train"), data)
    images, labels, targets = augmented_versions(
        train,
        choose_augmentation(data),
        num_images=values.num_images,
        num_versions=NUM_VERSIONS,
        seed=values.seed,
    )
    class_names = train.source.info.class_names
    captions = [["original", *target_captions(row, class_names)] for row in targets]
    names = [class_names[label] for label in labels]
    write_bytes(Path(values.out), contact_sheet(images, names, captions))
    recipe = f"{data.augment.recipe or default_recipe(data.name)}, {data.augment.strength}"
    options = "".join(f", {n} {flag_text(v)}" for n, v in data.augment.options.items())
    log(f"{len(labels)} training images of {dataset.info.name}, each with {NUM_VERSIONS} versions")
    log(f"  augmentation  {recipe}{options}")
    log(f"  picture       {values.out}")
    return 0


ACTIONS = {"prepare": _prepare, "check": _check, "show": _show}


def _few(names: tuple[str, ...]) -> str:
    return ", ".join(names[:MAX_LISTED]) + (" ..." if len(names) > MAX_LISTED else "")
