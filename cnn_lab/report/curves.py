"""Learning curves of a run as a picture."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from cnn_lab.report.png import as_png
from cnn_lab.workdir.metric_writers import metric_names

COLOURS = {"train": "#4878a8", "validation": "#c8553d"}
MOST_COLUMNS = 3


def learning_curves(
    rows: Sequence[Mapping[str, Any]], *, best_step: int | None = None, title: str = ""
) -> bytes:
    """Draws every metric of the rows over epochs, with a gap where one was not finite.

    Args:
        rows: rows of `metrics.jsonl`.
        best_step: marked by a dotted line.
        title: above the picture.

    Returns:
        A PNG.
    """
    names = metric_names(rows)
    num_columns = min(max(len(names), 1), MOST_COLUMNS)
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
        axis.set_xlabel("epoch")
        axis.set_ylabel(name.replace("_", " "), parse_math=False)
        axis.grid(alpha=0.25)
        axis.legend(frameon=False)
    for axis in axes:  # the places that are left
        axis.set_axis_off()
    return as_png(figure)
