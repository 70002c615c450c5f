"""The learning rate at which the training loss of a range test falls fastest.

Smith 2015, "Cyclical learning rates for training neural networks" (arXiv:1506.01186), section 3.3.
"""

import dataclasses
import math

import numpy as np
from jaxtyping import Float64

from cnn_lab.core.errors import TrainingError

SMOOTHING = 0.02  # standard deviation of the weights, as a share of all steps
MAX_DEVIATIONS = 5  # standard deviations after which a Gaussian is cut off
MIN_FALL = 6.0  # in standard errors, for chance makes some fall between two of many values


@dataclasses.dataclass(frozen=True)
class LrRange:
    """The result of a learning-rate range test.

    Attributes:
        rates: of each step that was made, rising by a constant factor.
        losses: mean training loss of each step.
        smoothed: the same, averaged over neighbouring steps.
        steepest: rate at which the smoothed loss fell fastest; the suggestion.
        lowest: rate of the lowest smoothed loss.
        still_falling: the lowest loss was at the end, so that higher rates may be good too.
    """

    rates: Float64[np.ndarray, " s"]
    losses: Float64[np.ndarray, " s"]
    smoothed: Float64[np.ndarray, " s"]
    steepest: float
    lowest: float
    still_falling: bool


def analyse(rates: Float64[np.ndarray, " s"], losses: Float64[np.ndarray, " s"]) -> LrRange:
    """The rates at which finite losses of steps at rising rates fell fastest and were lowest.

    Raises:
        TrainingError: the loss never fell by more than chance explains.
    """
    smoothed = _smooth(losses)
    best = int(np.argmin(smoothed))
    slopes = np.gradient(smoothed)[: best + 1]
    steepest = int(np.argmin(slopes))
    fall = smoothed[: best + 1].max() - smoothed[best]
    # The standard error of a smoothed value: a Gaussian's weights are as good as so many even ones.
    num_even = max(1.0, 2 * np.sqrt(np.pi) * SMOOTHING * len(losses))
    noise = np.std((losses - smoothed)[: best + 1]) / np.sqrt(num_even)
    if slopes[steepest] >= 0 or fall < MIN_FALL * noise:
        raise TrainingError(
            f"The loss never clearly fell between rates of {rates[0]:.3g} and {rates[-1]:.3g}; "
            "widen --lowest and --highest, or look at the data and the model.",
            where="--highest",
            found=float(rates[-1]),
        )
    # The last values are averaged over neighbours on one side only.
    still_falling = best >= len(smoothed) - max(1, round(2 * SMOOTHING * len(smoothed)))
    found = float(rates[steepest]), float(rates[best])
    return LrRange(rates, losses, smoothed, *found, still_falling)


def _smooth(values: np.ndarray) -> np.ndarray:
    """Means over neighbours, weighted by a Gaussian, without delay."""
    width = max(1.0, SMOOTHING * len(values))
    reach = math.ceil(MAX_DEVIATIONS * width)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / width) ** 2)
    sums, totals = (np.convolve(v, weights)[reach:-reach] for v in (values, np.ones(len(values))))
    return sums / totals
