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
from cnn_lab.core.errors import ConfigError
from cnn_lab.experiment.restore import checkpoint_steps
from cnn_lab.runs.comparable import Opened, Run, check_alike, check_countable, why_no_spread
from cnn_lab.runs.predictions import Collecting, Seen
from cnn_lab.train.views import check_pixels, make_views
from cnn_lab.workdir.run_dir import count_test_opening


def evaluate_all(
    values: Any, runs: Sequence[Run], checkpoints: Sequence[str]
) -> tuple[Results, list[int]]:
    """Evaluates checkpoints of one run, or one checkpoint of each of several.

    Args:
        values: the command's flags.
        runs: at least one.
        checkpoints: their names, `all` among them.

    Returns:
        The results, and how often each run's test split has been opened by now (empty for others).

    Raises:
        ConfigError: networks that cannot be compared or averaged.
    """
    views = tuple(make_views(values.tta, values.tta_pixels))
    if values.split == "test":
        check_countable(runs)
    collecting = Collecting(values.split, values.batch_size, views, _say)
    try:
        if len(runs) > 1:
            chosen = [(run.name, run.workdir, checkpoints[0]) for run in runs]
            no_spread = why_no_spread(runs)
        else:
            (run,) = runs
            steps = _steps(collecting, run.workdir, checkpoints)
            if values.ensemble and len(steps) < 2:
                raise ConfigError(
                    f"--ensemble needs at least two networks; --checkpoint={values.checkpoint} of "
                    f"{run.workdir} is step {steps[0]} alone."
                )
            several = len(steps) > 1
            chosen = [(f"checkpoint {s}" if several else run.name, run.workdir, s) for s in steps]
            no_spread = "they are checkpoints of one training" if several else ""
        _check_before_looking(collecting, values, chosen)
        return _evaluate(collecting, values, chosen, no_spread, are_runs=len(runs) > 1)
    finally:
        collecting.close()


def _check_before_looking(
    collecting: Collecting, values: Any, chosen: list[tuple[str, Path, str]]
) -> None:
    """Opens every network once, so that no mistake is told after the test split was opened."""
    first: Opened | None = None
    for _, workdir, which in chosen:
        trained, dataset = collecting.open(workdir, which)
        for flag, given in (("--ensemble", values.ensemble), ("--tta", values.tta != "none")):
            if given and not collecting.is_classifier(trained):
                raise ConfigError(f"{flag} is for classification; {workdir} is none: leave it out.")
        if "shifts" in values.tta:
            check_pixels(values.tta_pixels, trained.network.input_shape)
        opened = Opened(
            workdir,
            trained.network.class_names,
            dataset.info.name,
            dataset.info.fingerprint,
            trained.config.task.name,
            collecting.examples(trained, dataset),
        )
        first = first or opened
        check_alike(first, opened, averaged=values.ensemble)


def _evaluate(
    collecting: Collecting,
    values: Any,
    chosen: list[tuple[str, Path, str]],
    no_spread: str,
    *,
    are_runs: bool,
) -> tuple[Results, list[int]]:
    members, openings = [], []
    shifted = f" by {values.tta_pixels} px" if "shifts" in values.tta else ""
    tta = values.tta + shifted
    ensemble = _Ensemble(values.split) if values.ensemble else None
    first: Seen | None = None
    for number, (name, workdir, which) in enumerate(chosen, 1):
        trained, dataset = collecting.open(workdir, which)
        if len(chosen) > 1:
            which = f"{name}, checkpoint {trained.step}" if are_runs else name
            _say(f"{which} ({number} of {len(chosen)})")
        seen = collecting.look(trained, dataset)
        first = first or dataclasses.replace(seen, outputs=None, held_out=None)
        member = _member(values, name, workdir, seen)
        members.append(member)
        if values.split == "test" and are_runs:
            openings.append(count_test_opening(workdir, _noted([member], tta)))
        if ensemble is not None:
            ensemble.add(workdir, seen)
    assert first is not None
    if values.split == "test" and not are_runs:
        openings.append(count_test_opening(chosen[0][1], _noted(members, tta)))
    results = Results(
        split=values.split,
        data=first.dataset.info.name,
        fingerprint=first.dataset.info.fingerprint,
        class_names=first.class_names,
        tta=tta,
        num_resamples=values.bootstrap,
        members=tuple(members),
        are_runs=are_runs,
        no_spread=no_spread,
        ensemble=ensemble.evaluate(values.bootstrap) if ensemble is not None else None,
    )
    return results, openings


def _member(values: Any, name: str, workdir: Path, seen: Seen) -> Member:
    """Scores what one checkpoint gave."""
    means, outputs, found = seen.means, seen.outputs, None
    if outputs is not None and values.tta != "none":
        # The loss of averaged probabilities need not be the task's; `log_loss` says what it is.
        means = {name: value for name, value in means.items() if name != "loss"}
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
        self._first: Seen | None = None
        self._share_held_out = True

    def add(self, workdir: Path, seen: Seen) -> None:
        """Adds a classifier; refuses one that gave no numbers."""
        assert seen.outputs is not None
        if not _finite(seen.outputs.logits):
            raise ConfigError(
                f"The outputs of {workdir} are not finite; leave it out of --ensemble."
            )
        if self._first is None:
            self._first = dataclasses.replace(seen, outputs=None, held_out=None)
            self._labels["outputs"] = seen.outputs.labels
        self._outputs.add(seen.outputs.logits)
        held_out, same = seen.held_out, seen.held_out_examples == self._first.held_out_examples
        self._share_held_out &= held_out is not None and same and _finite(held_out.logits)
        if held_out is not None and self._share_held_out:
            self._held_out.add(held_out.logits)
            self._labels["held_out"] = held_out.labels

    def evaluate(self, num_resamples: int) -> Evaluation:
        """Scores the mean; its temperature wants validation examples that all networks share."""
        held_out: Any = "same" if self._split == "validation" else None
        if held_out is None and self._share_held_out:
            held_out = (self._held_out.logits(), self._labels["held_out"])
        found = evaluate(
            self._outputs.logits(),
            self._labels["outputs"],
            means={},
            held_out=held_out,
            num_resamples=num_resamples,
        )
        if held_out is None:
            why = "there are no validation examples to fit it on that all networks share"
            return dataclasses.replace(found, no_temperature=why)
        return found


def _steps(collecting: Collecting, workdir: Path, checkpoints: Sequence[str]) -> list[str]:
    """The checkpoints of a run by their steps, each once; a single name stays as it is."""
    if checkpoints[0] == "all":
        return [str(step) for step in checkpoint_steps(workdir)]
    if len(checkpoints) == 1:
        return list(checkpoints)
    found = [collecting.open(workdir, which)[0].step for which in checkpoints]
    return [str(step) for step in dict.fromkeys(found)]


def _noted(members: list[Member], tta: str) -> dict[str, Any]:
    """What the run's record keeps of an opening; of several checkpoints each one's figures."""
    if len(members) == 1:
        return {"step": members[0].step, "tta": tta, **members[0].means}
    noted = {f"{n} at {m.step}": v for m in members for n, v in m.means.items()}
    return {"step": ", ".join(str(member.step) for member in members), "tta": tta, **noted}


def _finite(logits: Logits) -> bool:
    return bool(np.isfinite(logits).all())


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
