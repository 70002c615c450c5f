"""Everything that is said of a classifier on one split, for the terminal and the page."""

import dataclasses
import functools
import operator
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int, Int64

from cnn_lab.analysis import calibration, intervals, scores
from cnn_lab.analysis.calibration import NoTemperatureError, Reliability
from cnn_lab.analysis.intervals import Interval
from cnn_lab.analysis.scores import ClassScores, Labels, Logits

TOP = 5  # the k of top-k accuracy beside 1, where there are more classes
CONFIDENCE = 0.95
# Validation logits and labels, `same` where they are those that are evaluated, None for nothing.
HeldOut = tuple[Float[np.ndarray, "m k"], Int[np.ndarray, " m"]] | Literal["same"] | None


@dataclasses.dataclass(frozen=True)
class Calibrated:
    """What temperature scaling does.

    Attributes:
        temperature: fitted on all validation examples.
        how: `validation` where these are other examples than the ones evaluated; `cross-fitted`
            where they are the same, and `after` is of each half at the temperature of the other.
        after: of the probabilities at that temperature.
        log_loss: of these probabilities, mean over examples.
    """

    temperature: float
    how: Literal["validation", "cross-fitted"]
    after: Reliability
    log_loss: float


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """A classifier on one split.

    Attributes:
        num_examples: of the split.
        metrics: figures by name, those of the task first.
        intervals: of some of them, by resampling the examples; empty where that was not wanted.
        classes: scores of each class.
        confusion: counts [k k] of (label, prediction).
        before: calibration as trained.
        calibrated: None where there is no temperature.
        no_temperature: why not, empty where there is one.
    """

    num_examples: int
    metrics: dict[str, float]
    intervals: dict[str, Interval]
    classes: ClassScores
    confusion: Int64[np.ndarray, "k k"]
    before: Reliability
    calibrated: Calibrated | None
    no_temperature: str

    @property
    def num_errors(self) -> int:
        """Examples whose class was not the first guess."""
        return int(self.confusion.sum() - np.trace(self.confusion))

    def to_json(self, class_names: tuple[str, ...]) -> dict[str, Any]:
        """Plain values; of the confusion matrix the cells that are not 0, the largest first."""
        found = self.classes
        names = ("precision", "recall", "f1", "support", "predicted")
        columns = [getattr(found, name).tolist() for name in names]
        rows = [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
        values = {
            "num_examples": self.num_examples,
            "num_errors": self.num_errors,
            "metrics": self.metrics,
            "intervals": {n: dataclasses.asdict(i) for n, i in self.intervals.items()},
            "macro": found.macro(),
            "weighted": found.weighted(),
            "classes": [{"name": name, **row} for name, row in zip(class_names, rows, strict=True)],
            "confusions": [
                {"label": class_names[i], "prediction": class_names[j], "count": count}
                for i, j, count in most_confused(self.confusion)
            ],
            "reliability": _bins(self.before),
        }
        if self.calibrated is not None:
            values["temperature"] = {
                "value": self.calibrated.temperature,
                "fitted_on": self.calibrated.how,
                "reliability": _bins(self.calibrated.after),
            }
        else:
            values["no_temperature"] = self.no_temperature
        return values


def evaluate(
    logits: Logits,
    labels: Labels,
    *,
    means: Mapping[str, float],
    held_out: HeldOut,
    num_resamples: int,
) -> Evaluation:
    """Scores finite logits.

    Args:
        logits: [n k].
        labels: [n].
        means: the task's metrics, shown first.
        held_out: validation logits and labels for the temperature; `same` where `logits` are
            those; None fits none.
        num_resamples: of the bootstrap; 0 gives no intervals.
    """
    num_classes, predictions = logits.shape[1], logits.argmax(1)
    found = scores.log_probabilities(logits)
    values = {
        "log_loss": scores.log_losses(found, labels),
        "brier": scores.brier_scores(found, labels),
    }
    confusion = scores.confusion_matrix(labels, predictions, num_classes)
    classes = scores.class_scores(confusion)
    before = calibration.reliability(found, labels)
    metrics = {**means, "accuracy": float(np.mean(predictions == labels))}
    if num_classes > TOP:
        values[f"top{TOP}"] = scores.among_top(logits, labels, TOP).astype(np.float64)
        metrics[f"top{TOP}"] = float(values[f"top{TOP}"].mean())
    metrics["macro_f1"] = classes.macro()["f1"]
    metrics |= {name: float(values[name].mean()) for name in ("log_loss", "brier")}
    metrics["ece"] = before.error
    calibrated, no_temperature = None, ""
    try:
        calibrated = _calibrate(logits, labels, held_out)
    except NoTemperatureError as error:
        no_temperature = str(error)
    if calibrated is not None:
        metrics["ece_scaled"] = calibrated.after.error
        metrics["log_loss_scaled"] = calibrated.log_loss
    return Evaluation(
        num_examples=len(labels),
        metrics=metrics,
        intervals=intervals.bootstrap(
            labels,
            predictions,
            values,
            num_classes,
            num_resamples=num_resamples,
            confidence=CONFIDENCE,
        )
        if num_resamples
        else {},
        classes=classes,
        confusion=confusion,
        before=before,
        calibrated=calibrated,
        no_temperature=no_temperature,
    )


def pooled(members: list[Evaluation]) -> Evaluation:
    """All runs' predictions as if one had made them, for tables and figures of several runs.

    Its metrics and intervals are empty: those of several runs are `intervals.over_runs`.
    """
    confusion = np.sum([member.confusion for member in members], axis=0)
    calibrated = [member.calibrated for member in members if member.calibrated is not None]
    reasons = [member.no_temperature for member in members if member.no_temperature]
    after = None
    if len(calibrated) == len(members):
        after = Calibrated(
            float(np.mean([found.temperature for found in calibrated])),
            calibrated[0].how,
            functools.reduce(operator.add, [found.after for found in calibrated]),
            float(
                np.average(
                    [found.log_loss for found in calibrated],
                    weights=[member.num_examples for member in members],
                )
            ),
        )
    return Evaluation(
        num_examples=int(confusion.sum()),
        metrics={},
        intervals={},
        classes=scores.class_scores(confusion),
        confusion=confusion,
        before=functools.reduce(operator.add, [member.before for member in members]),
        calibrated=after,
        no_temperature=f"{reasons[0]}, of one network at least" if reasons else "",
    )


def most_confused(
    confusion: Int64[np.ndarray, "k k"], *, diagonal: bool = True
) -> list[tuple[int, int, int]]:
    """(label, prediction, count) of the cells that are not 0, the largest first."""
    table = confusion if diagonal else confusion - np.diag(np.diag(confusion))
    found = np.argwhere(table)
    counts = table[tuple(found.T)]
    order = np.argsort(-counts, kind="stable")
    return [(int(i), int(j), int(n)) for (i, j), n in zip(found[order], counts[order], strict=True)]


def _calibrate(logits: Logits, labels: Labels, held_out: HeldOut) -> Calibrated:
    if held_out is None or (held_out == "same" and len(labels) < 2):
        raise NoTemperatureError("there are no validation examples to fit it on")
    if held_out == "same":
        temperature, how = calibration.fit_temperature(logits, labels), "cross-fitted"
        after = calibration.cross_fitted(logits, labels)
    else:
        temperature, how = calibration.fit_temperature(*held_out), "validation"
        after = calibration.at_temperature(logits, temperature)
    log_loss = float(scores.log_losses(after, labels).mean())
    return Calibrated(temperature, how, calibration.reliability(after, labels), log_loss)


def _bins(found: Reliability) -> list[dict[str, float | int | None]]:
    """A row a bin; confidence and accuracy are null in an empty one."""
    rows = zip(found.counts.tolist(), found.confidences.tolist(), found.right.tolist(), strict=True)
    num_bins = len(found.counts)
    return [
        {
            "above": bin_ / num_bins,
            "up_to": (bin_ + 1) / num_bins,
            "count": count,
            "confidence": confidence / count if count else None,
            "accuracy": right / count if count else None,
        }
        for bin_, (count, confidence, right) in enumerate(rows)
    ]
