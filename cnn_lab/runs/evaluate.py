"""Evaluation of one or several runs on one split.

The path: `select.py` finds the runs, `comparable.py` checks whether they can be compared,
`split_runner.py` runs each of them over the split; their outputs are scored here, and
`report/evaluation.py` writes the results.
"""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cnn_lab.analysis.evaluation import (
    ClassifierEvaluation,
    EvaluationResults,
    HeldOut,
    NetworkResult,
    evaluate_classifier,
)
from cnn_lab.analysis.regression import NumbersEvaluation, evaluate_numbers
from cnn_lab.analysis.scores import MeanProbabilities
from cnn_lab.core.errors import ConfigError
from cnn_lab.data.datasets.catalog import Dataset
from cnn_lab.data.subsets import Subset, choose_examples
from cnn_lab.experiment.restore import RestoredRun, checkpoint_steps
from cnn_lab.runs import comparable
from cnn_lab.runs.comparable import Comparable, EvaluationOptions, SelectedRun
from cnn_lab.runs.split_runner import SplitRunner, examples_of
from cnn_lab.tasks.regression import NumberPredictions
from cnn_lab.tasks.task import Task
from cnn_lab.training.evaluate import SplitPredictions
from cnn_lab.training.views import check_pixels, make_views
from cnn_lab.workdir.run_dir import count_test_opening


class Checkpoint(NamedTuple):
    """A network to be evaluated: its short name, the folder of its run, and which checkpoint."""

    name: str
    workdir: Path
    which: str


def evaluate_runs(
    runs: Sequence[SelectedRun],
    checkpoints: Sequence[str] = ("best",),
    options: EvaluationOptions | None = None,
    log: Callable[[str], None] = lambda line: None,  # noqa: ARG005
    open_data: Callable[..., Dataset] | None = None,
) -> EvaluationResults:
    """Evaluates checkpoints of one run, or one checkpoint of each of several.

    Runs are those of `read_runs`, checkpoints `best`, `latest`, steps, or `all` alone; data are
    opened by `open_data`, (name, data_dir) -> data set, by default `open_dataset`.

    Raises:
        CnnLabError: networks that cannot be compared or averaged, a checkpoint that is not there,
            data that changed.
    """
    options = options or EvaluationOptions()
    comparable.check_number(len(runs), checkpoints, options)
    views = make_views(options.tta, options.tta_pixels)
    if options.split == "test":
        comparable.check_countable(runs)
    are_runs = len(runs) > 1
    with contextlib.closing(SplitRunner(options.batch_size, views, log, open_data)) as runner:
        if are_runs:
            chosen = [Checkpoint(run.name, run.workdir, checkpoints[0]) for run in runs]
            no_spread = comparable.why_no_spread(runs)
        else:
            chosen = _checkpoints_of(runner, runs[0], checkpoints, ensemble=options.ensemble)
            no_spread = "they are checkpoints of one training" if len(chosen) > 1 else ""
        shared = _check_before_running(runner, options, chosen)
        tta = options.tta + (f" by {options.tta_pixels} px" if "shifts" in options.tta else "")
        ensemble = _Ensemble(options) if options.ensemble else None
        networks: list[NetworkResult] = []
        openings: list[int] = []
        for number, checkpoint in enumerate(chosen, 1):
            restored, dataset = runner.restore(checkpoint.workdir, checkpoint.which)
            if len(chosen) > 1:
                step = f", checkpoint {restored.step}" if are_runs else ""
                log(f"{checkpoint.name}{step} ({number} of {len(chosen)})")
            outcome = _run(runner, restored, dataset, options.split)
            networks.append(_score(options, checkpoint, restored, outcome))
            # At once, so that an opening is counted even if a later network fails.
            if options.split == "test" and are_runs:
                opening = _test_opening(networks[-1:], tta)
                openings.append(count_test_opening(checkpoint.workdir, opening))
            if ensemble is not None:
                ensemble.add(checkpoint.workdir, outcome)
    if options.split == "test" and not are_runs:
        openings.append(count_test_opening(runs[0].workdir, _test_opening(networks, tta)))
    return EvaluationResults(
        split=options.split,
        data=shared.data,
        fingerprint=shared.fingerprint,
        target=shared.target,
        tta=tta,
        num_resamples=options.num_resamples,
        networks=tuple(networks),
        are_runs=are_runs,
        no_spread=no_spread,
        ensemble=None if ensemble is None else ensemble.evaluate(),
        num_test_openings=tuple(openings),
    )


def evaluate_on(
    runner: SplitRunner, restored: RestoredRun, workdir: Path, subset: Subset
) -> NetworkResult:
    """Evaluates a network on examples of other data, of the same targets."""
    start, name = time.perf_counter(), subset.source.split
    found = runner.run(restored, subset, name)
    seconds = time.perf_counter() - start
    metrics = found.metrics if isinstance(found, SplitPredictions) else found
    predictions = found if isinstance(found, SplitPredictions) else None
    outcome = _Outcome(len(subset), seconds, metrics, predictions)
    options = EvaluationOptions(split="train", num_resamples=0)
    return _score(options, Checkpoint(workdir.name, workdir, str(restored.step)), restored, outcome)


def _checkpoints_of(
    runner: SplitRunner, run: SelectedRun, names: Sequence[str], *, ensemble: bool
) -> list[Checkpoint]:
    """The checkpoints of a run, each once, by their steps where they are several."""
    if names[0] == "all":
        steps = [str(step) for step in checkpoint_steps(run.workdir)]
    elif len(names) == 1:
        steps = list(names)
    else:
        found = [runner.restore(run.workdir, name)[0].step for name in names]
        steps = [str(step) for step in dict.fromkeys(found)]
    if ensemble and len(steps) < 2:
        raise ConfigError(
            f"--ensemble needs at least two networks; --checkpoint={','.join(names)} of "
            f"{run.workdir} is step {steps[0]} alone.",
            where="--ensemble",
        )
    if len(steps) == 1:
        return [Checkpoint(run.name, run.workdir, steps[0])]
    return [Checkpoint(f"checkpoint {step}", run.workdir, step) for step in steps]


def _check_before_running(
    runner: SplitRunner, options: EvaluationOptions, checkpoints: Sequence[Checkpoint]
) -> Comparable:
    """Restores every network once, so that mistakes are found while the test split is closed.

    Returns the properties of the first network, which the others share.
    """
    first: Comparable | None = None
    for _, workdir, which in checkpoints:
        restored, dataset = runner.restore(workdir, which)
        config, network = restored.config, restored.network
        target = network.target
        for flag, given in (("--ensemble", options.ensemble), ("--tta", options.tta != "none")):
            if given and not network.task.has_classes:
                problem = f"{flag} is for classification; {workdir} is none: leave it out."
                raise ConfigError(problem, where=flag)
        if "shifts" in options.tta:
            check_pixels(options.tta_pixels, network.input_shape)
        examples = "test", repr(config.data.classes).encode()  # the whole split
        if options.split != "test":
            examples = _identity(examples_of(options.split, dataset, config))
        info, task = dataset.info, config.task.name
        found = Comparable(workdir, target, info.name, info.fingerprint, task, examples)
        first = first or found
        comparable.check_alike(first, found, averaged=options.ensemble)
    assert first is not None
    return first


@dataclasses.dataclass(frozen=True)
class _Outcome:
    """One network run over a split, and over the validation examples if these are others.

    Attributes:
        predictions: None for tasks whose outputs are not one vector an image.
        held_out: of a classifier, for its temperature; None where there are no validation
            examples, or their outputs are not finite.
        held_out_examples: which ones these are.
    """

    num_examples: int
    seconds: float
    metrics: dict[str, float]
    predictions: SplitPredictions | None = None
    held_out: HeldOut = None
    held_out_examples: tuple[str, bytes] | None = None


def _run(runner: SplitRunner, restored: RestoredRun, dataset: Dataset, split: str) -> _Outcome:
    subset = examples_of(split, dataset, restored.config)
    start = time.perf_counter()
    found = runner.run(restored, subset, split)
    seconds = time.perf_counter() - start
    if not isinstance(found, SplitPredictions):
        return _Outcome(len(subset), seconds, found)
    if not restored.network.task.has_classes:
        return _Outcome(len(subset), seconds, found.metrics, found)
    held_out: HeldOut = "same" if split == "validation" else None
    examples = None
    validation = choose_examples(dataset, restored.config.data)[1]
    if held_out is None and len(validation):
        predicted: Any = runner.run(restored, validation, "validation")
        if np.isfinite(predicted.outputs).all():
            held_out, examples = (predicted.outputs, predicted.labels), _identity(validation)
    return _Outcome(len(subset), seconds, found.metrics, found, held_out, examples)


def _score(
    options: EvaluationOptions, checkpoint: Checkpoint, restored: RestoredRun, outcome: _Outcome
) -> NetworkResult:
    means, predictions = outcome.metrics, outcome.predictions
    evaluation, num_unusable = None, 0
    if predictions is not None:
        if options.tta != "none":
            # The loss of averaged probabilities need not be the task's; see `log_loss`.
            means = {name: value for name, value in means.items() if name != "loss"}
        num_unusable = int((~np.isfinite(predictions.outputs)).any(1).sum())
        if not num_unusable:
            evaluation = _evaluation(options, restored.network.task, outcome, predictions, means)
    return NetworkResult(
        name=checkpoint.name,
        workdir=str(checkpoint.workdir),
        step=restored.step,
        num_examples=outcome.num_examples,
        seconds=outcome.seconds,
        means=means,
        evaluation=evaluation,
        num_unusable=num_unusable,
    )


def _evaluation(
    options: EvaluationOptions,
    task: Task,
    outcome: _Outcome,
    found: SplitPredictions,
    means: dict[str, float],
) -> ClassifierEvaluation | NumbersEvaluation | None:
    """All figures of classes or of numbers; None of other predictions."""
    num_resamples = options.num_resamples
    if task.has_classes:
        return evaluate_classifier(
            found.outputs,
            found.labels,
            means=means,
            held_out=outcome.held_out,
            num_resamples=num_resamples,
        )
    predictions = task.predictions(found.outputs)
    if not isinstance(predictions, NumberPredictions):
        return None
    return evaluate_numbers(
        predictions.values,
        found.labels,
        predictions.names,
        means=means,
        num_resamples=num_resamples,
    )


class _Ensemble:
    """Sums of the probabilities of networks over the same examples."""

    def __init__(self, options: EvaluationOptions):
        self._options = options
        self._probabilities, self._held_out = MeanProbabilities(), MeanProbabilities()
        self._labels: Any = None
        self._held_out_labels: Any = None
        self._held_out_examples: tuple[str, bytes] | None = None

    def add(self, workdir: Path, outcome: _Outcome) -> None:
        """Adds a classifier; refuses one whose outputs are not finite."""
        assert outcome.predictions is not None
        if not np.isfinite(outcome.predictions.outputs).all():
            problem = f"The outputs of {workdir} are not finite; leave it out of --ensemble."
            raise ConfigError(problem, where="--ensemble")
        if self._labels is None:
            self._labels = outcome.predictions.labels
            self._held_out_examples = outcome.held_out_examples
        self._probabilities.add(outcome.predictions.outputs)
        is_same = outcome.held_out_examples == self._held_out_examples
        if isinstance(outcome.held_out, tuple) and is_same:
            logits, self._held_out_labels = outcome.held_out
            self._held_out.add(logits)

    def evaluate(self) -> ClassifierEvaluation:
        """Scores the mean; its temperature needs validation examples that all networks share."""
        held_out: HeldOut = "same" if self._options.split == "validation" else None
        if self._held_out.num_networks == self._probabilities.num_networks:
            held_out = (self._held_out.logits(), self._held_out_labels)
        evaluation = evaluate_classifier(
            self._probabilities.logits(),
            self._labels,
            means={},
            held_out=held_out,
            num_resamples=self._options.num_resamples,
        )
        if held_out is None:
            why = "there are no validation examples to fit it on that all networks share"
            return dataclasses.replace(evaluation, no_temperature=why)
        return evaluation


def _test_opening(networks: Sequence[NetworkResult], tta: str) -> dict[str, Any]:
    """The entry of a run's record for one opening; of several checkpoints each one's figures."""
    if len(networks) == 1:
        return {"step": networks[0].step, "tta": tta, **networks[0].means}
    means = {f"{key} at {n.step}": value for n in networks for key, value in n.means.items()}
    return {"step": ", ".join(str(network.step) for network in networks), "tta": tta, **means}


def _identity(subset: Subset) -> tuple[str, bytes]:
    """Identity of a choice of examples: a split, and positions in it."""
    return subset.source.split, subset.indices.tobytes()
