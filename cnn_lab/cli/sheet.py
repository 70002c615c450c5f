"""`cnn-lab data show`: training images beside what augmentation makes of them."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import flags

from cnn_lab.cli.main import Invocation
from cnn_lab.cli.output import log, picture_path
from cnn_lab.cli.reference import flag_text
from cnn_lab.config import DataConfig, ExperimentConfig
from cnn_lab.config.load import load_config
from cnn_lab.config.node import override
from cnn_lab.core.errors import ConfigError
from cnn_lab.core.files import write_bytes

if TYPE_CHECKING:
    from cnn_lab.data.datasets.catalog import Dataset

STRENGTHS = ("none", "light", "heavy")
BATCH = 8  # altered versions of each image


def define_flags(values: flags.FlagValues) -> None:
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


def refuse_flags(invocation: Invocation, action: str) -> None:
    """Refuses the flags of `show` where something else is to be done.

    Raises:
        ConfigError: one was given.
    """
    shows = flags.FlagValues()
    define_flags(shows)
    if given := [name for name in shows if invocation.flags[name].present]:
        raise ConfigError(
            f"data {action} takes no --{given[0]}, which is for data show: leave it out."
        )


def data_of(invocation: Invocation, name: str) -> DataConfig:
    """What is to be shown, and from where.

    Raises:
        ConfigError: a flag that cannot be.
    """
    values = invocation.flags
    if values.config:
        config = load_config(values.config, invocation.overrides)
    else:
        config = ExperimentConfig()
        config.data.augment.strength = "light"
        for path, text in invocation.overrides:
            override(config, path, text)
    says = values.config or "data.name" in dict(invocation.overrides)
    if says and _place(config.data.name) != _place(name):
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
    """Where prepared data live: what the command line says, before what a config file says."""
    given = invocation.flags.data_dir
    said = dict(invocation.overrides).get("data.data_dir")
    if given and said and _place(given) != _place(said):
        raise ConfigError(
            f"--data_dir={given} and --config.data.data_dir={said} are two places; leave one out."
        )
    return given or data.data_dir


def _place(text: str) -> tuple[str, Path]:
    """The name or folder of data, as it can be compared."""
    kind, _, path = text.rpartition(":")
    # Path.expanduser raises where there is no such user.
    return kind, Path(os.path.expanduser(path)).resolve()  # noqa: PTH111


def show(invocation: Invocation, data: DataConfig, dataset: "Dataset") -> int:
    """Draws the sheet."""
    import jax
    import jax.numpy as jnp

    from cnn_lab.data.augment.choose import choose_augmentation, usual_recipe
    from cnn_lab.data.augment.make import make_augment
    from cnn_lab.data.examples import fixed_shape, whole
    from cnn_lab.report.sheet import contact_sheet

    values = invocation.flags
    train = whole(dataset.split("train"), data)
    augmentation = choose_augmentation(data)
    shape, class_names = fixed_shape(train.source), train.source.info.class_names
    augment = jax.jit(make_augment(augmentation, shape, len(class_names)))
    positions = train.indices[_one_a_class(train.labels, values.num_images, values.seed)]
    batch = train.source.gather(positions)
    images, labels = jnp.asarray(batch["image"]), jnp.asarray(batch["label"])
    columns, captions = [batch["image"]], [["original"] * len(positions)]
    for number in range(BATCH):
        key = jax.random.fold_in(jax.random.key(values.seed), number)
        # Images are mixed with their neighbours, which are others at every step of a training.
        order = np.random.default_rng((values.seed, number)).permutation(len(positions))
        back = np.argsort(order)
        altered, targets = augment(key, images[order], labels[order])
        pixels = np.clip(np.rint(np.asarray(altered)[back]), 0, 255).astype(np.uint8)
        columns.append(pixels)
        captions.append(_captions(np.asarray(targets)[back], class_names))
    write_bytes(
        Path(values.out),
        contact_sheet(
            np.stack(columns, axis=1),
            [class_names[label] for label in batch["label"]],
            [list(row) for row in zip(*captions, strict=True)],
        ),
    )
    recipe = f"{data.augment.recipe or usual_recipe(data.name)}, {data.augment.strength}"
    options = "".join(f", {n} {flag_text(v)}" for n, v in data.augment.options.items())
    log(f"{len(positions)} training images of {dataset.info.name}, each with {BATCH} versions")
    log(f"  augmentation  {recipe}{options}")
    log(f"  picture       {values.out}")
    return 0


def _one_a_class(labels: Any, num_images: int, seed: int) -> np.ndarray:
    """Positions of examples, class after class as long as there are any."""
    random = np.random.default_rng(seed)
    shuffled = random.permutation(len(labels))
    of_class = labels[shuffled]
    # How many of its class come before each example.
    order = np.argsort(of_class, kind="stable")
    counts = np.bincount(of_class)
    starts = np.repeat(np.cumsum(counts) - counts, counts)
    rank = np.empty(len(labels), np.int64)
    rank[order] = np.arange(len(labels)) - starts
    chosen = np.sort(shuffled[np.lexsort((of_class, rank))[:num_images]])
    return chosen[np.argsort(labels[chosen], kind="stable")]


def _captions(targets: np.ndarray, class_names: tuple[str, ...]) -> list[str]:
    """The classes of a mixed image, the largest share first; of others, nothing."""
    if targets.ndim == 1:
        return [""] * len(targets)

    def parts(shares: np.ndarray) -> str:
        largest = [k for k in np.argsort(-shares, kind="stable")[:2] if shares[k] >= 0.005]
        return ", ".join(f"{class_names[k]} {shares[k]:.0%}" for k in largest)

    return [parts(shares) for shares in targets]
