"""A training of a study, and where its numbers belong."""

import dataclasses
import functools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cnn_lab.analysis.records import Row
from cnn_lab.config import ExperimentConfig, Variant
from cnn_lab.experiment.restore import RestoredRun, restore_run
from cnn_lab.runs.diverging import has_diverged
from cnn_lab.workdir.metric_writers import METRICS_FILE, read_rows

Values = Mapping[float | None, float]  # by a level of the measure's own, None where it has none


@dataclasses.dataclass(frozen=True)
class Finished:
    """A training that has ended.

    Attributes:
        variant: what it is of.
        seed: its.
        config: its.
        workdir: its; variants whose configs are equal share it.
        source: whose weights it begins with, None for its own.
    """

    variant: Variant
    seed: int
    config: ExperimentConfig
    workdir: Path
    source: "Finished | None" = None

    @property
    def has_diverged(self) -> bool:
        """Whether it has, or could not begin, since its source has."""
        lost = self.source is not None and self.source.has_diverged
        return lost or has_diverged(self.workdir)

    def rows(self, split: str) -> list[dict[str, Any]]:
        """Metric rows of one split."""
        return [r for r in read_rows(self.workdir / METRICS_FILE) if r["split"] == split]

    @functools.cached_property
    def trained(self) -> RestoredRun:
        """The weights to judge: the best where a rule chose them, else the last."""
        transfer = self.config.transfer
        fitted = transfer is not None and transfer.strategy == "logistic"
        chosen = fitted or self.config.early_stopping is not None
        return restore_run(self.workdir, "best" if chosen else "latest")


def place_of(variant: Variant, level: float | None) -> tuple[str, float | str | None]:
    """Where a value belongs: a level of the measure's own makes the variant the series."""
    return (variant.series, variant.x) if level is None else (variant.name, level)


def rows_of(run: Finished, measure: str, values: Values) -> list[Row]:
    """The values of a training as rows."""
    return [
        Row(*place_of(run.variant, level), run.seed, measure, float(value))
        for level, value in values.items()
    ]


def to_pairs(values: Values) -> list[list[float | None]]:
    """Values as JSON has them; those that are not finite become null."""
    return [[level, v if math.isfinite(v) else None] for level, v in values.items()]


def from_pairs(pairs: list[list[float | None]]) -> Values:
    """Reads back `to_pairs`."""
    return {level: math.nan if value is None else value for level, value in pairs}
