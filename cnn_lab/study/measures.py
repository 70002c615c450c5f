"""What a study reads off a finished training."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int64

from cnn_lab.config import ExperimentConfig, Variant
from cnn_lab.core.errors import ConfigError
from cnn_lab.core.shapes import Images, RawImages
from cnn_lab.data.assemble import Subset, choose_examples
from cnn_lab.data.catalog import open_dataset
from cnn_lab.study.rows import Row
from cnn_lab.train.log import METRICS_FILE, read_rows
from cnn_lab.train.views import PLACES, shifted
from cnn_lab.trained import Trained, open_trained

MOST_UNSEEN = 10_000
AT_ONCE = 1000  # images
SHIFTS = (0, 1, 2, 3, 4)  # pixels


@dataclasses.dataclass(frozen=True)
class Finished:
    """A training that has ended.

    Attributes:
        variant: what it is of.
        seed: its.
        config: its.
        workdir: its.
    """

    variant: Variant
    seed: int
    config: ExperimentConfig
    workdir: Path

    def row(self, measure: str, value: float, x: Any = None) -> Row:
        """A measurement of this training.

        Args:
            measure: what was measured.
            value: the number.
            x: level of the measure's own, such as an epoch; the variant itself is the series then.
        """
        if x is None:
            return Row(self.variant.series, self.variant.x, self.seed, measure, float(value))
        return Row(name_of(self.variant), x, self.seed, measure, float(value))

    def rows(self, split: str) -> list[dict[str, Any]]:
        """Metric rows of one split."""
        return [r for r in read_rows(self.workdir / METRICS_FILE) if r["split"] == split]

    @functools.cached_property
    def trained(self) -> Trained:
        """The weights to judge: the best where a rule chose them, else the last."""
        return open_trained(
            self.workdir, "latest" if self.config.early_stopping is None else "best"
        )


def name_of(variant: Variant) -> str:
    """Series and place of a variant, in words."""
    if variant.x is None:
        return variant.series
    place = f"{variant.x:g}" if isinstance(variant.x, int | float) else variant.x
    return f"{variant.series} {place}".strip()


def unseen_accuracy(run: Finished) -> list[Row]:
    """Share that is right of training-split examples that this run neither trained nor chose on."""
    images, labels = _unseen(run.config)
    return [
        run.row("unseen accuracy", (_probabilities(run.trained, images).argmax(1) == labels).mean())
    ]


def training_accuracy(run: Finished) -> list[Row]:
    """Share that is right of the training examples as they are, without dropout or augmentation."""
    train, _ = choose_examples(_dataset(run.config), run.config.data)
    images, labels = _read(train, train.indices)
    found = _probabilities(run.trained, images).argmax(1) == labels
    return [run.row("training accuracy", found.mean())]


def training_loss(run: Finished) -> list[Row]:
    """Mean loss of the last epoch's steps."""
    return [run.row("training loss", run.rows("train")[-1]["loss"] or np.nan)]


def training_loss_by_epoch(run: Finished) -> list[Row]:
    """Mean loss of the steps up to each logged epoch."""
    return [
        run.row(
            "training loss by epoch", np.nan if row["loss"] is None else row["loss"], row["epoch"]
        )
        for row in run.rows("train")
    ]


def validation_accuracy(run: Finished) -> list[Row]:
    """Of the last evaluation."""
    return [run.row("validation accuracy", run.rows("validation")[-1]["accuracy"])]


def shifted_accuracy(run: Finished) -> list[Row]:
    """On unseen images moved by some pixels up, down, left or right, by the number of pixels."""
    images, labels = _unseen(run.config)
    rows = []
    for pixels in SHIFTS:
        places = PLACES[1:] if pixels else PLACES[:1]
        right = [
            _probabilities(run.trained, images, (down * pixels, across * pixels)).argmax(1)
            == labels
            for down, across in places
        ]
        rows.append(run.row("accuracy on shifted images", float(np.mean(right)), pixels))
    return rows


def dead_units(run: Finished) -> list[Row]:
    """Share of the backbone's units that give the same value, 0, for all unseen images."""
    images, _ = _unseen(run.config)
    network, variables = run.trained.network, run.trained.variables

    @jax.jit
    def largest(images: RawImages) -> dict[str, Array]:
        maps: Any = network.model.apply(
            variables,
            network.preprocess(images),
            method=lambda model, x: model.backbone(x, train=False),
        )
        hidden = {name: values for name, values in maps.items() if name != "pixels"}
        return {name: jnp.abs(values).max(axis=0) for name, values in hidden.items()}

    parts = [jax.device_get(largest(chunk)) for chunk in _chunks(images)]
    units = np.concatenate([np.max([p[name] for p in parts], axis=0).ravel() for name in parts[0]])
    return [run.row("dead units", (units == 0).mean())]


def ensembles(runs: Sequence[Finished]) -> list[Row]:
    """Accuracy of averaged probabilities by the number of members, each run once the first one.

    The members of an ensemble are a run and those of the next seeds, so ensembles share members.
    """
    images, labels = _unseen(runs[0].config)
    each = [_probabilities(run.trained, images) for run in runs]
    rows = []
    for size in range(1, len(runs) + 1):
        for first, run in enumerate(runs):
            members = [each[(first + index) % len(each)] for index in range(size)]
            right = np.sum(members, axis=0).argmax(1) == labels
            rows.append(run.row("accuracy of the ensemble", right.mean(), size))
    return rows


MEASURES: dict[str, Callable[[Finished], list[Row]]] = {
    "accuracy on shifted images": shifted_accuracy,
    "dead units": dead_units,
    "training accuracy": training_accuracy,
    "training loss": training_loss,
    "training loss by epoch": training_loss_by_epoch,
    "unseen accuracy": unseen_accuracy,
    "validation accuracy": validation_accuracy,
}
OVER_SEEDS: dict[str, Callable[[Sequence[Finished]], list[Row]]] = {
    "accuracy of the ensemble": ensembles,
}


def _dataset(config: ExperimentConfig) -> Any:
    return open_dataset(config.data.name, config.data.data_dir)


def _unseen(config: ExperimentConfig) -> tuple[np.ndarray, np.ndarray]:
    """Examples of the training split that are in neither part of it, always the same ones."""
    train, validation = choose_examples(_dataset(config), config.data)
    used = np.concatenate([train.indices, validation.indices])
    left = np.setdiff1d(np.arange(len(train.source), dtype=np.int64), used)
    if not len(left):
        raise ConfigError(
            f"The study trains and validates on all of {config.data.name}, so no example is left "
            "to judge by; set config.data.num_train lower."
        )
    if len(left) > MOST_UNSEEN:
        left = np.sort(np.random.default_rng(0).choice(left, MOST_UNSEEN, replace=False))
    return _read(train, left)


def _read(subset: Subset, positions: Int64[np.ndarray, " n"]) -> tuple[np.ndarray, np.ndarray]:
    batch = subset.source.gather(positions)
    return batch["image"], batch["label"]


def _probabilities(
    trained: Trained, images: np.ndarray, shift: tuple[int, int] = (0, 0)
) -> Float[np.ndarray, "n k"]:
    network, variables = trained.network, trained.variables

    @jax.jit
    def run(images: RawImages) -> Array:
        seen: Images = shifted(*shift)(network.preprocess(images))
        logits: Any = network.model.apply(variables, seen, train=False)
        return jax.nn.softmax(logits)

    return np.concatenate([np.asarray(run(chunk)) for chunk in _chunks(images)])


def _chunks(images: np.ndarray) -> list[np.ndarray]:
    """Pieces of few sizes, so that little is compiled."""
    return [images[start : start + AT_ONCE] for start in range(0, len(images), AT_ONCE)]
