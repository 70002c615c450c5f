"""Scores of a classifier's predictions, from logits [n k] and labels [n], and their intervals.

Everything is computed on the host. Probabilities are float64 and come from the outputs alone, so
the same functions serve one network, one network over several views of an image, and an ensemble.
Intervals are over resamples of the images, or over the seeds of a training.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float64, Int, Int64, Shaped
from scipy.special import stdtrit

CONFIDENCE = 0.95
# Values at once: so that what is made of a table stays in the caches, and draws in the memory.
CACHED_VALUES, DRAWN_VALUES = 2**18, 2**22
Logits = Float[np.ndarray, "n k"]
LogProbabilities = Float64[np.ndarray, "n k"]
Labels = Int[np.ndarray, " n"]


def log_probabilities(logits: Logits) -> LogProbabilities:
    """Logarithms of the softmax [n k], at most 0; they are logits of the same probabilities."""
    log_probs = np.empty(logits.shape, np.float64)
    for rows in portions(logits):
        part = np.subtract(logits[rows], logits[rows].max(1, keepdims=True), dtype=np.float64)
        part -= np.log(np.exp(part).sum(1, keepdims=True))
        np.minimum(part, 0.0, out=log_probs[rows])
    return log_probs


def portions(table: Shaped[np.ndarray, "n k"]) -> Iterator[slice]:
    """Rows of a large table, a few at a time."""
    size = max(1, CACHED_VALUES // table.shape[1])
    return (slice(start, start + size) for start in range(0, len(table), size))


class MeanProbabilities:
    """The mean of networks' probabilities, one network added at a time.

    Lakshminarayanan et al. 2017, "Simple and scalable predictive uncertainty estimation using deep
    ensembles", arXiv:1612.01474, section 2.4.
    """

    def __init__(self):
        self._total: LogProbabilities | None = None
        self.num_networks = 0

    def add(self, logits: Logits) -> None:
        """Adds a network."""
        log_probs = log_probabilities(logits)
        self._total = log_probs if self._total is None else np.logaddexp(self._total, log_probs)
        self.num_networks += 1

    def logits(self) -> LogProbabilities:
        """Logarithms of the mean probabilities [n k], at most 0; there must be a network."""
        assert self._total is not None
        return np.minimum(self._total - math.log(self.num_networks), 0.0)


def among_top(logits: Logits, labels: Labels, k: int) -> Bool[np.ndarray, " n"]:
    """Whether each example's label is among its k largest logits [n].

    Of equal logits the first counts as larger, as for `argmax`.
    """
    own = logits[np.arange(len(labels)), labels][:, None]
    before = np.arange(logits.shape[1])[None] < labels[:, None]
    # Written so that a comparison with NaN never counts in favour of a label.
    rank = np.sum(~(logits <= own) | ((logits == own) & before), axis=1)
    return rank < k


def confusion_matrix(
    labels: Labels, predictions: Labels, num_classes: int
) -> Int64[np.ndarray, "k k"]:
    """Counts [k k]: a row for each label, a column for what it was taken for."""
    cells = labels.astype(np.int64) * num_classes + predictions
    return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


@dataclasses.dataclass(frozen=True)
class ClassScores:
    """Precision, recall and F1 of each class, in [0, 1], its examples and its predictions.

    A class that is never predicted has precision 0, one without examples recall 0, as in
    scikit-learn. Classes that are neither in the labels nor in the predictions have F1 0 too, and
    no part in the means.
    """

    precision: Float64[np.ndarray, " k"]
    recall: Float64[np.ndarray, " k"]
    f1: Float64[np.ndarray, " k"]
    support: Int64[np.ndarray, " k"]
    predicted: Int64[np.ndarray, " k"]

    def macro(self) -> dict[str, float]:
        """Means over classes, each of the same weight."""
        seen = (self.support > 0) | (self.predicted > 0)
        return self._means(seen.astype(np.float64))

    def weighted(self) -> dict[str, float]:
        """Means over classes, each weighted by its examples."""
        return self._means(self.support.astype(np.float64))

    def to_json(self, class_names: Sequence[str]) -> list[dict[str, Any]]:
        """A row a class, by name."""
        names = ("precision", "recall", "f1", "support", "predicted")
        columns = [getattr(self, name).tolist() for name in names]
        return [
            {"name": class_name, **dict(zip(names, row, strict=True))}
            for class_name, *row in zip(class_names, *columns, strict=True)
        ]

    def _means(self, weights: Float64[np.ndarray, " k"]) -> dict[str, float]:
        shares = weights / weights.sum()
        return {name: float(getattr(self, name) @ shares) for name in ("precision", "recall", "f1")}


def class_scores(confusion: Int64[np.ndarray, "k k"]) -> ClassScores:
    """Scores of each class from a confusion matrix [k k] that is not all 0."""
    right, support, predicted = np.diag(confusion), confusion.sum(1), confusion.sum(0)
    return ClassScores(
        precision=right / np.maximum(predicted, 1),
        recall=right / np.maximum(support, 1),
        f1=f1_scores(right, support, predicted),
        support=support,
        predicted=predicted,
    )


def f1_scores(
    right: Int64[np.ndarray, "*any"],
    support: Int64[np.ndarray, "*any"],
    predicted: Int64[np.ndarray, "*any"],
) -> Float64[np.ndarray, "*any"]:
    """F1 = 2 right / (support + predicted), which is the harmonic mean; 0 for nothing at all."""
    return 2.0 * right / np.maximum(support + predicted, 1)


def log_losses(log_probs: LogProbabilities, labels: Labels) -> Float64[np.ndarray, " n"]:
    """Minus the logarithm of each label's probability [n], in nats, at least 0."""
    return -log_probs[np.arange(len(labels)), labels]


def brier_scores(log_probs: LogProbabilities, labels: Labels) -> Float64[np.ndarray, " n"]:
    """Squared distance of each example's probabilities to its one-hot label [n], in [0, 2].

    Brier 1950, "Verification of forecasts expressed in terms of probability", Monthly Weather
    Review 78(1): summed over all classes, so for two classes twice the usual binary score.
    """
    squares = np.concatenate([np.exp(2 * log_probs[rows]).sum(1) for rows in portions(log_probs)])
    return squares - 2 * np.exp(-log_losses(log_probs, labels)) + 1


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
    """One figure over n runs: standard deviation with n - 1, Student's interval of the mean."""

    mean: float
    sd: float
    interval: Interval
    min: float
    max: float
    num_runs: int

    def figures(self) -> dict[str, float]:
        """The rows of a table."""
        sure, (low, high) = f"{CONFIDENCE:.0%}", (self.interval.low, self.interval.high)
        ends = {f"{sure} from": low, f"{sure} to": high, "min": self.min, "max": self.max}
        return {"mean": self.mean, "sd": self.sd, **ends}


def over_runs(values: Sequence[float], confidence: float = CONFIDENCE) -> Spread:
    """Mean and spread of one figure of independent runs, at least two.

    Where a figure is not finite, nothing is. The confidence of the interval is in (0, 1).
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
    seed: int = 0,
) -> dict[str, Interval]:
    """Percentile intervals of accuracy, error, macro_f1 and each mean of `values`.

    Efron 1979, "Bootstrap methods: another look at the jackknife", Annals of Statistics 7(1); Efron
    and Tibshirani 1993, "An introduction to the bootstrap", section 13.3. Labels and predictions
    are in [0, num_classes), values of each example by the name of their mean.
    """
    num_examples, random = len(labels), np.random.default_rng(seed)
    at_once = max(1, DRAWN_VALUES // max(num_examples, num_classes))
    right = labels == predictions
    samples: dict[str, list[np.ndarray]] = {n: [] for n in ("accuracy", "macro_f1", *values)}
    for start in range(0, num_resamples, at_once):
        rows = min(at_once, num_resamples - start)
        drawn = random.integers(0, num_examples, (rows, num_examples), np.int32)
        # A class of row r is counted in the cell r * num_classes + class.
        own = labels[drawn] + np.arange(rows)[:, None] * num_classes
        taken_for = predictions[drawn] + np.arange(rows)[:, None] * num_classes
        drawn_right = right[drawn]
        right_of_class, support, predicted = (
            np.bincount(cells, minlength=rows * num_classes).reshape(rows, num_classes)
            for cells in (own[drawn_right], own.ravel(), taken_for.ravel())
        )
        samples["accuracy"].append(drawn_right.mean(1))
        num_seen = (support + predicted > 0).sum(1)  # classes, as of `ClassScores.macro`
        f1 = f1_scores(right_of_class, support, predicted)
        samples["macro_f1"].append(f1.sum(1) / num_seen)
        for name, per_example in values.items():
            samples[name].append(per_example[drawn].mean(1))
    tail = (1 - CONFIDENCE) / 2
    ends = {
        name: np.quantile(np.concatenate(parts), (tail, 1 - tail)).tolist()
        for name, parts in samples.items()
    }
    low, high = ends["accuracy"]
    ends["error"] = (1 - high, 1 - low)
    return {name: Interval(*ends) for name, ends in ends.items()}
