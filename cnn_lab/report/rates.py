"""The picture of a learning-rate range test."""

import numpy as np
from matplotlib.figure import Figure

from cnn_lab.analysis.lr_range import LrRange
from cnn_lab.report.png import as_png

GRAY, BLUE, RED = "#b8b8b4", "#4878a8", "#c8553d"


def rate_chart(found: LrRange, *, title: str = "") -> bytes:
    """Draws the loss over the rate, and marks the suggestion.

    Args:
        found: what to draw.
        title: above the picture.

    Returns:
        A PNG.
    """
    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    axis = figure.subplots()
    axis.set_title(title, parse_math=False)
    axis.plot(found.rates, found.losses, color=GRAY, linewidth=0.8, label="loss of each step")
    axis.plot(found.rates, found.smoothed, color=BLUE, label="smoothed")
    low, high = found.smoothed.min(), found.smoothed[: len(found.smoothed) // 2 + 1].max()
    margin = 0.25 * (high - low)
    axis.set_ylim(
        low - margin, high + 2 * margin
    )  # what diverges at the end would flatten all else
    axis.axvline(
        found.steepest, color=RED, linestyle="--", label=f"steepest fall: {found.steepest:.2g}"
    )
    axis.axvline(found.lowest, color=RED, linestyle=":", label=f"lowest loss: {found.lowest:.2g}")
    axis.set_xscale("log")
    axis.set_xlim(float(np.min(found.rates)), float(np.max(found.rates)))
    axis.set_xlabel("learning rate")
    axis.set_ylabel("training loss")
    axis.grid(alpha=0.25, which="both")
    axis.legend(frameon=False)
    return as_png(figure)
