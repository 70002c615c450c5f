"""What several runs must share to be evaluated together, told before any of them is looked at."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cnn_lab.config import NO_DATA, ExperimentConfig
from cnn_lab.config.node import to_dict
from cnn_lab.config.rules import differences
from cnn_lab.core.errors import ConfigError, WorkdirError
from cnn_lab.workdir.run_dir import RECORD_FILE, read_config, read_record

FEW = 3  # class names or fields in a message


@dataclasses.dataclass(frozen=True)
class Run:
    """What a run's folder says of it; `name` is for messages."""

    name: str
    workdir: Path
    config: ExperimentConfig
    record: dict[str, Any]


def read_runs(names: Sequence[str], workdirs: Sequence[Path]) -> list[Run]:
    """Reads configs and records.

    Raises:
        WorkdirError: a folder without a run.
        ConfigError: a run that no data set belongs to.
    """
    found = [
        Run(name, workdir, read_config(workdir), read_record(workdir))
        for name, workdir in zip(names, workdirs, strict=True)
    ]
    for run in found:
        if run.config.data.name == NO_DATA:
            raise ConfigError(
                f"The weights in {run.workdir} were imported, and no data set belongs to them; "
                f"classify images by cnn-lab predict --workdir={run.workdir} IMAGE..."
            )
    return found


@dataclasses.dataclass(frozen=True)
class Opened:
    """What is known of a network, and of the examples it is to be evaluated on, before that."""

    workdir: Path
    class_names: tuple[str, ...]
    data: str
    fingerprint: str
    task: str
    examples: tuple[str, bytes]


def check_alike(first: Opened, other: Opened, *, averaged: bool) -> None:
    """Refuses two networks that cannot be compared, or not be averaged.

    Raises:
        ConfigError: says in what they differ.
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


def check_countable(runs: Sequence[Run]) -> None:
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


def why_no_spread(runs: Sequence[Run]) -> str:
    """Why the runs are no sample of one experiment's trainings, in words; empty where they are.

    An interval over runs is one over seeds: it needs trainings that differ in nothing else.
    """
    first, seeds = runs[0], {}
    for run in runs:
        other = sorted(differences(to_dict(first.config), to_dict(run.config)).keys() - {"seed"})
        if other:
            return f"{run.name} and {first.name} differ in {_few(other)}, and not in seeds alone"
        if "averaged_from" in run.record:
            return f"{run.name} is a mean of other runs' weights, and no training"
        if run.config.seed in seeds:
            return f"{run.name} and {seeds[run.config.seed]} have the same seed, {run.config.seed}"
        seeds[run.config.seed] = run.name
    return ""


def _few(names: Sequence[str]) -> str:
    shown = ", ".join(names[:FEW])
    return f"{shown}, ... ({len(names)} in all)" if len(names) > FEW else shown
