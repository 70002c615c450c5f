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
        split: of the data.
        batch_size: images per step; None is each run's own. No figure depends on it.
        ensemble: whether the networks' probabilities are averaged too.
        tta: test-time augmentation, a name in `cnn_lab.train.evaluate.TTA`.
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
            raise ConfigError(f"--split must be train, validation or test; found {self.split!r}.")
        if self.batch_size is not None and self.batch_size < 1:
            raise ConfigError(f"--batch_size must be at least 1; found {self.batch_size}.")
        if self.num_resamples != 0 and self.num_resamples < MIN_RESAMPLES:
            raise ConfigError(
                f"--bootstrap must be 0 or at least {MIN_RESAMPLES}; found {self.num_resamples}."
            )


def check_number(num_runs: int, checkpoints: Sequence[str], options: EvaluationOptions) -> None:
    """Refuses several checkpoints of several runs, and an ensemble of one network.

    Args:
        num_runs: at least 1.
        checkpoints: their names, `all` among them.
        options: of the evaluation.

    Raises:
        ConfigError: one of these.
    """
    several = len(checkpoints) > 1 or checkpoints[0] == "all"
    if several and num_runs > 1:
        raise ConfigError(
            f"--checkpoint={','.join(checkpoints)} names several checkpoints and --workdir "
            f"{num_runs} runs; give several of one of them only."
        )
    if options.ensemble and not several and num_runs == 1:
        raise ConfigError(
            "--ensemble needs at least two networks; found one run and one checkpoint: give a "
            "pattern or a list as --workdir, or --checkpoint=all."
        )


@dataclasses.dataclass(frozen=True)
class SelectedRun:
    """A run to be evaluated.

    Attributes:
        name: short, for messages and tables.
        workdir: its folder.
        config: its config.
        record: the contents of its `run.json`.
    """

    name: str
    workdir: Path
    config: ExperimentConfig
    record: dict[str, Any]


def read_runs(workdirs: Sequence[Path]) -> list[SelectedRun]:
    """Reads the configs and records of runs.

    Raises:
        WorkdirError: a folder without a run.
        ConfigError: a run that no data set belongs to.
    """
    runs = [
        SelectedRun(name, workdir, read_config(workdir), read_record(workdir))
        for name, workdir in zip(short_names(list(workdirs)), workdirs, strict=True)
    ]
    for run in runs:
        if run.config.data.name == NO_DATA:
            raise ConfigError(
                f"The weights in {run.workdir} were imported, and no data set belongs to them; "
                f"classify images by cnn-lab predict --workdir={run.workdir} IMAGE..."
            )
    return runs


def check_countable(runs: Sequence[SelectedRun]) -> None:
    """Refuses runs in whose record an opening of the test split could not be counted.

    Raises:
        WorkdirError: a damaged record, or a folder that cannot be written.
    """
    for run in runs:
        if not run.record and (run.workdir / RECORD_FILE).exists():
            raise WorkdirError(
                f"{run.workdir / RECORD_FILE} is damaged, so the opening of the test split cannot "
                "be counted in it; restore it or train again."
            )
        if not os.access(run.workdir, os.W_OK):
            raise WorkdirError(
                f"{run.workdir} cannot be written, so the opening of the test split cannot be "
                "counted in it; mend its permissions, or evaluate a copy."
            )


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

    Attributes:
        workdir: of the run.
        class_names: label to name.
        data: name of the data set.
        fingerprint: of the data set.
        task: its name.
        examples: that the network is to be evaluated on: a split, and positions in it.
    """

    workdir: Path
    class_names: tuple[str, ...]
    data: str
    fingerprint: str
    task: str
    examples: tuple[str, bytes]


def check_alike(first: Comparable, other: Comparable, *, averaged: bool) -> None:
    """Refuses two networks that cannot be compared, or not be averaged.

    Raises:
        ConfigError: they differ; the text names the difference.
    """
    here, there = other.workdir, first.workdir
    if other.class_names != first.class_names:
        raise ConfigError(
            f"{here} knows the classes {_few(other.class_names)}, {there} the classes "
            f"{_few(first.class_names)}; runs of one evaluation must know the same: leave one out."
        )
    if other.fingerprint != first.fingerprint:
        raise ConfigError(
            f"{here} was trained on {other.data}, {there} on other data ({first.data}); runs of "
            "one evaluation must share them: leave one out."
        )
    if other.task != first.task:
        raise ConfigError(
            f"The task of {here} is {other.task}, that of {there} {first.task}; runs of one "
            "evaluation must share it: leave one out."
        )
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
