"""The evaluation of predicted numbers on one split: errors, intervals, the worst of them."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from cnn_lab.analysis.scores import CONFIDENCE, DRAWN_VALUES, Interval

QUANTILES = (0.5, 0.9, 0.99)


@dataclasses.dataclass(frozen=True)
class NumberScores:
    """The errors of one number over a split, in its unit; `r2` is the share of variance explained.

    `bias` is the mean error: below 0 where predictions are too small.
    """

    name: str
    mae: float
    rmse: float
    bias: float
    r2: float


@dataclasses.dataclass(frozen=True)
class NumbersEvaluation:
    """Predicted numbers beside the true ones, in the unit of the data.

    Attributes:
        metrics: figures by name, those of the task first; of a single number also its `bias` and
            quantiles of the absolute error, `error_q50` and so on. Means of these over several
            numbers, each in its unit, would say nothing.
        intervals: of `mae`, `rmse` and, where there is one, `bias`, by resampling the examples;
            empty where that was not wanted.
        names: of the numbers.
        targets: [n d].
        predictions: [n d].
    """

    metrics: dict[str, float]
    intervals: dict[str, Interval]
    names: tuple[str, ...]
    targets: Float[np.ndarray, "n d"]
    predictions: Float[np.ndarray, "n d"]

    @property
    def num_examples(self) -> int:
        """Number of examples."""
        return len(self.targets)

    def numbers(self) -> list[NumberScores]:
        """The scores of each number."""
        targets = np.asarray(self.targets, np.float64)
        errors = self.predictions - targets
        squares, variances = np.square(errors).mean(axis=0), targets.var(axis=0)
        return [
            NumberScores(
                name,
                mae=float(np.abs(error).mean()),
                rmse=math.sqrt(square),
                bias=float(error.mean()),
                # Of equal targets nothing is left to explain.
                r2=float(1 - square / variance if variance > 0 else square == 0),
            )
            for name, error, square, variance in zip(
                self.names, errors.T, squares, variances, strict=True
            )
        ]

    def to_json(self) -> dict[str, Any]:
        """Plain values, with the scores of each number."""
        return {
            "num_examples": self.num_examples,
            "metrics": self.metrics,
            "intervals": {n: dataclasses.asdict(i) for n, i in self.intervals.items()},
            "numbers": [dataclasses.asdict(number) for number in self.numbers()],
        }


def evaluate_numbers(
    predictions: Float[np.ndarray, "n d"],
    targets: Float[np.ndarray, "n d"],
    names: tuple[str, ...],
    *,
    means: Mapping[str, float],
    num_resamples: int,
    seed: int = 0,
) -> NumbersEvaluation:
    """Scores finite predictions; `means` are the task's metrics, which come first.

    Percentile intervals (Efron and Tibshirani 1993, section 13.3) of `num_resamples` draws of the
    examples; none for 0.
    """
    errors = np.asarray(predictions, np.float64) - np.asarray(targets, np.float64)
    metrics, is_single = dict(means), len(names) == 1
    if is_single:
        metrics["bias"] = float(errors.mean())
        for share in QUANTILES:
            metrics[f"error_q{round(100 * share)}"] = float(np.quantile(np.abs(errors), share))
    intervals, random = {}, np.random.default_rng(seed)
    samples: dict[str, list[np.ndarray]] = {"mae": [], "rmse": []}
    if is_single:
        samples["bias"] = []
    at_once = max(1, DRAWN_VALUES // errors.size)
    for start in range(0, num_resamples, at_once):
        rows = min(at_once, num_resamples - start)
        drawn = errors[random.integers(0, len(errors), (rows, len(errors)), np.int32)]
        samples["mae"].append(np.abs(drawn).mean(axis=(1, 2)))
        samples["rmse"].append(np.sqrt(np.square(drawn).mean(axis=1)).mean(axis=1))
        if is_single:
            samples["bias"].append(drawn.mean(axis=(1, 2)))
    if num_resamples:
        tail = (1 - CONFIDENCE) / 2
        for name, parts in samples.items():
            intervals[name] = Interval(
                *np.quantile(np.concatenate(parts), (tail, 1 - tail)).tolist()
            )
    return NumbersEvaluation(metrics, intervals, names, targets, predictions)
