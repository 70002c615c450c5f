"""A trial: one training of a study, a variant from one seed, and the place of its numbers."""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cnn_lab.analysis.verdict import Record
from cnn_lab.config import ExperimentConfig, Variant
from cnn_lab.experiment.restore import RestoredRun, restore_run
from cnn_lab.runs.diverging import has_diverged
from cnn_lab.workdir.metric_writers import METRICS_FILE, read_rows

Values = Mapping[float | None, float]  # by a level of the measure's own, None where it has none


@dataclasses.dataclass(frozen=True)
class Trial:
    """One training of a study; whatever asks for its results needs it to have ended.

    Attributes:
        variant: of the study.
        seed: of the training.
        config: of the training.
        workdir: of the training; variants whose configs are equal share it.
        source: the trial whose weights it begins with, None for its own.
    """

    variant: Variant
    seed: int
    config: ExperimentConfig
    workdir: Path
    source: "Trial | None" = None

    @property
    def has_diverged(self) -> bool:
        """Whether it has, or could not begin, since its source has."""
        lost = self.source is not None and self.source.has_diverged
        return lost or has_diverged(self.workdir)

    def metrics(self, split: str) -> list[dict[str, Any]]:
        """Metric rows of one split."""
        return [r for r in read_rows(self.workdir / METRICS_FILE) if r["split"] == split]

    @functools.cached_property
    def restored(self) -> RestoredRun:
        """The weights to measure: the best where a rule chose them, else the last."""
        transfer = self.config.transfer
        fitted = transfer is not None and transfer.strategy == "logistic"
        chosen = fitted or self.config.early_stopping is not None
        return restore_run(self.workdir, "best" if chosen else "latest")


def place_of(variant: Variant, level: float | None) -> tuple[str, float | str | None]:
    """The place of a value: a level of the measure's own makes the variant the series."""
    return (variant.series, variant.x) if level is None else (variant.name, level)


def records_of(trial: Trial, measure: str, values: Values) -> list[Record]:
    """The values of a trial as records."""
    return [
        Record(*place_of(trial.variant, level), trial.seed, measure, float(value))
        for level, value in values.items()
    ]
