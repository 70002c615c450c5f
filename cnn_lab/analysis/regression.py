"""The evaluation of predicted numbers on one split: errors, intervals, the worst of them."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from cnn_lab.analysis.scores import CONFIDENCE, DRAWN_VALUES, Interval

QUANTILES = (0.5, 0.9, 0.99)


@dataclasses.dataclass(frozen=True)
class NumbersEvaluation:
    """Predicted numbers beside the true ones, in the unit of the data.

    Attributes:
        metrics: figures by name, those of the task first; `error_q50` and so on are quantiles of
            the absolute error, `bias` its mean with sign, all means over the numbers.
        intervals: of `mae`, `rmse` and `bias`, by resampling the examples; empty where that was not
            wanted.
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

    def to_json(self) -> dict[str, Any]:
        """Plain values, with the errors of each number."""
        errors = self.predictions - self.targets
        return {
            "num_examples": self.num_examples,
            "metrics": self.metrics,
            "intervals": {n: dataclasses.asdict(i) for n, i in self.intervals.items()},
            "numbers": [
                {"name": name, "mae": float(np.abs(error).mean()), "bias": float(error.mean())}
                for name, error in zip(self.names, errors.T, strict=True)
            ],
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
    """Scores finite predictions; `means` are the task's metrics, which are shown first.

    Percentile intervals (Efron and Tibshirani 1993, section 13.3) of `num_resamples` draws of the
    examples; none for 0.
    """
    errors = np.asarray(predictions, np.float64) - np.asarray(targets, np.float64)
    metrics = {**means, "bias": float(errors.mean())}
    for share in QUANTILES:
        quantile = np.quantile(np.abs(errors), share, axis=0).mean()
        metrics[f"error_q{round(100 * share)}"] = float(quantile)
    intervals, random = {}, np.random.default_rng(seed)
    samples: dict[str, list[np.ndarray]] = {"mae": [], "rmse": [], "bias": []}
    at_once = max(1, DRAWN_VALUES // errors.size)
    for start in range(0, num_resamples, at_once):
        rows = min(at_once, num_resamples - start)
        drawn = errors[random.integers(0, len(errors), (rows, len(errors)), np.int32)]
        samples["mae"].append(np.abs(drawn).mean(axis=(1, 2)))
        samples["rmse"].append(np.sqrt(np.square(drawn).mean(axis=1)).mean(axis=1))
        samples["bias"].append(drawn.mean(axis=(1, 2)))
    if num_resamples:
        tail = (1 - CONFIDENCE) / 2
        for name, parts in samples.items():
            intervals[name] = Interval(
                *np.quantile(np.concatenate(parts), (tail, 1 - tail)).tolist()
            )
    return NumbersEvaluation(metrics, intervals, names, targets, predictions)
