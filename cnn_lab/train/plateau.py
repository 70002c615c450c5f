"""Lowers the learning rate where a validation metric no longer improves.

The rule runs on the host, between two calls of the compiled program; the factor that it arrives at
is part of the optimizer's state (`optim/assemble.py`), and what it has seen is in every checkpoint.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from cnn_lab.train.early_stopping import Selection, SelectionRecord, update


@dataclasses.dataclass(frozen=True)
class Plateau:
    """The rule.

    Attributes:
        watch: metric, direction, patience and smallest improvement.
        factor: of the rate, each time that patience is used up, in (0, 1).
        min_fraction: of the schedule's rate that is always left, in [0, 1].
    """

    watch: Selection
    factor: float
    min_fraction: float


@dataclasses.dataclass(frozen=True)
class PlateauRecord:
    """The rule's memory; saved in every checkpoint.

    Attributes:
        scale: factor of the schedule's rate now.
        watched: best value, and evaluations without improvement since the last reduction.
    """

    scale: float = 1.0
    watched: SelectionRecord = dataclasses.field(default_factory=SelectionRecord)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "PlateauRecord":
        """Reads back `dataclasses.asdict`."""
        return cls(values["scale"], SelectionRecord(**values["watched"]))


def after(
    record: PlateauRecord, rule: Plateau, value: float, *, step: int, epoch: int
) -> PlateauRecord:
    """Returns the record after an evaluation; see `early_stopping.update` for the arguments."""
    watched, scale = update(record.watched, rule.watch, value, step=step, epoch=epoch), record.scale
    if watched.stopped:
        scale = max(scale * rule.factor, rule.min_fraction)
        watched = dataclasses.replace(watched, stale_checks=0, stopped=False)
    return PlateauRecord(scale, watched)
