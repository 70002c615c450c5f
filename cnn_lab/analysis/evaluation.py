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
from cnn_lab.analysis.regression import NumbersEvaluation
from cnn_lab.analysis.scores import ClassScores, Interval, Labels, Logits, Spread
from cnn_lab.core.files import finite_or_none
from cnn_lab.core.targets import TargetSpec

TOP = 5  # the k of top-k accuracy beside 1, where there are more classes
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
    """

    temperature: float
    how: Literal["validation", "cross-fitted"]
    after: Reliability


@dataclasses.dataclass(frozen=True)
class ClassifierEvaluation:
    """A classifier on one split.

    Attributes:
        metrics: figures by name, those of the task first.
        intervals: of some of them, by resampling the examples; empty where that was not wanted.
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
        values = {
            "num_examples": self.num_examples,
            "num_errors": self.num_errors,
            "metrics": self.metrics,
            "intervals": {n: dataclasses.asdict(i) for n, i in self.intervals.items()},
            "macro": self.classes.macro(),
            "weighted": self.classes.weighted(),
            "classes": self.classes.to_json(class_names),
            "confusions": [
                {"label": class_names[i], "prediction": class_names[j], "count": count}
                for i, j, count in most_confused(self.confusion)
            ],
            "reliability": self.before.to_json(),
        }
        if self.scaled is None:
            return {**values, "no_temperature": self.no_temperature}
        values["temperature"] = {
            "value": self.scaled.temperature,
            "fitted_on": self.scaled.how,
            "reliability": self.scaled.after.to_json(),
        }
        return values


def evaluate_classifier(
    logits: Logits,
    labels: Labels,
    *,
    means: Mapping[str, float],
    held_out: HeldOut,
    num_resamples: int,
) -> ClassifierEvaluation:
    """Scores finite logits; `means` are the task's metrics, which are shown first.

    The temperature is fitted on what is held out. Without resamples there are no intervals.
    """
    num_classes, predictions = logits.shape[1], logits.argmax(1)
    log_probs = scores.log_probabilities(logits)
    values = {
        "log_loss": scores.log_losses(log_probs, labels),
        "brier": scores.brier_scores(log_probs, labels),
    }
    confusion = scores.confusion_matrix(labels, predictions, num_classes)
    classes = scores.class_scores(confusion)
    before = calibration.reliability(log_probs, labels)
    metrics = {**means, "accuracy": float(np.mean(predictions == labels))}
    if num_classes > TOP:
        values[f"top{TOP}"] = scores.among_top(logits, labels, TOP).astype(np.float64)
        metrics[f"top{TOP}"] = float(values[f"top{TOP}"].mean())
    metrics["macro_f1"] = classes.macro()["f1"]
    metrics |= {name: float(values[name].mean()) for name in ("log_loss", "brier")}
    metrics["ece"] = before.error
    scaled, no_temperature = None, ""
    try:
        temperature, how, log_probs = _scale(logits, labels, held_out)
        scaled = TemperatureScaling(temperature, how, calibration.reliability(log_probs, labels))
        metrics["ece_scaled"] = scaled.after.error
        metrics["log_loss_scaled"] = float(scores.log_losses(log_probs, labels).mean())
    except NoTemperatureError as error:
        no_temperature = str(error)
    intervals = {}
    if num_resamples:
        intervals = scores.bootstrap(
            labels, predictions, values, num_classes, num_resamples=num_resamples
        )
    return ClassifierEvaluation(
        len(labels), metrics, intervals, classes, confusion, before, scaled, no_temperature
    )


def _scale(
    logits: Logits, labels: Labels, held_out: HeldOut
) -> tuple[float, Literal["validation", "cross-fitted"], scores.LogProbabilities]:
    """The temperature, what it was fitted on, and log-probabilities that are scaled by it."""
    if held_out is None or (held_out == "same" and len(labels) < 2):
        raise NoTemperatureError("there are no validation examples to fit it on")
    if held_out == "same":
        temperature = calibration.fit_temperature(logits, labels)
        return temperature, "cross-fitted", calibration.cross_fitted(logits, labels)
    temperature = calibration.fit_temperature(*held_out)
    return temperature, "validation", scores.log_probabilities(logits / temperature)


def pool(evaluations: list[ClassifierEvaluation]) -> ClassifierEvaluation:
    """All networks' predictions as if one had made them, for tables and figures of several.

    Its metrics and intervals are empty: those of several runs are `scores.over_runs`.
    """
    confusion = np.sum([evaluation.confusion for evaluation in evaluations], axis=0)
    reasons = [e.no_temperature for e in evaluations if e.no_temperature]
    scalings = [evaluation.scaled for evaluation in evaluations if evaluation.scaled is not None]
    scaled = None
    if len(scalings) == len(evaluations):
        scaled = TemperatureScaling(
            float(np.mean([scaling.temperature for scaling in scalings])),
            scalings[0].how,
            functools.reduce(operator.add, [scaling.after for scaling in scalings]),
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
        seconds: that the split took, with what was compiled for it.
        means: the task's metrics.
        evaluation: more of classes or numbers; None of other predictions, and where outputs are not
            finite.
        num_unusable: examples whose outputs are not finite.
    """

    name: str
    workdir: str
    step: int
    num_examples: int
    seconds: float
    means: dict[str, float]
    evaluation: ClassifierEvaluation | NumbersEvaluation | None
    num_unusable: int = 0

    @property
    def metrics(self) -> dict[str, float]:
        """All figures by name, those of the task first."""
        return self.means if self.evaluation is None else self.evaluation.metrics


@dataclasses.dataclass(frozen=True)
class EvaluationResults:
    """The figures of all networks that were evaluated together on one split.

    Attributes:
        data: name of the data set.
        fingerprint: of the data set.
        tta: test-time augmentation, in words.
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
    target: TargetSpec
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
            name: scores.over_runs([network.metrics[name] for network in self.networks])
            for name in self.shared()
        }

    def spread_rows(self) -> list[tuple[str, dict[str, float]]]:
        """The spreads as rows of a table: a label, and the figures by name."""
        columns = {name: spread.figures() for name, spread in self.spreads().items()}
        labels = next(iter(columns.values()), {})
        return [(each, {name: column[each] for name, column in columns.items()}) for each in labels]

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
            "target": dataclasses.asdict(self.target),
            "tta": self.tta,
            "num_resamples": self.num_resamples,
            "networks": [],
        }
        for network in self.networks:
            more = {"num_examples": network.num_examples, "metrics": network.means}
            if isinstance(network.evaluation, ClassifierEvaluation):
                more = network.evaluation.to_json(self.target.class_names)
            elif network.evaluation is not None:
                more = network.evaluation.to_json()
            place = {"workdir": network.workdir, "checkpoint": network.step}
            values["networks"].append({**place, **more})
        if spreads := self.spreads():
            values["over_runs"] = {n: dataclasses.asdict(s) for n, s in spreads.items()}
        if self.no_spread:
            values["no_spread"] = self.no_spread
        if self.ensemble is not None:
            values["ensemble"] = self.ensemble.to_json(self.target.class_names)
            values["ensemble"]["minus_mean_of_networks"] = self.gains()
        return finite_or_none(values)
