"""Learning curves of a run as a picture."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

COLOURS = {"train": "#4878a8", "validation": "#c8553d"}
LABELS = {"loss": "loss", "accuracy": "accuracy"}


def learning_curves(
    rows: Sequence[Mapping[str, Any]], *, best_step: int | None = None, title: str = ""
) -> bytes:
    """Draws every metric that a train or validation row has, over epochs.

    Args:
        rows: rows of `metrics.jsonl`.
        best_step: marked by a dotted line.
        title: above the picture.

    Returns:
        A PNG.
    """
    names = [name for name in LABELS if any(name in row for row in rows)]
    figure = Figure(figsize=(5.2 * max(len(names), 1), 3.8), layout="constrained")
    if title:
        figure.suptitle(title)
    axes = figure.subplots(1, max(len(names), 1), squeeze=False)[0]
    best_epoch = next((row["epoch"] for row in rows if row["step"] == best_step), None)
    for axis, name in zip(axes, names, strict=False):
        for split, colour in COLOURS.items():
            points = [(r["epoch"], r[name]) for r in rows if r["split"] == split and name in r]
            if points:
                epochs, values = zip(*points, strict=True)
                marker = "o" if len(points) <= 40 else None
                axis.plot(epochs, values, color=colour, label=split, marker=marker, markersize=3)
        if best_epoch is not None:
            axis.axvline(best_epoch, color="#888888", linestyle=":", label="best")
        axis.set_xlabel("epoch")
        axis.set_ylabel(LABELS[name])
        axis.grid(alpha=0.25)
        axis.legend(frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()
