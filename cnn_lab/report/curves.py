"""Learning curves of a run, curves of several seeds, and the loss of a learning-rate range test."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cnn_lab.analysis.lr_range import LrRange
from cnn_lab.report.render import as_png
from cnn_lab.workdir.metric_writers import metric_names

Rows = Sequence[Mapping[str, Any]]  # of `metrics.jsonl`
BLUE, RED, GRAY = "#4878a8", "#c8553d", "#b8b8b4"
COLOURS = {"train": BLUE, "validation": RED}
MAX_COLUMNS = 3


def learning_curves(rows: Rows, *, best_step: int | None = None, title: str = "") -> bytes:
    """Draws every metric of the rows over epochs, with a gap where one was not finite.

    Args:
        rows: rows of `metrics.jsonl`.
        best_step: marked by a dotted line.
        title: above the picture.

    Returns:
        A PNG.
    """
    names = metric_names(rows)
    num_columns = min(max(len(names), 1), MAX_COLUMNS)
    num_rows = max(-(-len(names) // num_columns), 1)
    figure = Figure(figsize=(5.2 * num_columns, 3.8 * num_rows), layout="constrained")
    if title:
        figure.suptitle(title, parse_math=False)
    axes = figure.subplots(num_rows, num_columns, squeeze=False).flat
    best_epoch = next((row["epoch"] for row in rows if row["step"] == best_step), None)
    for name, axis in zip(names, axes, strict=False):
        for split, colour in COLOURS.items():
            points = [r for r in rows if r["split"] == split and name in r]
            if points:
                epochs = [row["epoch"] for row in points]
                values = [math.nan if row[name] is None else row[name] for row in points]
                marker = "o" if len(points) <= 40 else None
                axis.plot(epochs, values, color=colour, label=split, marker=marker, markersize=3)
        if best_epoch is not None:
            axis.axvline(best_epoch, color="#888888", linestyle=":", label="best")
        _label(axis, name)
        axis.legend(frameon=False)
    for axis in axes:  # the places that are left
        axis.set_axis_off()
    return as_png(figure)


def seeds_chart(rows_of: Mapping[int, Rows]) -> bytes:
    """Draws a thin line a seed and a thick one for their mean, for loss and the other metrics.

    Args:
        rows_of: seed -> rows of its `metrics.jsonl`.

    Returns:
        A PNG.
    """
    validation = [row for rows in rows_of.values() for row in rows if row["split"] == "validation"]
    names = metric_names(validation) or ["loss"]
    figure = Figure(figsize=(5.2 * len(names), 3.8), layout="constrained")
    for axis, name in zip(figure.subplots(1, len(names), squeeze=False).flat, names, strict=True):
        for split, colour in COLOURS.items():
            curves = [_curve(rows, split, name) for rows in rows_of.values()]
            for curve in curves:
                axis.plot(
                    list(curve), list(curve.values()), color=colour, linewidth=0.7, alpha=0.45
                )
            shared = sorted(set.intersection(*map(set, curves)))
            if shared:
                means = [float(np.mean([curve[epoch] for curve in curves])) for epoch in shared]
                label = f"{split}, mean of {len(curves)}"
                axis.plot(shared, means, color=colour, linewidth=2, label=label)
        _label(axis, name)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(frameon=False)
    return as_png(figure)


def rate_chart(lr_range: LrRange, *, title: str = "") -> bytes:
    """Draws the loss over the rate, and marks the suggestion.

    Args:
        lr_range: the losses to draw.
        title: above the picture.

    Returns:
        A PNG.
    """
    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    axis = figure.subplots()
    axis.set_title(title, parse_math=False)
    axis.plot(lr_range.rates, lr_range.losses, color=GRAY, linewidth=0.8, label="loss of each step")
    axis.plot(lr_range.rates, lr_range.smoothed, color=BLUE, label="smoothed")
    low, high = lr_range.smoothed.min(), lr_range.smoothed[: len(lr_range.smoothed) // 2 + 1].max()
    margin = 0.25 * (high - low)
    # A loss that diverges at the end would flatten all else.
    axis.set_ylim(low - margin, high + 2 * margin)
    axis.axvline(
        lr_range.steepest,
        color=RED,
        linestyle="--",
        label=f"steepest fall: {lr_range.steepest:.2g}",
    )
    axis.axvline(
        lr_range.lowest, color=RED, linestyle=":", label=f"lowest loss: {lr_range.lowest:.2g}"
    )
    axis.set_xscale("log")
    axis.set_xlim(float(np.min(lr_range.rates)), float(np.max(lr_range.rates)))
    axis.set_xlabel("learning rate")
    axis.set_ylabel("training loss")
    axis.grid(alpha=0.25, which="both")
    axis.legend(frameon=False)
    return as_png(figure)


def _curve(rows: Rows, split: str, name: str) -> dict[float, float]:
    return {
        row["epoch"]: math.nan if row[name] is None else row[name]
        for row in rows
        if row["split"] == split and name in row
    }


def _label(axis: Axes, metric: str) -> None:
    axis.set_xlabel("epoch")
    axis.set_ylabel(metric.replace("_", " "), parse_math=False)
    axis.grid(alpha=0.25)
