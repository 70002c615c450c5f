"""Trials, the trainings of a study, and measures of one or of several together."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int64

from cnn_lab.config import DataConfig, ExperimentConfig, Variant
from cnn_lab.core.arrays import Images
from cnn_lab.core.errors import ConfigError
from cnn_lab.data.datasets.catalog import Dataset, open_dataset
from cnn_lab.data.subsets import Subset, choose_examples, stratified_split, whole_split
from cnn_lab.experiment.restore import RestoredRun, restore_run
from cnn_lab.runs.diverging import has_diverged
from cnn_lab.training.views import PLACES, shifted
from cnn_lab.workdir.metric_writers import METRICS_FILE, read_rows

VERSION = 2  # of the meaning of the measures; cached values of another one are taken again
MAX_UNSEEN = 10_000
BATCH_SIZE = 1000
SHIFTS = (0, 1, 2, 3, 4)  # pixels


Values = Mapping[float | None, float]  # by a level of the measure's own, None where it has none


@dataclasses.dataclass(frozen=True)
class Trial:
    """One training of a study; whatever asks for its results needs it to have ended.

    Attributes:
        workdir: of the training; variants whose configs are equal share it.
        source: the trial whose weights it begins with, None for its own.
    """

    variant: Variant
    seed: int
    config: ExperimentConfig
    workdir: Path
    source: "Trial | None" = None

    @property
    def has_diverged(self) -> bool:
        """Whether it has, or could not begin, since its source has."""
        lost = self.source is not None and self.source.has_diverged
        return lost or has_diverged(self.workdir)

    def metrics(self, split: str) -> list[dict[str, Any]]:
        """Metric rows of one split."""
        return [r for r in read_rows(self.workdir / METRICS_FILE) if r["split"] == split]

    @functools.cached_property
    def restored(self) -> RestoredRun:
        """The weights to measure: the best where a rule chose them, else the last."""
        transfer = self.config.transfer
        fitted = transfer is not None and transfer.strategy == "logistic"
        chosen = fitted or self.config.early_stopping is not None
        return restore_run(self.workdir, "best" if chosen else "latest")


def place_of(variant: Variant, level: float | None) -> tuple[str, float | str | None]:
    """The place of a value: a level of the measure's own makes the variant the series."""
    return (variant.series, variant.x) if level is None else (variant.name, level)


@dataclasses.dataclass(frozen=True)
class Measure:
    """A measure of one training, and the examples that it needs.

    Attributes:
        levels: a config's levels of the measure's own, such as epochs; empty where they cannot be
            known beforehand, None alone for a measure without.
        unseen: whether it needs examples that were neither trained nor chosen on.
    """

    take: Callable[[Trial], Values]
    levels: Callable[[ExperimentConfig], tuple[float | None, ...]] = lambda _: (None,)
    validation: bool = False
    unseen: bool = False


@dataclasses.dataclass(frozen=True)
class OverSeeds:
    """A measure of several trainings that share their images; levels by their number."""

    take: Callable[[Sequence[Trial]], Values]
    levels: Callable[[int], tuple[float, ...]]


def unseen_accuracy(trial: Trial) -> Values:
    """Accuracy on training-split examples that this run neither trained nor chose on."""
    images, labels = _unseen(trial.restored.config)
    return {None: _accuracy(_probabilities(trial.restored, images), labels)}


def training_accuracy(trial: Trial) -> Values:
    """Accuracy on the training examples as they are, without dropout or augmentation."""
    data = trial.restored.config.data
    train, _ = choose_examples(open_dataset(data.name, data.data_dir), data)
    images, labels = _read(train, train.indices)
    return {None: _accuracy(_probabilities(trial.restored, images), labels)}


def training_loss(trial: Trial) -> Values:
    """Mean loss of the last epoch's steps."""
    return {None: _number(trial.metrics("train")[-1]["loss"])}


def training_loss_by_epoch(trial: Trial) -> Values:
    """Mean loss of the steps up to each logged epoch."""
    return {row["epoch"]: _number(row["loss"]) for row in trial.metrics("train")}


def validation_accuracy(trial: Trial) -> Values:
    """Validation accuracy of the last evaluation."""
    return {None: _number(trial.metrics("validation")[-1]["accuracy"])}


def shifted_accuracy(trial: Trial) -> Values:
    """Accuracy on unseen images moved up, down, left or right, by the number of pixels."""
    images, labels = _unseen(trial.restored.config)
    found: dict[float | None, float] = {}
    for pixels in SHIFTS:
        places = PLACES[1:] if pixels else PLACES[:1]
        moved = [
            _probabilities(trial.restored, images, (down * pixels, across * pixels))
            for down, across in places
        ]
        found[pixels] = float(np.mean([_accuracy(each, labels) for each in moved]))
    return found


def dead_units(trial: Trial) -> Values:
    """Share of the backbone's units that give the same value, 0, for all unseen images."""
    images, _ = _unseen(trial.restored.config)
    network = trial.restored.network
    largest = functools.partial(_largest, network.model, trial.restored.variables)
    parts = [jax.device_get(largest(network.preprocess(jnp.asarray(c)))) for c in _chunks(images)]
    units = np.concatenate([np.max([p[name] for p in parts], axis=0).ravel() for name in parts[0]])
    return {None: float((units == 0).mean())}


def ensembles(trials: Sequence[Trial]) -> Values:
    """Accuracy of averaged probabilities, by the size of the ensemble.

    Each training is in at most one ensemble of a size; the mean of those is taken.
    """
    images, labels = _unseen(trials[0].restored.config)
    each = [_probabilities(trial.restored, images) for trial in trials]
    found: dict[float | None, float] = {}
    for size in range(1, len(trials) + 1):
        firsts = range(0, len(trials) - size + 1, size)
        together = [np.sum(each[first : first + size], axis=0) for first in firsts]
        found[size] = float(np.mean([_accuracy(sums, labels) for sums in together]))
    return found


def epochs(config: ExperimentConfig) -> tuple[float, ...]:
    """Epochs of the training rows if nothing stops earlier; none where steps decide."""
    if config.train.log_every_steps is not None:
        return ()
    return tuple(range(1, config.train.num_epochs + 1))


MEASURES: dict[str, Measure] = {
    "accuracy on shifted images": Measure(shifted_accuracy, lambda _: SHIFTS, unseen=True),
    "dead units": Measure(dead_units, unseen=True),
    "training accuracy": Measure(training_accuracy),
    "training loss": Measure(training_loss),
    "training loss by epoch": Measure(training_loss_by_epoch, epochs),
    "unseen accuracy": Measure(unseen_accuracy, unseen=True),
    "validation accuracy": Measure(validation_accuracy, validation=True),
}
OVER_SEEDS: dict[str, OverSeeds] = {
    "accuracy of the ensemble": OverSeeds(ensembles, lambda num: tuple(range(1, num + 1))),
}


def unseen_positions(dataset: Dataset, data: DataConfig) -> Int64[np.ndarray, " n"]:
    """Examples of the training split that a run neither trains nor validates on.

    They are at most `MAX_UNSEEN`: those that the largest training sets would take last, as far as
    this one leaves them. So runs of one `split_seed` and as many validation examples are measured
    on the same ones whatever their number of training examples, while that many are left of each.

    Raises:
        ConfigError: no example is left.
    """
    train, validation = choose_examples(dataset, data)
    own = validation.source is train.source  # else it has a split of its own
    candidates = whole_split(dataset.split("train"), data).indices
    candidates = np.setdiff1d(candidates, validation.indices) if own else candidates
    num_taken = max(len(train), len(candidates) - MAX_UNSEEN)
    if num_taken == len(candidates):
        raise ConfigError(
            f"The study trains and validates on all of {data.name}, so no example is left to judge "
            "by; set config.data.num_train lower.",
            where="config.data.num_train",
            found=data.num_train,
        )
    labels = train.source.labels[candidates]
    # Larger choices of one seed hold the smaller ones, up to the rounding of shares.
    last, _ = stratified_split(labels, num_validation=num_taken, seed=data.split_seed)
    return np.setdiff1d(candidates[last], train.indices)


def _number(value: float | None) -> float:
    """A value of the metrics file, where null stands for what is not finite."""
    return np.nan if value is None else value


def _accuracy(probabilities: Float[np.ndarray, "n k"], labels: np.ndarray) -> float:
    return float((probabilities.argmax(1) == labels).mean())


def _unseen(config: ExperimentConfig) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels to measure a run on."""
    dataset = open_dataset(config.data.name, config.data.data_dir)
    train, _ = choose_examples(dataset, config.data)
    return _read(train, unseen_positions(dataset, config.data))


def _read(subset: Subset, positions: Int64[np.ndarray, " n"]) -> tuple[np.ndarray, np.ndarray]:
    batch = subset.source.read(positions)
    return batch["image"], batch["label"]


def _probabilities(
    restored: RestoredRun, images: np.ndarray, shift: tuple[int, int] = (0, 0)
) -> Float[np.ndarray, "n k"]:
    network, move = restored.network, shifted(*shift)
    apply = functools.partial(_apply, network.model, restored.variables)
    parts = [apply(move(network.preprocess(jnp.asarray(chunk)))) for chunk in _chunks(images)]
    return np.concatenate([np.asarray(part) for part in parts])


@functools.partial(jax.jit, static_argnames="model")
def _apply(model: Any, variables: Any, images: Images) -> Array:
    """Compiled once for all trainings of a model."""
    return jax.nn.softmax(model.apply(variables, images, train=False))


@functools.partial(jax.jit, static_argnames="model")
def _largest(model: Any, variables: Any, images: Images) -> dict[str, Array]:
    """Each unit's largest absolute value, by feature map."""
    maps = model.apply(variables, images, method=lambda model, x: model.backbone(x, train=False))
    hidden = {name: values for name, values in maps.items() if name != "pixels"}
    return {name: jnp.abs(values).max(axis=0) for name, values in hidden.items()}


def _chunks(images: np.ndarray) -> list[np.ndarray]:
    """Pieces of few sizes, so that little is compiled."""
    return [images[start : start + BATCH_SIZE] for start in range(0, len(images), BATCH_SIZE)]
