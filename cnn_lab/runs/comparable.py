"""Everything that is checked before an evaluation: its options, and whether runs can be compared.

Mistakes are found before any network runs, so that the test split stays closed until then.
"""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from cnn_lab.config import NO_DATA, ExperimentConfig
from cnn_lab.config.node import to_dict
from cnn_lab.config.rules import differences
from cnn_lab.core.errors import ConfigError, WorkdirError
from cnn_lab.runs.select import short_names
from cnn_lab.workdir.run_dir import RECORD_FILE, read_config, read_record

Split = Literal["train", "validation", "test"]
MAX_SHOWN = 3  # class names or fields in a message
MIN_RESAMPLES = 100  # 2.5 % of fewer are no tail


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationOptions:
    """Options of an evaluation, which are refused with a `ConfigError` where they are wrong.

    Attributes:
        batch_size: images per step; None is each run's own. No figure depends on it.
        ensemble: whether the networks' probabilities are averaged too.
        tta: test-time augmentation, a name in `cnn_lab.training.views.TTA`.
        tta_pixels: how far shifts move an image.
        num_resamples: of the images, for intervals; 0 for none.
    """

    split: Split = "validation"
    batch_size: int | None = None
    ensemble: bool = False
    tta: str = "none"
    tta_pixels: int = 1
    num_resamples: int = 2000

    def __post_init__(self):
        if self.split not in get_args(Split):
            allowed = "train, validation or test"
            raise ConfigError(where="--split", found=self.split, allowed=allowed)
        if self.batch_size is not None and self.batch_size < 1:
            raise ConfigError(where="--batch_size", found=self.batch_size, allowed="at least 1")
        if self.num_resamples != 0 and self.num_resamples < MIN_RESAMPLES:
            allowed = f"0 or at least {MIN_RESAMPLES}"
            raise ConfigError(where="--bootstrap", found=self.num_resamples, allowed=allowed)


def check_number(num_runs: int, checkpoints: Sequence[str], options: EvaluationOptions) -> None:
    """Raises a `ConfigError` for several checkpoints of several runs, or an ensemble of one."""
    several = len(checkpoints) > 1 or checkpoints[0] == "all"
    if several and num_runs > 1:
        problem = (
            f"--checkpoint={','.join(checkpoints)} names several checkpoints and --workdir "
            f"{num_runs} runs; give several of one of them only."
        )
        raise ConfigError(problem, where="--checkpoint", found=",".join(checkpoints))
    if options.ensemble and not several and num_runs == 1:
        raise ConfigError(
            "--ensemble needs at least two networks; found one run and one checkpoint: give a "
            "pattern or a list as --workdir, or --checkpoint=all.",
            where="--ensemble",
        )


@dataclasses.dataclass(frozen=True)
class SelectedRun:
    """A run to be evaluated, with the contents of its `run.json` and a short name for tables."""

    name: str
    workdir: Path
    config: ExperimentConfig
    record: dict[str, Any]


def read_runs(workdirs: Sequence[Path]) -> list[SelectedRun]:
    """Reads configs and records; a `CnnLabError` for a folder without a run, or without data."""
    runs = []
    for name, workdir in zip(short_names(workdirs), workdirs, strict=True):
        run = SelectedRun(name, workdir, read_config(workdir), read_record(workdir))
        if run.config.data.name == NO_DATA:
            problem = (
                f"The weights in {workdir} were imported, and no data set belongs to them; "
                f"classify images by cnn-lab predict --workdir={workdir} IMAGE..."
            )
            raise ConfigError(problem, where="--workdir", found=str(workdir))
        runs.append(run)
    return runs


def check_countable(runs: Sequence[SelectedRun]) -> None:
    """Raises a `WorkdirError` where an opening of the test split could not be recorded."""
    for run in runs:
        record = run.workdir / RECORD_FILE
        if not run.record and record.exists():
            problem = (
                f"{record} is damaged, so the opening of the test split cannot be counted in it; "
                "restore it or train again."
            )
            raise WorkdirError(problem, where=str(record))
        if not os.access(run.workdir, os.W_OK):
            problem = (
                f"{run.workdir} cannot be written, so the opening of the test split cannot be "
                "counted in it; mend its permissions, or evaluate a copy."
            )
            raise WorkdirError(problem, where=str(run.workdir))


def why_no_spread(runs: Sequence[SelectedRun]) -> str:
    """The reason why runs are no sample of one experiment's trainings; empty where they are.

    An interval over runs is one over seeds: it needs trainings that differ in nothing else.
    """
    first, seeds = runs[0], {}
    for run in runs:
        others = sorted(differences(to_dict(first.config), to_dict(run.config)).keys() - {"seed"})
        if others:
            return f"{run.name} and {first.name} differ in {_few(others)}, and not in seeds alone"
        if "averaged_from" in run.record:
            return f"{run.name} is a mean of other runs' weights, and no training"
        if run.config.seed in seeds:
            return f"{run.name} and {seeds[run.config.seed]} have the same seed, {run.config.seed}"
        seeds[run.config.seed] = run.name
    return ""


@dataclasses.dataclass(frozen=True)
class Comparable:
    """Properties that networks must share to be compared, known before they run.

    The examples that a network is to be evaluated on are a split, and positions in it.
    """

    workdir: Path
    class_names: tuple[str, ...]
    data: str
    fingerprint: str
    task: str
    examples: tuple[str, bytes]


def check_alike(first: Comparable, other: Comparable, *, averaged: bool) -> None:
    """Raises a `ConfigError` for networks that cannot be compared, or not be averaged."""
    here, there = other.workdir, first.workdir
    shared = {
        "class_names": ("classes", _few(other.class_names), _few(first.class_names)),
        "fingerprint": ("data", other.data, first.data),
        "task": ("task", other.task, first.task),
    }
    for field, (what, found, wanted) in shared.items():
        if getattr(other, field) != getattr(first, field):
            problem = (
                f"The {what} of {here} ({found}) and of {there} ({wanted}) differ; networks that "
                "are compared must share them: leave one out."
            )
            if found == wanted:
                problem = f"The files of {found} have changed between {there} and {here}."
            raise ConfigError(problem, where="--workdir", found=found, allowed=wanted)
    if averaged and other.examples != first.examples:
        raise ConfigError(
            f"{here} and {there} hold out other validation examples (config.data.split_seed, "
            f"num_validation, validation_fraction), so their probabilities for "
            f"{first.examples[0]} examples cannot be averaged; leave one out, or give "
            "--split=test."
        )


def _few(names: Sequence[str]) -> str:
    shown = ", ".join(names[:MAX_SHOWN])
    return f"{shown}, ... ({len(names)} in all)" if len(names) > MAX_SHOWN else shown
