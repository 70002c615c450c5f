"""Prepares data sets for training, checks them, and shows what augmentation makes of them.

`prepare` reads the published files from a folder of yours or downloads them, verifies them and
writes them once as TFDS array_record. `check` looks for images that are in two splits, test
included, or twice in one; it ends with status 1 if two splits share images. `show` draws training
images, each beside altered ones, as a training would see them. All take a catalogue name,
`folder:PATH` or `tfds:PATH`; training prepares by itself too.

Examples:
  cnn-lab data prepare mnist --from_dir=downloads/mnist
  cnn-lab data prepare folder:photos --skip_bad_files
  cnn-lab data check cifar10
  cnn-lab data show mnist --augment=heavy --out=sheet.png
  cnn-lab data show folder:photos --image_size=64,64 --config.data.augment.options.mixup=0.2
"""

import functools
import sys
from pathlib import Path

from absl import flags

from cnn_lab.cli import runtime, sheet
from cnn_lab.cli.main import Invocation
from cnn_lab.core.errors import ConfigError, lookup
from cnn_lab.core.formatting import counted

SHOWN = 10
LEAK_STATUS = 1


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
    sheet.define_flags(values)


def main(invocation: Invocation) -> int:
    """Runs `prepare`, `check` or `show` on one data set."""
    if len(invocation.arguments) != 2:
        raise ConfigError("data takes an action and a name: cnn-lab data prepare|check|show NAME.")
    action, name = invocation.arguments
    act = lookup(ACTIONS, action, "action of data")
    values = invocation.flags
    data_dir = values.data_dir
    if action == "show":
        data = sheet.data_of(invocation, name)
        act, data_dir = functools.partial(act, invocation, data), data.data_dir
    elif invocation.overrides:
        raise ConfigError(f"data {action} takes no --config.* overrides.")
    else:
        sheet.refuse_flags(invocation, action)
    runtime.start_logging()
    from cnn_lab.data.datasets.catalog import open_dataset

    dataset = open_dataset(
        name,
        data_dir,
        from_dir=Path(values.from_dir) if values.from_dir else None,
        on_bad_files="skip" if values.skip_bad_files else "error",
        progress=_say,
    )
    return act(dataset)


def _prepare(dataset) -> int:
    from cnn_lab.data.storage.prepared import check_files_of

    info = dataset.info
    check_files_of(dataset.storage, info)
    height, width, channels = info.image_shape
    size = f"{height}x{width}" if height and width else "images of various sizes,"
    _say(f"{info.name} is ready in {dataset.storage.directory}")
    classes = f"{counted(info.num_classes, 'class')}: {_few(info.class_names)}"
    _say(f"  {size} {counted(channels, 'channel')}, {classes}")
    _say("  " + ", ".join(f"{split} {count:,}" for split, count in info.split_sizes.items()))
    _say(f"  licence: {info.licence}")
    return 0


def _check(dataset) -> int:
    from cnn_lab.data.datasets.catalog import unlock_test
    from cnn_lab.data.datasets.duplicates import (
        describe_duplicate,
        find_duplicates,
        summarise_duplicates,
    )

    sources = {}
    # Train first, so that a leaked image is told as one of the other split's.
    for split in sorted(dataset.info.split_sizes, key=lambda split: split != "train"):
        # Looking for copies of test images in train is what keeps the test split honest.
        sources[split] = unlock_test(dataset) if split == "test" else dataset.split(split)
    pairs = find_duplicates(sources, _say)
    summary = summarise_duplicates(pairs, sources)
    images = counted(sum(map(len, sources.values())), "image")
    _say(f"{dataset.info.name}: {images} in {', '.join(sources)}")
    for split, count in summary.within.items():
        _say(f"  {count:,} image(s) of {split} are in it more than once")
    for (split_a, split_b), count in summary.across.items():
        _say(f"  {count:,} image(s) of {split_b} are in {split_a} too")
    _say(f"  {len(pairs):,} duplicate(s), {len(summary.disagreeing):,} of them under two labels")
    # Those between splits first: they are what makes a score worth less.
    pairs = sorted(pairs, key=lambda pair: pair[0] == pair[2])
    for pair in pairs[:SHOWN]:
        _say(f"  {describe_duplicate(pair, sources)}")
    if len(pairs) > SHOWN:
        _say(f"  ... and {len(pairs) - SHOWN:,} more pairs")
    return LEAK_STATUS if summary.across else 0


ACTIONS = {"prepare": _prepare, "check": _check, "show": sheet.show}


def _few(names: tuple[str, ...]) -> str:
    return ", ".join(names[:SHOWN]) + (" ..." if len(names) > SHOWN else "")


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
