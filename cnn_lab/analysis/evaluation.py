"""The evaluation of one or several networks on one split: figures, intervals, tables by class."""

import dataclasses
import functools
import math
import operator
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int, Int64

from cnn_lab.analysis import calibration, scores
from cnn_lab.analysis.calibration import NoTemperatureError, Reliability
from cnn_lab.analysis.scores import ClassScores, Interval, Labels, Logits, Spread, over_runs
from cnn_lab.core.files import finite_or_none

TOP = 5  # the k of top-k accuracy beside 1, where there are more classes
CONFIDENCE = 0.95
# Validation logits and labels, `same` where they are those that are evaluated, None for nothing.
HeldOut = tuple[Float[np.ndarray, "m k"], Int[np.ndarray, " m"]] | Literal["same"] | None


@dataclasses.dataclass(frozen=True)
class TemperatureScaling:
    """The effect of dividing the logits by a fitted temperature.

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
class ClassifierEvaluation:
    """A classifier on one split.

    Attributes:
        num_examples: of the split.
        metrics: figures by name, those of the task first.
        intervals: of some of them, by resampling the examples; empty where that was not wanted.
        classes: scores of each class.
        confusion: counts [k k] of (label, prediction).
        before: calibration as trained.
        scaled: calibration after temperature scaling; None where there is no temperature.
        no_temperature: why there is none, empty where there is one.
    """

    num_examples: int
    metrics: dict[str, float]
    intervals: dict[str, Interval]
    classes: ClassScores
    confusion: Int64[np.ndarray, "k k"]
    before: Reliability
    scaled: TemperatureScaling | None
    no_temperature: str

    @property
    def num_errors(self) -> int:
        """Examples whose class was not the first guess."""
        return int(self.confusion.sum() - np.trace(self.confusion))

    def to_json(self, class_names: tuple[str, ...]) -> dict[str, Any]:
        """Plain values; of the confusion matrix the cells that are not 0, the largest first."""
        scores_by_class = self.classes
        names = ("precision", "recall", "f1", "support", "predicted")
        columns = [getattr(scores_by_class, name).tolist() for name in names]
        rows = [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
        values = {
            "num_examples": self.num_examples,
            "num_errors": self.num_errors,
            "metrics": self.metrics,
            "intervals": {n: dataclasses.asdict(i) for n, i in self.intervals.items()},
            "macro": scores_by_class.macro(),
            "weighted": scores_by_class.weighted(),
            "classes": [{"name": name, **row} for name, row in zip(class_names, rows, strict=True)],
            "confusions": [
                {"label": class_names[i], "prediction": class_names[j], "count": count}
                for i, j, count in most_confused(self.confusion)
            ],
            "reliability": _bins(self.before),
        }
        if self.scaled is not None:
            values["temperature"] = {
                "value": self.scaled.temperature,
                "fitted_on": self.scaled.how,
                "reliability": _bins(self.scaled.after),
            }
        else:
            values["no_temperature"] = self.no_temperature
        return values


def evaluate_classifier(
    logits: Logits,
    labels: Labels,
    *,
    means: Mapping[str, float],
    held_out: HeldOut,
    num_resamples: int,
) -> ClassifierEvaluation:
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
    log_probabilities = scores.log_probabilities(logits)
    values = {
        "log_loss": scores.log_losses(log_probabilities, labels),
        "brier": scores.brier_scores(log_probabilities, labels),
    }
    confusion = scores.confusion_matrix(labels, predictions, num_classes)
    classes = scores.class_scores(confusion)
    before = calibration.reliability(log_probabilities, labels)
    metrics = {**means, "accuracy": float(np.mean(predictions == labels))}
    if num_classes > TOP:
        values[f"top{TOP}"] = scores.among_top(logits, labels, TOP).astype(np.float64)
        metrics[f"top{TOP}"] = float(values[f"top{TOP}"].mean())
    metrics["macro_f1"] = classes.macro()["f1"]
    metrics |= {name: float(values[name].mean()) for name in ("log_loss", "brier")}
    metrics["ece"] = before.error
    scaled, no_temperature = None, ""
    try:
        scaled = _scale(logits, labels, held_out)
        metrics["ece_scaled"] = scaled.after.error
        metrics["log_loss_scaled"] = scaled.log_loss
    except NoTemperatureError as error:
        no_temperature = str(error)
    return ClassifierEvaluation(
        num_examples=len(labels),
        metrics=metrics,
        intervals=scores.bootstrap(
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
        scaled=scaled,
        no_temperature=no_temperature,
    )


def pool(evaluations: list[ClassifierEvaluation]) -> ClassifierEvaluation:
    """All networks' predictions as if one had made them, for tables and figures of several.

    Its metrics and intervals are empty: those of several runs are `scores.over_runs`.
    """
    confusion = np.sum([evaluation.confusion for evaluation in evaluations], axis=0)
    scalings = [evaluation.scaled for evaluation in evaluations if evaluation.scaled is not None]
    reasons = [e.no_temperature for e in evaluations if e.no_temperature]
    scaled = None
    if len(scalings) == len(evaluations):
        num_examples = [evaluation.num_examples for evaluation in evaluations]
        log_losses = [scaling.log_loss for scaling in scalings]
        scaled = TemperatureScaling(
            float(np.mean([scaling.temperature for scaling in scalings])),
            scalings[0].how,
            functools.reduce(operator.add, [scaling.after for scaling in scalings]),
            float(np.average(log_losses, weights=num_examples)),
        )
    return ClassifierEvaluation(
        num_examples=int(confusion.sum()),
        metrics={},
        intervals={},
        classes=scores.class_scores(confusion),
        confusion=confusion,
        before=functools.reduce(operator.add, [evaluation.before for evaluation in evaluations]),
        scaled=scaled,
        no_temperature=f"{reasons[0]}, of one network at least" if reasons else "",
    )


def most_confused(
    confusion: Int64[np.ndarray, "k k"], *, diagonal: bool = True
) -> list[tuple[int, int, int]]:
    """(label, prediction, count) of the cells that are not 0, the largest first."""
    table = confusion if diagonal else confusion - np.diag(np.diag(confusion))
    cells = np.argwhere(table)
    counts = table[tuple(cells.T)]
    order = np.argsort(-counts, kind="stable")
    return [(int(i), int(j), int(n)) for (i, j), n in zip(cells[order], counts[order], strict=True)]


@dataclasses.dataclass(frozen=True)
class NetworkResult:
    """The figures of one network: a checkpoint of a run.

    Attributes:
        name: of its run, short.
        workdir: of its run.
        step: of its checkpoint.
        num_examples: of the split.
        seconds: that the split took, with what was compiled for it.
        means: the task's metrics.
        evaluation: more of a classifier; None for other tasks and for outputs that are not finite.
        num_unusable: examples whose outputs are not finite.
    """

    name: str
    workdir: str
    step: int
    num_examples: int
    seconds: float
    means: dict[str, float]
    evaluation: ClassifierEvaluation | None
    num_unusable: int = 0

    @property
    def metrics(self) -> dict[str, float]:
        """All figures by name, those of the task first."""
        return self.means if self.evaluation is None else self.evaluation.metrics


@dataclasses.dataclass(frozen=True)
class EvaluationResults:
    """The figures of all networks that were evaluated together on one split.

    Attributes:
        split: train, validation or test.
        data: name of the data set.
        fingerprint: of the data set.
        class_names: label to name.
        tta: test-time augmentation, in words.
        num_resamples: of the bootstrap.
        networks: at least one.
        are_runs: whether they are of several runs, and not checkpoints of one.
        no_spread: why they are no sample of one experiment's trainings, empty where they are.
        ensemble: the mean of their probabilities, where that was asked for.
        num_test_openings: how often the test split of each run has been opened by now; empty for
            other splits.
    """

    split: str
    data: str
    fingerprint: str
    class_names: tuple[str, ...]
    tta: str
    num_resamples: int
    networks: tuple[NetworkResult, ...]
    are_runs: bool
    no_spread: str
    ensemble: ClassifierEvaluation | None
    num_test_openings: tuple[int, ...] = ()

    def spreads(self) -> dict[str, Spread]:
        """Mean and spread of each figure over independent trainings; empty for fewer than two."""
        if self.no_spread or len(self.networks) < 2:
            return {}
        return {
            name: over_runs([network.metrics[name] for network in self.networks], CONFIDENCE)
            for name in self.shared()
        }

    def spread_rows(self) -> list[tuple[str, dict[str, float]]]:
        """The spreads as rows of a table: what it is, and the figures by name."""
        spreads, sure = self.spreads(), f"{CONFIDENCE:.0%}"
        rows = {
            "mean": lambda spread: spread.mean,
            "sd": lambda spread: spread.sd,
            f"{sure} from": lambda spread: spread.interval.low,
            f"{sure} to": lambda spread: spread.interval.high,
            "min": lambda spread: spread.min,
            "max": lambda spread: spread.max,
        }
        return [
            (label, {name: get(spread) for name, spread in spreads.items()})
            for label, get in rows.items()
            if spreads
        ]

    def shared(self) -> list[str]:
        """Names of the figures that every network has."""
        first, *others = [network.metrics for network in self.networks]
        return [name for name in first if all(name in metrics for metrics in others)]

    def sampled(self) -> list[str]:
        """Names of the figures of which every network has an interval, by resampling the images."""
        all_intervals = [n.evaluation.intervals if n.evaluation else {} for n in self.networks]
        return [name for name in self.shared() if all(name in each for each in all_intervals)]

    def gains(self) -> dict[str, float]:
        """Figures of the ensemble minus the mean of its networks'."""
        if self.ensemble is None:
            return {}
        return {
            name: value - math.fsum(n.metrics[name] for n in self.networks) / len(self.networks)
            for name, value in self.ensemble.metrics.items()
            if name in self.shared()
        }

    def to_json(self) -> dict[str, Any]:
        """Everything as plain values; null where a figure is not finite."""
        values: dict[str, Any] = {
            "split": self.split,
            "data": {"name": self.data, "fingerprint": self.fingerprint},
            "class_names": list(self.class_names),
            "tta": self.tta,
            "num_resamples": self.num_resamples,
            "networks": [self._network_to_json(network) for network in self.networks],
        }
        if spreads := self.spreads():
            values["over_runs"] = {n: dataclasses.asdict(s) for n, s in spreads.items()}
        if self.no_spread:
            values["no_spread"] = self.no_spread
        if self.ensemble is not None:
            values["ensemble"] = self.ensemble.to_json(self.class_names)
            values["ensemble"]["minus_mean_of_networks"] = self.gains()
        return finite_or_none(values)

    def _network_to_json(self, network: NetworkResult) -> dict[str, Any]:
        place = {"workdir": network.workdir, "checkpoint": network.step}
        if network.evaluation is None:
            return {**place, "num_examples": network.num_examples, "metrics": network.means}
        return {**place, **network.evaluation.to_json(self.class_names)}


def _scale(logits: Logits, labels: Labels, held_out: HeldOut) -> TemperatureScaling:
    if held_out is None or (held_out == "same" and len(labels) < 2):
        raise NoTemperatureError("there are no validation examples to fit it on")
    if held_out == "same":
        temperature, how = calibration.fit_temperature(logits, labels), "cross-fitted"
        after = calibration.cross_fitted(logits, labels)
    else:
        temperature, how = calibration.fit_temperature(*held_out), "validation"
        after = calibration.at_temperature(logits, temperature)
    log_loss = float(scores.log_losses(after, labels).mean())
    return TemperatureScaling(temperature, how, calibration.reliability(after, labels), log_loss)


def _bins(reliability: Reliability) -> list[dict[str, float | int | None]]:
    """A row a bin; confidence and accuracy are null in an empty one."""
    columns = (reliability.counts, reliability.confidences, reliability.right)
    num_bins = len(reliability.counts)
    return [
        {
            "above": bin_ / num_bins,
            "up_to": (bin_ + 1) / num_bins,
            "count": count,
            "confidence": confidence / count if count else None,
            "accuracy": right / count if count else None,
        }
        for bin_, (count, confidence, right) in enumerate(
            zip(*(column.tolist() for column in columns), strict=True)
        )
    ]
