"""The files of an evaluation: every figure as JSON, and a page to look at."""

import base64
import dataclasses
import re
import time
from pathlib import Path
from typing import Any

import numpy as np

from cnn_lab.analysis.evaluation import CONFIDENCE, TOP, Evaluation, most_confused, pooled
from cnn_lab.analysis.results import Results
from cnn_lab.core.files import write_json, write_text
from cnn_lab.core.formatting import counted
from cnn_lab.report.charts import MOST_DRAWN, confusion_chart, reliability_chart
from cnn_lab.report.pages import render

TEMPLATE = "evaluation.html.jinja"  # beside this file
MOST_PAIRS = 20
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
}


@dataclasses.dataclass(frozen=True)
class Written:
    """Where an evaluation was written."""

    figures: Path
    page: Path


def write_evaluation(folder: Path, results: Results) -> Written:
    """Writes `evaluation_SPLIT.json` and `evaluation_SPLIT.html`, over those of the last time.

    With test-time augmentation its name follows that of the split.

    Args:
        folder: created when missing.
        results: what was found.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    views = re.sub(r"[^a-z0-9]+", "_", "" if results.tta == "none" else f"_{results.tta}")
    stem = f"evaluation_{results.split}{views}"
    written = Written(folder / f"{stem}.json", folder / f"{stem}.html")
    page = evaluation_page(results, folder)
    write_json(written.figures, {"time": _now(), **results.to_json()})
    write_text(written.page, page)
    return written


def evaluation_page(results: Results, folder: Path) -> str:
    """The page of an evaluation as HTML.

    Args:
        results: what was found.
        folder: of the page, for the title of several runs.
    """
    shown, whose = _shown(results)
    places = {member.workdir for member in results.members}
    place = places.pop() if len(places) == 1 else folder
    return render(
        TEMPLATE,
        title=f"{place}, {results.split} split",
        facts=_facts(results, shown),
        confidence=f"{CONFIDENCE:.0%}",
        meanings=MEANINGS,
        results=results,
        single=results.members[0] if len(results.members) == 1 else None,
        names=results.shared(),
        sampled=results.sampled(),
        spread_rows=results.spread_rows(),
        gains=results.gains(),
        whose=whose,
        details=None if shown is None else _details(shown, results.class_names),
    )


def _shown(results: Results) -> tuple[Evaluation | None, str]:
    """What the tables and pictures are of, and that in words."""
    if results.ensemble is not None:
        return results.ensemble, " of the ensemble"
    found = [member.evaluation for member in results.members]
    kept = [evaluation for evaluation in found if evaluation is not None]
    if len(kept) < len(found):
        return None, ""
    return (kept[0], "") if len(kept) == 1 else (pooled(kept), f" of all {len(kept)} together")


def _facts(results: Results, shown: Evaluation | None) -> list[tuple[str, str]]:
    """Names and texts of what the figures are of."""
    first = results.members[0]
    classes = counted(len(results.class_names), "class")
    facts = [
        ("Data", f"{results.data}, {classes}"),
        ("Split", f"{results.split}, {counted(first.num_examples, 'image')}"),
    ]
    if len(results.members) == 1:
        facts.append(("Checkpoint", f"step {first.step:,}"))
    else:
        facts.append(("Networks", counted(len(results.members), _kind(results))))
    if results.tta != "none":
        facts.append(("Test-time augmentation", results.tta))
    if shown is not None and shown.calibrated is not None:
        name = (
            "Temperature" if len(results.members) == 1 or results.ensemble else "Mean temperature"
        )
        facts.append((name, f"{shown.calibrated.temperature:.3f}"))
    facts.append(("Evaluated", _now()))
    return facts


def _kind(results: Results) -> str:
    return "run" if results.are_runs else "checkpoint"


def _details(found: Evaluation, class_names: tuple[str, ...]) -> dict[str, Any]:
    """Tables and pictures of one classifier."""
    classes, calibrated = found.classes, found.calibrated
    order = np.lexsort((np.arange(len(class_names)), -classes.support, classes.f1))
    pairs = most_confused(found.confusion, diagonal=False)
    panels = [("as trained", found.before)]
    if calibrated is not None:
        panels.append((f"temperature {calibrated.temperature:.3f}", calibrated.after))
    return {
        "num_errors": found.num_errors,
        "confusion": _encoded(confusion_chart(found.confusion, class_names))
        if len(class_names) <= MOST_DRAWN
        else None,
        "reliability": _encoded(reliability_chart(panels)),
        "calibrated": calibrated,
        "no_temperature": found.no_temperature,
        "num_pairs": len(pairs),
        "pairs": [
            (class_names[i], class_names[j], count, count / int(classes.support[i]))
            for i, j, count in pairs[:MOST_PAIRS]
        ],
        "classes": [
            {
                "name": class_names[k],
                "f1": float(classes.f1[k]),
                "precision": float(classes.precision[k]),
                "recall": float(classes.recall[k]),
                "support": int(classes.support[k]),
                "predicted": int(classes.predicted[k]),
            }
            for k in order.tolist()
        ],
        "means": {"macro mean": classes.macro(), "weighted mean": classes.weighted()},
    }


def _encoded(picture: bytes) -> str:
    return base64.b64encode(picture).decode()


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")
