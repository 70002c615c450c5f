"""Pictures of an evaluation: which classes are mistaken for which, and how calibrated they are."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, ListedColormap, LogNorm
from matplotlib.figure import Figure

from cnn_lab.analysis.calibration import Reliability
from cnn_lab.report.png import as_png

MOST_NUMBERED, MOST_NAMED, MOST_DRAWN = 25, 60, 300  # classes
LONGEST_NAME, LONGEST_FLAT = 16, 3  # characters
BLUE, RED, GRAY = "#4878a8", "#c8553d", "#d8d8d4"


def confusion_chart(confusion: Int64[np.ndarray, "k k"], class_names: Sequence[str]) -> bytes:
    """Draws labels as rows and predictions as columns; mistakes in colour, the rest in gray.

    Args:
        confusion: counts [k k] of (label, prediction).
        class_names: label to name; left out where they are too many to read.

    Returns:
        A PNG.
    """
    num_classes = len(confusion)
    side = float(np.clip(1.6 + 0.42 * num_classes, 3.5, 9.0))
    has_scale = num_classes > MOST_NUMBERED
    figure = Figure(figsize=(side * (1.12 if has_scale else 1), side), layout="constrained")
    axis = figure.subplots()
    mistakes = confusion - np.diag(np.diag(confusion))
    axis.imshow(np.eye(num_classes), cmap=ListedColormap(["white", GRAY]), interpolation="nearest")
    if mistakes.any():
        shown = np.ma.masked_equal(mistakes, 0)
        most = max(int(mistakes.max()), 2)
        image = axis.imshow(shown, cmap=_reds(), norm=LogNorm(1, most), interpolation="nearest")
        if has_scale:
            ticks = [
                d * 10**e for e in range(len(str(most))) for d in (1, 2, 5) if d * 10**e <= most
            ]
            bar = figure.colorbar(image, ax=axis, shrink=0.6, label="mistakes", ticks=ticks)
            bar.ax.set_yticklabels([str(tick) for tick in ticks])
            bar.ax.minorticks_off()
    if num_classes <= MOST_NUMBERED:
        _write_counts(axis, confusion, mistakes)
    if num_classes <= MOST_NAMED:
        names = [_short(name) for name in class_names]
        turned = 90 if max(map(len, names)) > LONGEST_FLAT else 0
        axis.set_xticks(range(num_classes), names, rotation=turned, parse_math=False)
        axis.set_yticks(range(num_classes), names, parse_math=False)
        for edge in (axis.axhline, axis.axvline):
            for place in range(1, num_classes):
                edge(place - 0.5, color="#eeeeea", lw=0.8)
    axis.tick_params(length=0, labelsize=6 if has_scale else 9)
    axis.set_xlabel("prediction")
    axis.set_ylabel("label")
    return as_png(figure)


def reliability_chart(panels: Sequence[tuple[str, Reliability]]) -> bytes:
    """Draws accuracy over confidence, a panel each, above how many predictions there were.

    Args:
        panels: titles and what to draw, at least one.

    Returns:
        A PNG.
    """
    figure = Figure(figsize=(4.4 * len(panels), 5.2), layout="constrained")
    axes = figure.subplots(2, len(panels), squeeze=False, height_ratios=(3, 1), sharex=True)
    for (title, found), (above, below) in zip(panels, axes.T, strict=True):
        num_bins = len(found.counts)
        width, left = 1 / num_bins, np.arange(num_bins) / num_bins
        some = found.counts > 0
        counts = found.counts[some]
        accuracy, confidence = found.right[some] / counts, found.confidences[some] / counts
        bars = {"align": "edge", "color": BLUE, "edgecolor": "white", "label": "share right"}
        above.bar(left[some], accuracy, width, **bars)
        low, gap = np.minimum(accuracy, confidence), np.abs(accuracy - confidence)
        above.bar(
            left[some],
            gap,
            width,
            bottom=low,
            align="edge",
            fill=False,
            hatch="////",
            edgecolor=RED,
            lw=0.8,
            label="gap to the mean confidence",
        )
        above.plot((0, 1), (0, 1), color="#666666", linestyle=":", lw=1)
        above.set_title(f"{title}, ECE {found.error:.4f}", fontsize=11, parse_math=False)
        above.set_ylim(0, 1)
        above.grid(alpha=0.25)
        below.bar(left[some], counts, width, align="edge", color=GRAY, edgecolor="white")
        below.set_yscale("log")
        below.set_ylim(bottom=0.5)
        below.set_xlim(0, 1)
        below.set_xlabel("confidence")
    axes[0, 0].set_ylabel("share right")
    axes[1, 0].set_ylabel("predictions")
    axes[0, 0].legend(loc="upper left", edgecolor="none", framealpha=0.85)
    return as_png(figure)


def _write_counts(
    axis: Axes, confusion: Int64[np.ndarray, "k k"], mistakes: Int64[np.ndarray, "k k"]
) -> None:
    size = 10 if len(confusion) <= 12 else 7
    dark = mistakes > max(mistakes.max(), 2) ** 0.6
    for row, column in np.argwhere(confusion):
        colour = "white" if dark[row, column] else "#222222"
        count = int(confusion[row, column])
        axis.text(column, row, f"{count}", ha="center", va="center", color=colour, fontsize=size)


def _reds() -> Colormap:
    """From a red that is seen on white to a dark one."""
    return ListedColormap(colormaps["Reds"](np.linspace(0.2, 1.0, 128)))


def _short(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"
