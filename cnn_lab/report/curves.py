"""Learning curves of a run, curves of several seeds, and the loss of a learning-rate range test.

Every function returns a PNG. Rows are those of `metrics.jsonl`.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cnn_lab.analysis.lr_range import LrRange
from cnn_lab.report.render import BLUE, RED, as_png, panels
from cnn_lab.workdir.metric_writers import metric_names

Rows = Sequence[Mapping[str, Any]]
GRAY = "#b8b8b4"
COLOURS = {"train": BLUE, "validation": RED}
MAX_COLUMNS, PANEL = 3, (5.2, 3.8)  # width and height in inches


def learning_curves(rows: Rows, *, best_step: int | None = None) -> bytes:
    """Draws every metric of the rows over epochs, with a gap where one was not finite.

    The best step is marked by a dotted line.
    """
    names = metric_names(rows)
    figure, axes = panels(len(names), MAX_COLUMNS, PANEL)
    best_epoch = next((row["epoch"] for row in rows if row["step"] == best_step), None)
    for name, axis in zip(names, axes, strict=True):
        for split, colour in COLOURS.items():
            points = [row for row in rows if row["split"] == split and name in row]
            if points:
                values = [math.nan if row[name] is None else row[name] for row in points]
                marker = "o" if len(points) <= 40 else None
                style = {"color": colour, "label": split, "marker": marker, "markersize": 3}
                axis.plot([row["epoch"] for row in points], values, **style)
        if best_epoch is not None:
            axis.axvline(best_epoch, color="#888888", linestyle=":", label="best")
        _label(axis, name)
        axis.legend(frameon=False)
    return as_png(figure)


def seeds_chart(rows_of: Mapping[int, Rows]) -> bytes:
    """Draws a thin line a seed and a thick one for their mean, for loss and the other metrics.

    Args:
        rows_of: seed -> rows.
    """
    validation = [row for rows in rows_of.values() for row in rows if row["split"] == "validation"]
    names = metric_names(validation) or ["loss"]

    def curve_of(rows: Rows, split: str, name: str) -> dict[float, float]:
        return {
            row["epoch"]: math.nan if row[name] is None else row[name]
            for row in rows
            if row["split"] == split and name in row
        }

    figure, axes = panels(len(names), len(names), PANEL)
    for name, axis in zip(names, axes, strict=True):
        for split, colour in COLOURS.items():
            curves = [curve_of(rows, split, name) for rows in rows_of.values()]
            for curve in curves:
                style = {"color": colour, "linewidth": 0.7, "alpha": 0.45}
                axis.plot(list(curve), list(curve.values()), **style)
            if shared := sorted(set.intersection(*map(set, curves))):
                means = [float(np.mean([curve[epoch] for curve in curves])) for epoch in shared]
                label = f"{split}, mean of {len(curves)}"
                axis.plot(shared, means, color=colour, linewidth=2, label=label)
        _label(axis, name)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(frameon=False)
    return as_png(figure)


def _label(axis: Axes, metric: str) -> None:
    """Labels a panel of a metric over epochs, and draws its grid."""
    axis.set_xlabel("epoch")
    axis.set_ylabel(metric.replace("_", " "), parse_math=False)
    axis.grid(alpha=0.25)


def rate_chart(lr_range: LrRange, *, title: str = "") -> bytes:
    """Draws the loss over the rate, and marks the suggestion."""
    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    axis = figure.subplots()
    axis.set_title(title, parse_math=False)
    axis.plot(lr_range.rates, lr_range.losses, color=GRAY, linewidth=0.8, label="loss of each step")
    axis.plot(lr_range.rates, lr_range.smoothed, color=BLUE, label="smoothed")
    low, high = lr_range.smoothed.min(), lr_range.smoothed[: len(lr_range.smoothed) // 2 + 1].max()
    margin = 0.25 * (high - low)
    # A loss that diverges at the end would flatten all else.
    axis.set_ylim(low - margin, high + 2 * margin)
    for label, rate, line in (
        ("steepest fall", lr_range.steepest, "--"),
        ("lowest loss", lr_range.lowest, ":"),
    ):
        axis.axvline(rate, color=RED, linestyle=line, label=f"{label}: {rate:.2g}")
    axis.set_xscale("log")
    axis.set_xlim(float(np.min(lr_range.rates)), float(np.max(lr_range.rates)))
    axis.set_xlabel("learning rate")
    axis.set_ylabel("training loss")
    axis.grid(alpha=0.25, which="both")
    axis.legend(frameon=False)
    return as_png(figure)
