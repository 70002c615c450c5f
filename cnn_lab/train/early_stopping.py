"""Selection of the best weights by a validation metric, and early stopping."""

import dataclasses
import math
from typing import Literal


@dataclasses.dataclass(frozen=True)
class Selection:
    """The rule: which metric decides, in which direction, and how patiently.

    Attributes:
        metric: name of a validation metric.
        mode: `max` or `min`.
        check_every_epochs: epochs between checks; None never stops early.
        patience: checks in a row without improvement after which training stops, at least 1.
        min_delta: smallest change that counts as an improvement for stopping.
    """

    metric: str
    mode: Literal["max", "min"]
    check_every_epochs: int | None = None
    patience: int = 1
    min_delta: float = 0.0


@dataclasses.dataclass(frozen=True)
class SelectionRecord:
    """The rule's memory; saved in every checkpoint.

    Attributes:
        best_value: best value of the metric, None before the first evaluation.
        best_step: step of that evaluation.
        reference: value that the next check must improve on by `min_delta`.
        stale_checks: checks in a row without improvement.
        stopped: the rule has said stop.
    """

    best_value: float | None = None
    best_step: int | None = None
    reference: float | None = None
    stale_checks: int = 0
    stopped: bool = False


def update(
    record: SelectionRecord, rule: Selection, value: float, *, step: int, epoch: int
) -> SelectionRecord:
    """Returns the record after an evaluation.

    Args:
        record: as it was.
        rule: how to judge.
        value: the metric's value; NaN and infinities never improve anything.
        step: updates made so far.
        epoch: epochs completed so far.
    """

    def better(new: float, old: float | None, by: float) -> bool:
        if not math.isfinite(new):
            return False
        return old is None or (new > old + by if rule.mode == "max" else new < old - by)

    best = (record.best_value, record.best_step)
    if better(value, record.best_value, 0.0):
        best = (value, step)
    reference, stale = record.reference, record.stale_checks
    if rule.check_every_epochs is not None and epoch % rule.check_every_epochs == 0:
        improved = better(value, reference, rule.min_delta)
        reference = value if improved else reference
        stale = 0 if improved else stale + 1
    stopped = rule.check_every_epochs is not None and stale >= rule.patience
    return SelectionRecord(*best, reference, stale, stopped)
