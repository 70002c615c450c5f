"""Evaluates every run and checkpoint that a command line means, one after the other."""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cnn_lab.analysis.evaluation import Evaluation, evaluate
from cnn_lab.analysis.results import Member, Results
from cnn_lab.analysis.scores import Logits, MeanProbabilities
from cnn_lab.cli.collecting import Collecting, Seen
from cnn_lab.cli.members import short_names
from cnn_lab.config import NO_DATA
from cnn_lab.core.errors import ConfigError
from cnn_lab.train.checkpoint_reader import CheckpointReader
from cnn_lab.train.views import make_views
from cnn_lab.train.workdir import CHECKPOINTS, count_test_opening, missing_checkpoints, read_config

FEW = 3  # class names in a message


def evaluate_all(
    values: Any, workdirs: Sequence[Path], checkpoints: Sequence[str]
) -> tuple[Results, list[int]]:
    """Evaluates checkpoints of one run, or one checkpoint of each of several.

    Args:
        values: the command's flags.
        workdirs: of the runs.
        checkpoints: their names, `all` among them.

    Returns:
        The results, and how often each run's test split has been opened by now (empty for others).

    Raises:
        ConfigError: networks that cannot be compared or averaged.
    """
    views = tuple(make_views(values.tta, values.tta_pixels))
    for workdir in workdirs:
        _require_data(workdir)
    collecting = Collecting(values.split, values.batch_size, views, _say)
    try:
        are_runs = len(workdirs) > 1
        if are_runs:
            names = short_names(list(workdirs))
            chosen = [(n, w, checkpoints[0]) for n, w in zip(names, workdirs, strict=True)]
        else:
            steps = _steps(collecting, workdirs[0], checkpoints)
            if values.ensemble and len(steps) < 2:
                raise ConfigError(
                    f"--ensemble needs at least two networks; --checkpoint={values.checkpoint} of "
                    f"{workdirs[0]} is step {steps[0]} alone."
                )
            several = len(steps) > 1
            chosen = [
                (f"checkpoint {s}" if several else str(workdirs[0]), workdirs[0], s) for s in steps
            ]
        return _evaluate(collecting, values, chosen, are_runs=are_runs)
    finally:
        collecting.close()


def _evaluate(
    collecting: Collecting, values: Any, chosen: list[tuple[str, Path, str]], *, are_runs: bool
) -> tuple[Results, list[int]]:
    members, openings = [], []
    ensemble = _Ensemble(values.split) if values.ensemble else None
    first: Seen | None = None
    for number, (name, workdir, which) in enumerate(chosen, 1):
        trained, dataset = collecting.open(workdir, which)
        if len(chosen) > 1:
            which = f"{name}, checkpoint {trained.step}" if are_runs else name
            _say(f"{which} ({number} of {len(chosen)})")
        if first is not None:
            _check_alike(chosen[0][1], first, workdir, trained.network.class_names, dataset.info)
        seen = collecting.look(trained, dataset)
        first = first or dataclasses.replace(seen, outputs=None, held_out=None)
        member = _member(values, name, workdir, seen)
        members.append(member)
        if values.split == "test" and are_runs:
            openings.append(count_test_opening(workdir, {"step": seen.step, **member.means}))
        if ensemble is not None:
            ensemble.add(workdir, seen)
    assert first is not None
    if values.split == "test" and not are_runs:
        openings.append(count_test_opening(chosen[0][1], _noted(members)))
    shifted = f" by {values.tta_pixels} px" if "shifts" in values.tta else ""
    results = Results(
        split=values.split,
        data=first.dataset.info.name,
        fingerprint=first.dataset.info.fingerprint,
        class_names=first.class_names,
        tta=values.tta + shifted,
        num_resamples=values.bootstrap,
        members=tuple(members),
        are_runs=are_runs,
        ensemble=ensemble.evaluate(values.bootstrap) if ensemble is not None else None,
    )
    return results, openings


def _member(values: Any, name: str, workdir: Path, seen: Seen) -> Member:
    """Scores what one checkpoint gave."""
    means, outputs, found = seen.means, seen.outputs, None
    if outputs is not None and values.tta != "none":
        # The loss of averaged probabilities need not be the task's; `log_loss` says what it is.
        means = {name: value for name, value in means.items() if name != "loss"}
    if outputs is None and values.tta != "none":
        raise ConfigError(f"--tta is for classification; {workdir} is none: leave it out.")
    if outputs is not None and _finite(outputs.logits):
        held_out: Any = "same" if values.split == "validation" else None
        if seen.held_out is not None and _finite(seen.held_out.logits):
            held_out = (seen.held_out.logits, seen.held_out.labels)
        found = evaluate(
            outputs.logits,
            outputs.labels,
            means=means,
            held_out=held_out,
            num_resamples=values.bootstrap,
        )
    return Member(
        name=name,
        workdir=str(workdir),
        step=seen.step,
        num_examples=seen.num_examples,
        seconds=seen.seconds,
        means=means,
        evaluation=found,
        num_unusable=0 if outputs is None else int((~np.isfinite(outputs.logits)).any(1).sum()),
    )


class _Ensemble:
    """Adds up the probabilities of networks that looked at the same examples."""

    def __init__(self, split: str):
        self._split = split
        self._outputs, self._held_out = MeanProbabilities(), MeanProbabilities()
        self._labels: dict[str, Any] = {}
        self._first: tuple[Path, Seen] | None = None
        self._share_held_out = True

    def add(self, workdir: Path, seen: Seen) -> None:
        """Adds a network; refuses one that looked at others."""
        if seen.outputs is None:
            raise ConfigError(f"--ensemble is for classification; {workdir} is none: leave it out.")
        if not _finite(seen.outputs.logits):
            raise ConfigError(
                f"The outputs of {workdir} are not finite; leave it out of --ensemble."
            )
        if self._first is None:
            self._first = workdir, dataclasses.replace(seen, outputs=None, held_out=None)
            self._labels["outputs"] = seen.outputs.labels
        first_workdir, first = self._first
        if seen.examples != first.examples:
            raise ConfigError(
                f"{workdir} and {first_workdir} hold out other {self._split} examples "
                "(config.data.split_seed, num_validation, validation_fraction), so their "
                "probabilities cannot be averaged; leave one out, or give --split=test."
            )
        self._outputs.add(seen.outputs.logits)
        held_out, same = seen.held_out, seen.held_out_examples == first.held_out_examples
        self._share_held_out &= held_out is not None and same and _finite(held_out.logits)
        if held_out is not None and self._share_held_out:
            self._held_out.add(held_out.logits)
            self._labels["held_out"] = held_out.labels

    def evaluate(self, num_resamples: int) -> Evaluation:
        """Scores the mean; its temperature wants validation examples that all networks share."""
        held_out: Any = "same" if self._split == "validation" else None
        if held_out is None and self._share_held_out:
            held_out = (self._held_out.logits(), self._labels["held_out"])
        return evaluate(
            self._outputs.logits(),
            self._labels["outputs"],
            means={},
            held_out=held_out,
            num_resamples=num_resamples,
        )


def _steps(collecting: Collecting, workdir: Path, checkpoints: Sequence[str]) -> list[str]:
    """The checkpoints of a run by their steps, each once; a single name stays as it is."""
    if checkpoints[0] == "all":
        with CheckpointReader(workdir / CHECKPOINTS) as reader:
            steps = [str(step) for step in reader.steps()]
        if not steps:
            raise missing_checkpoints(workdir)
        return steps
    if len(checkpoints) == 1:
        return list(checkpoints)
    found = [collecting.open(workdir, which)[0].step for which in checkpoints]
    return [str(step) for step in dict.fromkeys(found)]


def _require_data(workdir: Path) -> None:
    if read_config(workdir).data.name == NO_DATA:
        raise ConfigError(
            f"The weights in {workdir} were imported, and no data set belongs to them; classify "
            f"images by cnn-lab predict --workdir={workdir} IMAGE..."
        )


def _check_alike(
    first_workdir: Path, first: Seen, workdir: Path, class_names: tuple[str, ...], info: Any
) -> None:
    if class_names != first.class_names:
        raise ConfigError(
            f"{workdir} knows the classes {_few(class_names)}, {first_workdir} the classes "
            f"{_few(first.class_names)}; runs of one evaluation must know the same: leave one out."
        )
    if info.fingerprint != first.dataset.info.fingerprint:
        raise ConfigError(
            f"{workdir} was trained on {info.name}, {first_workdir} on other data "
            f"({first.dataset.info.name}); runs of one evaluation must share them: leave one out."
        )


def _few(names: tuple[str, ...]) -> str:
    shown = ", ".join(names[:FEW])
    return f"{shown}, ... ({len(names)} in all)" if len(names) > FEW else shown


def _noted(members: list[Member]) -> dict[str, Any]:
    """What the run's record keeps of an opening; of several checkpoints each one's figures."""
    if len(members) == 1:
        return {"step": members[0].step, **members[0].means}
    noted = {f"{n} at {m.step}": v for m in members for n, v in m.means.items()}
    return {"step": ", ".join(str(member.step) for member in members), **noted}


def _finite(logits: Logits) -> bool:
    return bool(np.isfinite(logits).all())


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
