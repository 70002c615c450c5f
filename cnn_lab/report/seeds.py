"""Learning curves of one experiment from several seeds, as one picture."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from cnn_lab.report.curves import COLOURS
from cnn_lab.report.png import as_png
from cnn_lab.workdir.metric_writers import metric_names

Rows = Sequence[Mapping[str, Any]]


def seeds_chart(rows_of: Mapping[int, Rows]) -> bytes:
    """Draws a thin line a seed and a thick one for their mean, for loss and the other metrics.

    Args:
        rows_of: seed -> rows of its `metrics.jsonl`.

    Returns:
        A PNG.
    """
    looks = [row for rows in rows_of.values() for row in rows if row["split"] == "validation"]
    names = metric_names(looks) or ["loss"]
    figure = Figure(figsize=(5.2 * len(names), 3.8), layout="constrained")
    for axis, name in zip(figure.subplots(1, len(names), squeeze=False).flat, names, strict=True):
        for split, colour in COLOURS.items():
            curves = [_curve(rows, split, name) for rows in rows_of.values()]
            for curve in curves:
                axis.plot(*_lines(curve), color=colour, linewidth=0.7, alpha=0.45)
            shared = sorted(set.intersection(*map(set, curves)))
            if shared:
                means = [float(np.mean([curve[epoch] for curve in curves])) for epoch in shared]
                label = f"{split}, mean of {len(curves)}"
                axis.plot(shared, means, color=colour, linewidth=2, label=label)
        axis.set_xlabel("epoch")
        axis.set_ylabel(name.replace("_", " "), parse_math=False)
        axis.grid(alpha=0.25)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(frameon=False)
    return as_png(figure)


def _curve(rows: Rows, split: str, name: str) -> dict[float, float]:
    return {
        row["epoch"]: math.nan if row[name] is None else row[name]
        for row in rows
        if row["split"] == split and name in row
    }


def _lines(curve: Mapping[float, float]) -> tuple[list[float], list[float]]:
    return list(curve), list(curve.values())
