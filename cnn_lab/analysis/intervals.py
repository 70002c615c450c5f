"""Intervals of figures: over resamples of the images, and over the seeds of a training."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float64, Int64
from scipy.special import stdtrit

from cnn_lab.analysis.scores import Labels, f1_scores

MAX_VALUES_AT_ONCE = 2**22


@dataclasses.dataclass(frozen=True)
class Interval:
    """From `low` to `high`."""

    low: float
    high: float

    @property
    def is_empty(self) -> bool:
        """Whether it has no width: nothing among the images differs, such as a mistake."""
        return self.low == self.high


@dataclasses.dataclass(frozen=True)
class Spread:
    """One figure over several runs.

    Attributes:
        mean: of the runs.
        sd: standard deviation, with n - 1.
        interval: of the mean, by Student's t with n - 1 degrees of freedom.
        min: the smallest one.
        max: the largest one.
        num_runs: at least 2.
    """

    mean: float
    sd: float
    interval: Interval
    min: float
    max: float
    num_runs: int


def over_runs(values: Sequence[float], confidence: float = 0.95) -> Spread:
    """Mean and spread of independent runs.

    Args:
        values: one figure a run, at least two; where one is not finite, nothing is.
        confidence: of the interval, in (0, 1).
    """
    figures = np.asarray(values, np.float64)
    if not np.isfinite(figures).all():
        figures = np.full(len(figures), np.nan)
    mean, sd = float(figures.mean()), float(figures.std(ddof=1))
    quantile = float(stdtrit(len(figures) - 1, (1 + confidence) / 2))
    half = quantile * sd / len(figures) ** 0.5
    interval = Interval(mean - half, mean + half)
    return Spread(mean, sd, interval, float(figures.min()), float(figures.max()), len(figures))


def bootstrap(
    labels: Labels,
    predictions: Labels,
    values: Mapping[str, Float64[np.ndarray, " n"]],
    num_classes: int,
    *,
    num_resamples: int,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, Interval]:
    """Percentile intervals over resamples of the examples.

    Efron 1979, "Bootstrap methods: another look at the jackknife", Annals of Statistics 7(1); Efron
    and Tibshirani 1993, "An introduction to the bootstrap", section 13.3.

    Args:
        labels: [n].
        predictions: [n].
        values: of each example [n], by the name of their mean.
        num_classes: k.
        num_resamples: how many times n examples are drawn with replacement.
        confidence: share of the resamples inside, in (0, 1).
        seed: of the draws.

    Returns:
        Intervals of accuracy, error, macro_f1 and each mean of `values`.
    """
    num_examples, random = len(labels), np.random.default_rng(seed)
    at_once = max(1, MAX_VALUES_AT_ONCE // max(num_examples, num_classes))
    right = labels == predictions
    samples: dict[str, list[np.ndarray]] = {n: [] for n in ("accuracy", "macro_f1", *values)}
    for start in range(0, num_resamples, at_once):
        rows = min(at_once, num_resamples - start)
        drawn = random.integers(0, num_examples, (rows, num_examples), np.int32)
        # A class of row r is counted in the cell r * num_classes + class.
        own = labels[drawn] + np.arange(rows)[:, None] * num_classes
        taken_for = predictions[drawn] + np.arange(rows)[:, None] * num_classes
        drawn_right = right[drawn]
        counts = [
            np.bincount(cells, minlength=rows * num_classes).reshape(rows, num_classes)
            for cells in (own[drawn_right], own.ravel(), taken_for.ravel())
        ]
        samples["accuracy"].append(drawn_right.mean(1))
        samples["macro_f1"].append(_macro_f1(*counts))
        for name, per_example in values.items():
            samples[name].append(per_example[drawn].mean(1))
    tail = (1 - confidence) / 2
    ends = {
        name: np.quantile(np.concatenate(parts), (tail, 1 - tail)).tolist()
        for name, parts in samples.items()
    }
    low, high = ends["accuracy"]
    ends["error"] = (1 - high, 1 - low)
    return {name: Interval(*ends) for name, ends in ends.items()}


def _macro_f1(
    right: Int64[np.ndarray, "r k"],
    support: Int64[np.ndarray, "r k"],
    predicted: Int64[np.ndarray, "r k"],
) -> Float64[np.ndarray, " r"]:
    """Macro F1 of each resample [r], as of `ClassScores.macro`."""
    seen = (support + predicted > 0).sum(1)
    return f1_scores(right, support, predicted).sum(1) / seen
