"""Prepares data sets for training, checks them, and shows what augmentation makes of them.

`prepare` reads the published files from a folder of yours or downloads them, verifies them and
writes them once as TFDS array_record. `check` looks for images that are in two splits, test
included, or twice in one; it ends with status 1 if two splits share images. `show` draws training
images, each beside augmented ones, as a training would see them. All take a catalogue name,
`folder:PATH`, `table:FILE` or `tfds:PATH`; training prepares by itself too.

Examples:
  cnn-lab data prepare mnist --from_dir=downloads/mnist
  cnn-lab data prepare folder:photos --skip_bad_files
  cnn-lab data check cifar10
  cnn-lab data prepare my_images --imports=my_data
  cnn-lab data show mnist --augment=heavy --out=sheet.png
  cnn-lab data show folder:photos --image_size=64,64 --config.data.augment.options.mixup=0.2
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from absl.flags import FlagValues

from cnn_lab.cli import runtime
from cnn_lab.cli.flags import IMPORTS, Flag, Invocation, output_file
from cnn_lab.cli.reference import flag_text
from cnn_lab.cli.runtime import log
from cnn_lab.config import DataConfig, ExperimentConfig
from cnn_lab.config.imports import import_modules
from cnn_lab.config.load import load_config
from cnn_lab.config.node import override
from cnn_lab.config.values import Count
from cnn_lab.core.errors import ConfigError
from cnn_lab.core.files import write_bytes
from cnn_lab.core.text import counted

if TYPE_CHECKING:
    from cnn_lab.data.datasets.catalog import Dataset

TAKES_ARGUMENTS = True
MAX_LISTED = 10
LEAK_STATUS = 1
NUM_VERSIONS = 8  # of each image that `show` draws
SHOW_FLAGS = (
    Flag(
        "augment",
        "show: none, light or heavy; that of --config, or light, by default",
        Literal["none", "light", "heavy"],
        advice="recipes: --config.data.augment.recipe",
    ),
    Flag("config", "show: experiment whose data and augmentation to show"),
    Flag("out", "show: where the picture goes", default="sheet.png"),
    Flag("image_size", "show: HEIGHT,WIDTH"),
    Flag("num_images", "show: images", Count, 10),
    Flag("seed", "show: another seed, other images", int, 0),
)
FLAGS = (
    Flag("from_dir", "folder with the published files; else they are downloaded"),
    Flag(
        "data_dir",
        "where prepared data live; $CNN_LAB_DATA_DIR or the user's cache by default",
    ),
    Flag("skip_bad_files", "leave out files that are no images", bool),
    IMPORTS,
    *SHOW_FLAGS,
)


def main(invocation: Invocation) -> int:
    """Runs `prepare`, `check` or `show` on one data set."""
    if len(invocation.arguments) != 2:
        problem = "data takes an action and a name: cnn-lab data prepare|check|show NAME."
        raise ConfigError(problem, found=invocation.arguments)
    action, name = invocation.arguments
    actions = (*ACTIONS, "show")
    if action not in actions:
        problem = f"There is no action of data named {action!r}"
        raise ConfigError(problem, found=action, allowed=actions)
    values = invocation.flags
    import_modules(values.imports or (), where=f"--{IMPORTS.name}")
    data = DataConfig(data_dir=values.data_dir)
    given = [flag.name for flag in SHOW_FLAGS if values[flag.name].present]
    if action == "show":
        data = _data_to_show(invocation, name)
    elif invocation.overrides:
        path, _ = invocation.overrides[0]
        problem = f"data {action} takes no --config.* overrides."
        raise ConfigError(problem, where=f"--config.{path}")
    elif given:
        raise ConfigError(
            f"data {action} takes no --{given[0]}, which is for data show: leave it out.",
            where=f"--{given[0]}",
        )
    runtime.start_logging()
    from cnn_lab.data.datasets.catalog import open_dataset

    dataset = open_dataset(
        name,
        data.data_dir,
        from_dir=Path(values.from_dir) if values.from_dir else None,
        on_bad_files="skip" if values.skip_bad_files else "error",
        progress=log,
    )
    return _show(values, data, dataset) if action == "show" else ACTIONS[action](dataset)


def _data_to_show(invocation: Invocation, name: str) -> DataConfig:
    """The data and augmentation to show, from flags and config, which may not disagree."""
    values, overridden = invocation.flags, dict(invocation.overrides)
    if values.config:
        config = load_config(values.config, invocation.overrides)
    else:
        config = ExperimentConfig()
        config.data.augment.strength = "light"
        for path, text in invocation.overrides:
            override(config, path, text)
        import_modules(config.imports)
    data = config.data
    named = values.config or "data.name" in overridden
    if named and _comparable(data.name) != _comparable(name):
        raise ConfigError(
            f"data show {name} was asked for, but the config's data are {data.name}; give one of "
            "them in both places.",
            where="config.data.name",
            found=data.name,
        )
    data.name = name
    given, other = values.data_dir, overridden.get("data.data_dir")
    if given and other and _comparable(given) != _comparable(other):
        raise ConfigError(
            f"--data_dir={given} and --config.data.data_dir={other} are two places; leave one out.",
            where="--data_dir",
            found=given,
        )
    data.data_dir = given or data.data_dir
    if values.augment is not None:
        data.augment.strength = values.augment
    if values.image_size:
        override(config, "data.image_size", values.image_size)
    output_file(values.out, ".png")
    return data


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
    names = ", ".join(info.target.names[:MAX_LISTED])
    others = " ..." if len(info.target.names) > MAX_LISTED else ""
    targets = f"{info.target.describe()}: {names}{others}"
    log(f"  {size} {counted(channels, 'channel')}, {targets}")
    log("  " + ", ".join(f"{split} {count:,}" for split, count in info.split_sizes.items()))
    log(f"  licence: {info.licence}")
    return 0


def _check(dataset: "Dataset") -> int:
    from cnn_lab.data.datasets import duplicates
    from cnn_lab.data.datasets.catalog import unlock_test

    sources = {}
    # Train first, so that a leaked image is reported as one of the other split.
    for split in sorted(dataset.info.split_sizes, key=lambda split: split != "train"):
        # Looking for copies of test images in train is what keeps the test split honest.
        sources[split] = unlock_test(dataset) if split == "test" else dataset.split(split)
    pairs = duplicates.find_duplicates(sources, log)
    summary = duplicates.summarise_duplicates(pairs, sources)
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
        log(f"  {duplicates.describe_duplicate(pair, sources)}")
    if len(pairs) > MAX_LISTED:
        log(f"  ... and {len(pairs) - MAX_LISTED:,} more pairs")
    return LEAK_STATUS if summary.across else 0


def _show(values: FlagValues, data: DataConfig, dataset: "Dataset") -> int:
    from cnn_lab.data.augment.compose import augmented_versions
    from cnn_lab.data.augment.recipes import choose_augmentation, default_recipe
    from cnn_lab.data.subsets import whole_split
    from cnn_lab.report.sheet import contact_sheet, target_captions

    train = whole_split(dataset.split("train"), data)
    images, labels, targets = augmented_versions(
        train,
        choose_augmentation(data),
        num_images=values.num_images,
        num_versions=NUM_VERSIONS,
        seed=values.seed,
    )
    target = train.source.info.target
    mixed = targets.ndim > labels.ndim + 1
    captions = [
        ["original", *(target_captions(row, target) if mixed else [""] * len(row))]
        for row in targets
    ]
    names = target_captions(labels, target)
    write_bytes(Path(values.out), contact_sheet(images, names, captions))
    recipe = f"{data.augment.recipe or default_recipe(data.name)}, {data.augment.strength}"
    options = "".join(f", {name}" for name in data.augment.extra)
    options += "".join(f", {n} {flag_text(v)}" for n, v in data.augment.options.items())
    log(f"{len(labels)} training images of {dataset.info.name}, each with {NUM_VERSIONS} versions")
    log(f"  augmentation  {recipe}{options}")
    log(f"  picture       {values.out}")
    return 0


# `show` stands apart: it needs flags and config too.
ACTIONS: dict[str, Callable[["Dataset"], int]] = {"prepare": _prepare, "check": _check}
