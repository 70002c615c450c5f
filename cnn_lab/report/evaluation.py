"""The files of an evaluation: every figure as JSON, and a page with pictures to look at."""

import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int64
from matplotlib import colormaps
from matplotlib.colors import ListedColormap, LogNorm
from matplotlib.figure import Figure

from cnn_lab.analysis.calibration import Reliability
from cnn_lab.analysis.evaluation import (
    TOP,
    ClassifierEvaluation,
    EvaluationResults,
    most_confused,
    pool,
)
from cnn_lab.analysis.regression import NumberScores, NumbersEvaluation
from cnn_lab.analysis.scores import CONFIDENCE
from cnn_lab.core.files import write_json, write_text
from cnn_lab.core.text import counted
from cnn_lab.report.render import BLUE, RED, Report, as_png, panels, render

MAX_PAIRS = 20
MAX_NUMBERED, MAX_NAMED, MAX_DRAWN = 25, 60, 300  # classes
MAX_PANELS = 12  # numbers whose predictions are drawn
MAX_NAME_LENGTH, MAX_FLAT_LENGTH = 16, 3  # characters
GRAY = "#d8d8d4"
MEANINGS = {
    "loss": "the task's loss, mean over images",
    "accuracy": "share of images whose first guess is right",
    f"top{TOP}": f"share of images whose class is among the {TOP} first guesses",
    "macro_f1": "mean over classes of the harmonic mean of precision and recall",
    "log_loss": "minus the logarithm of the probability of the right class, mean over images",
    "brier": "squared distance of the probabilities to the right answer (0 to 2)",
    "ece": "expected calibration error: how far confidence is from accuracy, 15 bins",
    "ece_scaled": "the same after temperature scaling",
    "log_loss_scaled": "log loss after temperature scaling",
    "mae": "mean absolute error, in the unit of the data; the mean of several numbers",
    "rmse": "root of the mean squared error, likewise",
    "r2": "share of the variance that is explained: 1 is perfect, 0 as good as the mean",
    "bias": "mean error: below 0 where predictions are too small",
    "error_q50": "half of the absolute errors are at most this",
    "error_q90": "nine of ten absolute errors are at most this",
    "error_q99": "99 of 100 absolute errors are at most this",
}


def write_evaluation(folder: Path, results: EvaluationResults) -> Report:
    """Writes `evaluation_SPLIT.html` and `evaluation_SPLIT.json`, over those of the last time.

    `_checkpoints`, where they are several of one run, and the name of test-time augmentation follow
    that of the split, so that these leave the figures of the run alone. A missing folder is
    created.
    """
    folder.mkdir(parents=True, exist_ok=True)
    views = re.sub(r"[^a-z0-9]+", "_", "" if results.tta == "none" else f"_{results.tta}")
    several = "" if results.are_runs or len(results.networks) == 1 else "_checkpoints"
    stem = f"evaluation_{results.split}{several}{views}"
    written = Report(folder / f"{stem}.html", folder / f"{stem}.json")
    page = evaluation_page(results, folder)
    write_json(written.beside, {"time": _now(), **results.to_json()})
    write_text(written.page, page)
    return written


def evaluation_page(results: EvaluationResults, folder: Path) -> str:
    """The page of an evaluation as HTML; the folder is in the title of several runs."""
    shown, whose = _shown(results)
    places = {network.workdir for network in results.networks}
    place = places.pop() if len(places) == 1 else folder
    return render(
        "evaluation.html.jinja",
        title=f"{place}, {results.split} split",
        facts=_facts(results, shown),
        confidence=f"{CONFIDENCE:.0%}",
        meanings=MEANINGS,
        results=results,
        single=results.networks[0] if len(results.networks) == 1 else None,
        names=results.shared(),
        sampled=results.sampled(),
        spread_rows=results.spread_rows(),
        gains=results.gains(),
        whose=whose,
        shown=shown,
        scatter=_scatter(results),
        numbers=_numbers(results),
        **({} if shown is None else _details(shown, results.target.class_names)),
    )


def _shown(results: EvaluationResults) -> tuple[ClassifierEvaluation | None, str]:
    """The evaluation in tables and pictures, and whose it is in words."""
    if results.ensemble is not None:
        return results.ensemble, " of the ensemble"
    every = [network.evaluation for network in results.networks]
    found = [one for one in every if isinstance(one, ClassifierEvaluation)]
    if len(found) < len(results.networks):
        return None, ""
    return (found[0], "") if len(found) == 1 else (pool(found), f" of all {len(found)} together")


def _facts(results: EvaluationResults, shown: ClassifierEvaluation | None) -> list[tuple[str, str]]:
    """Names and texts of the data and the networks."""
    first, is_single = results.networks[0], len(results.networks) == 1
    facts = [
        ("Data", f"{results.data}, {results.target.describe()}"),
        ("Split", f"{results.split}, {counted(first.num_examples, 'image')}"),
    ]
    if is_single:
        facts.append(("Checkpoint", f"step {first.step:,}"))
    else:
        kind = "run" if results.are_runs else "checkpoint"
        facts.append(("Networks", counted(len(results.networks), kind)))
    if results.tta != "none":
        facts.append(("Test-time augmentation", results.tta))
    if shown is not None and shown.scaled is not None:
        name = "Temperature" if is_single or results.ensemble else "Mean temperature"
        facts.append((name, f"{shown.scaled.temperature:.3f}"))
    return [*facts, ("Evaluated", _now())]


def _details(evaluation: ClassifierEvaluation, class_names: tuple[str, ...]) -> dict[str, Any]:
    """Tables and pictures of one classifier."""
    classes, scaled = evaluation.classes, evaluation.scaled
    rows = classes.to_json(class_names)
    pairs = most_confused(evaluation.confusion, diagonal=False)
    panels = [("as trained", evaluation.before)]
    if scaled is not None:
        panels.append((f"temperature {scaled.temperature:.3f}", scaled.after))
    return {
        "confusion": confusion_chart(evaluation.confusion, class_names)
        if len(class_names) <= MAX_DRAWN
        else None,
        "reliability": reliability_chart(panels),
        "num_pairs": len(pairs),
        "pairs": [
            (class_names[i], class_names[j], count, count / int(classes.support[i]))
            for i, j, count in pairs[:MAX_PAIRS]
        ],
        "classes": sorted(rows, key=lambda row: (row["f1"], -row["support"])),
        "means": {"macro mean": classes.macro(), "weighted mean": classes.weighted()},
    }


def _numbers(results: EvaluationResults) -> list[tuple[str, list[NumberScores]]]:
    """Networks by name and the scores of each of several numbers; none of one number or classes."""
    return [
        (network.name, network.evaluation.numbers())
        for network in results.networks
        if isinstance(network.evaluation, NumbersEvaluation) and len(network.evaluation.names) > 1
    ]


def _scatter(results: EvaluationResults) -> bytes | None:
    """Predicted over true numbers of one network; None of several, and of classes."""
    found = results.networks[0].evaluation
    if len(results.networks) > 1 or not isinstance(found, NumbersEvaluation):
        return None
    return predicted_chart(found.names, found.targets, found.predictions)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def confusion_chart(confusion: Int64[np.ndarray, "k k"], class_names: Sequence[str]) -> bytes:
    """A PNG with labels as rows and predictions as columns; mistakes in colour, the rest in gray.

    Counts and names are left out where they are too many to read.
    """
    num_classes = len(confusion)
    side = float(np.clip(1.6 + 0.42 * num_classes, 3.5, 9.0))
    has_scale = num_classes > MAX_NUMBERED
    figure = Figure(figsize=(side * (1.12 if has_scale else 1), side), layout="constrained")
    axis = figure.subplots()
    mistakes = confusion - np.diag(np.diag(confusion))
    largest = max(int(mistakes.max()), 2)
    axis.imshow(np.eye(num_classes), cmap=ListedColormap(["white", GRAY]), interpolation="nearest")
    if mistakes.any():
        shown = np.ma.masked_equal(mistakes, 0)
        # From a red that is seen on white to a dark one.
        reds = ListedColormap(colormaps["Reds"](np.linspace(0.2, 1.0, 128)))
        image = axis.imshow(shown, cmap=reds, norm=LogNorm(1, largest), interpolation="nearest")
        if has_scale:
            powers = [10**exponent for exponent in range(len(str(largest)))]
            ticks = [d * p for p in powers for d in (1, 2, 5) if d * p <= largest]
            bar = figure.colorbar(image, ax=axis, shrink=0.6, label="mistakes", ticks=ticks)
            bar.ax.set_yticklabels([str(tick) for tick in ticks])
            bar.ax.minorticks_off()
    if num_classes <= MAX_NUMBERED:
        size = 10 if num_classes <= 12 else 7
        for row, column in np.argwhere(confusion):
            colour = "white" if mistakes[row, column] > largest**0.6 else "#222222"
            style = {"ha": "center", "va": "center", "color": colour, "fontsize": size}
            axis.text(column, row, f"{confusion[row, column]}", **style)
    if num_classes <= MAX_NAMED:
        names = [
            name if len(name) <= MAX_NAME_LENGTH else f"{name[: MAX_NAME_LENGTH - 1]}…"
            for name in class_names
        ]
        turned = 90 if max(map(len, names)) > MAX_FLAT_LENGTH else 0
        axis.set_xticks(range(num_classes), names, rotation=turned, parse_math=False)
        axis.set_yticks(range(num_classes), names, parse_math=False)
        for edge in (axis.axhline, axis.axvline):
            for place in range(1, num_classes):
                edge(place - 0.5, color="#eeeeea", lw=0.8)
    axis.tick_params(length=0, labelsize=6 if has_scale else 9)
    axis.set_xlabel("prediction")
    axis.set_ylabel("label")
    return as_png(figure)


def predicted_chart(
    names: Sequence[str], targets: Float[np.ndarray, "n d"], predictions: Float[np.ndarray, "n d"]
) -> bytes:
    """A PNG of predicted over true numbers, a panel a number; right ones lie on the line."""
    names = names[:MAX_PANELS]
    figure, axes = panels(len(names), 3, (4.6, 4.4))
    for index, (name, axis) in enumerate(zip(names, axes, strict=True)):
        true, predicted = targets[:, index], predictions[:, index]
        both = np.concatenate([true, predicted])
        ends = (float(both.min()), float(both.max()))
        axis.plot(ends, ends, color="#666666", linestyle=":", lw=1)
        opacity = float(np.clip(200 / len(true), 0.05, 0.8))
        axis.scatter(true, predicted, s=9, color=BLUE, alpha=opacity, linewidths=0)
        axis.set_title(name, fontsize=11, parse_math=False)
        axis.set_xlabel("true")
        axis.set_ylabel("predicted")
        axis.grid(alpha=0.25)
    return as_png(figure)


def reliability_chart(panels: Sequence[tuple[str, Reliability]]) -> bytes:
    """A PNG of accuracy over confidence, above how many predictions there were.

    Args:
        panels: titles and what to draw, at least one.
    """
    figure = Figure(figsize=(4.4 * len(panels), 5.2), layout="constrained")
    axes = figure.subplots(2, len(panels), squeeze=False, height_ratios=(3, 1), sharex=True)
    for (title, reliability), (above, below) in zip(panels, axes.T, strict=True):
        num_bins, some = len(reliability.counts), reliability.counts > 0
        bars: dict[str, Any] = {"width": 1 / num_bins, "align": "edge"}
        left, counts = np.flatnonzero(some) / num_bins, reliability.counts[some]
        accuracy = reliability.right[some] / counts
        confidence = reliability.confidences[some] / counts
        above.bar(left, accuracy, color=BLUE, edgecolor="white", label="share right", **bars)
        above.bar(
            left,
            np.abs(accuracy - confidence),
            bottom=np.minimum(accuracy, confidence),
            fill=False,
            hatch="////",
            edgecolor=RED,
            lw=0.8,
            label="gap to the mean confidence",
            **bars,
        )
        above.plot((0, 1), (0, 1), color="#666666", linestyle=":", lw=1)
        above.set_title(f"{title}, ECE {reliability.error:.4f}", fontsize=11, parse_math=False)
        above.set_ylim(0, 1)
        above.grid(alpha=0.25)
        below.bar(left, counts, color=GRAY, edgecolor="white", **bars)
        below.set_yscale("log")
        below.set_ylim(bottom=0.5)
        below.set_xlim(0, 1)
        below.set_xlabel("confidence")
    axes[0, 0].set_ylabel("share right")
    axes[1, 0].set_ylabel("predictions")
    labelled = axes[0, 0].get_legend_handles_labels()
    figure.legend(*labelled, loc="outside lower center", ncols=2, edgecolor="none")
    return as_png(figure)
