"""Calibration of probabilities, and the temperature that may improve it.

Guo et al. 2017, "On calibration of modern neural networks", arXiv:1706.04599: expected calibration
error (equations 2 to 5) and temperature scaling (equation 9).
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float64, Int64
from scipy.optimize import root_scalar

from cnn_lab.analysis.scores import Labels, Logits, LogProbabilities, log_probabilities, portions

NUM_BINS = 15
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.01, 100.0


class NoTemperatureError(ValueError):
    """No temperature is best; the text gives the reason."""


@dataclasses.dataclass(frozen=True)
class Reliability:
    """Predictions sorted by confidence into equal bins ((b - 1) / num_bins, b / num_bins].

    Attributes:
        counts: predictions in each bin [b].
        confidences: sum of their largest probabilities [b].
        right: how many of them are right [b].
    """

    counts: Int64[np.ndarray, " b"]
    confidences: Float64[np.ndarray, " b"]
    right: Int64[np.ndarray, " b"]

    def __add__(self, other: "Reliability") -> "Reliability":
        return Reliability(
            self.counts + other.counts,
            self.confidences + other.confidences,
            self.right + other.right,
        )

    @property
    def error(self) -> float:
        """Expected calibration error: mean of |share right - mean confidence|, in [0, 1]."""
        return float(np.abs(self.right - self.confidences).sum() / self.counts.sum())

    def to_json(self) -> list[dict[str, float | int | None]]:
        """A row a bin; confidence and accuracy are None in an empty one."""
        num_bins = len(self.counts)
        bins = zip(
            self.counts.tolist(), self.confidences.tolist(), self.right.tolist(), strict=True
        )
        return [
            {
                "above": index / num_bins,
                "up_to": (index + 1) / num_bins,
                "count": count,
                "confidence": confidence / count if count else None,
                "accuracy": right / count if count else None,
            }
            for index, (count, confidence, right) in enumerate(bins)
        ]


def reliability(
    log_probs: LogProbabilities, labels: Labels, num_bins: int = NUM_BINS
) -> Reliability:
    """Sorts predictions [n k], finite in their largest entries, into bins by their confidence."""
    confidences = np.exp(log_probs.max(1))
    edges = np.linspace(0.0, 1.0, num_bins + 1)
    bins = np.searchsorted(edges, confidences, side="left") - 1
    right = log_probs.argmax(1) == labels
    return Reliability(
        np.bincount(bins, minlength=num_bins),
        np.bincount(bins, weights=confidences, minlength=num_bins),
        np.bincount(bins[right], minlength=num_bins),
    )


def fit_temperature(logits: Logits, labels: Labels) -> float:
    """The temperature t, from 0.01 to 100, that minimises the log loss of softmax(logits / t).

    It is above 1 where the network is too sure of itself. The loss is convex in 1 / t, so its
    minimum is where its slope is 0. Logits [n k] are finite, and of examples that the network did
    not learn from.

    Raises:
        NoTemperatureError: there is no minimum in that range, as when every label has the largest
            logit and the loss falls for ever as probabilities are made sharper.
    """
    own = logits[np.arange(len(labels)), labels] - logits.max(1)
    behind = [part - part.max(1, keepdims=True) for part in (logits[r] for r in portions(logits))]

    def slope(log_inverse: float) -> float:
        """Slope of the loss over 1 / t: the mean of E[logit] - own logit."""
        inverse, expected = np.exp(log_inverse).astype(logits.dtype), 0.0
        for part in behind:
            weights = np.exp(part * inverse)
            sums = np.einsum("nk,nk->n", weights, part) / weights.sum(1)
            expected += float(sums.sum(dtype=np.float64))
        return expected / len(logits) - float(own.mean(dtype=np.float64))

    low, high = -np.log(MAX_TEMPERATURE), -np.log(MIN_TEMPERATURE)
    if (logits.argmax(1) == labels).all():
        raise NoTemperatureError("there is no mistake among the images to fit it on")
    if slope(high) <= 0:
        raise NoTemperatureError(f"the log loss is lowest at {MIN_TEMPERATURE:g} or below")
    if slope(low) >= 0:
        raise NoTemperatureError(f"the log loss is lowest at {MAX_TEMPERATURE:g} or above")
    return float(np.exp(-root_scalar(slope, bracket=(low, high), xtol=1e-6).root))


def cross_fitted(logits: Logits, labels: Labels) -> LogProbabilities:
    """Log-probabilities of each half of the examples at the best temperature of the other half.

    So the temperature can be evaluated on the very examples that it is fitted on: no half is
    evaluated at a temperature that was fitted on itself. Halves hold every class alike; there must
    be two examples at least. A half may have no temperature (`NoTemperatureError`).
    """
    first = alternating(labels)
    log_probs = np.empty(logits.shape, np.float64)
    for half in (first, ~first):
        try:
            temperature = fit_temperature(logits[~half], labels[~half])
        except NoTemperatureError as error:
            raise NoTemperatureError(
                f"{error}, in one of the halves that are scaled by each other"
            ) from error
        log_probs[half] = log_probabilities(logits[half] / temperature)
    return log_probs


def alternating(labels: Labels) -> Bool[np.ndarray, " n"]:
    """Marks every other example of each class, and half of all [n]."""
    chosen = np.zeros(len(labels), bool)
    chosen[np.argsort(labels, kind="stable")[::2]] = True
    return chosen
