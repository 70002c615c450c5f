"""Trainings that may diverge without ending what they are part of: a study, or a run over seeds."""

from collections.abc import Callable
from pathlib import Path

from cnn_lab.config import ExperimentConfig
from cnn_lab.core.errors import DivergedError
from cnn_lab.core.files import write_text
from cnn_lab.runs.train import Result, run_training
from cnn_lab.workdir.run_dir import read_record

DIVERGED = "diverged.txt"  # of a run


def train_or_note(
    config: ExperimentConfig, workdir: Path, log: Callable[[str], None]
) -> Result | None:
    """As `run_training`; None for a run that diverges, which is noted in its folder for good."""
    if has_diverged(workdir):
        log("It has diverged before.")
        return None
    try:
        return run_training(config, workdir, log)
    except DivergedError as error:
        write_text(workdir / DIVERGED, f"{error}\n")
        log(f"It diverged: {error}")
        return None


def has_diverged(workdir: Path) -> bool:
    """Whether a run has, and was not trained to its end by other means since."""
    failed = read_record(workdir).get("status") == "failed"
    return failed and (workdir / DIVERGED).exists()
