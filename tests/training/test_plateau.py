"""Reduction of the learning rate on a plateau."""

import dataclasses
import json
import math
from typing import Literal

import pytest

from cnn_lab.training.monitor import Plateau, PlateauState, Selection, update_plateau


def rule(
    mode: Literal["max", "min"] = "min", patience=2, factor=0.5, min_fraction=0.2, min_delta=0.0
):
    watch = Selection("loss", mode, 1, patience, min_delta)
    return Plateau(watch, factor, min_fraction)


def scales(values, plateau) -> list[float]:
    record, found = PlateauState(), []
    for epoch, value in enumerate(values, start=1):
        record = update_plateau(record, plateau, value, step=10 * epoch, epoch=epoch)
        found.append(record.scale)
    return found


def test_the_rate_falls_after_patience_without_improvement_and_not_below_the_least():
    values = [5, 4, 4, 4, 4, 3, 3, 3, 3, 3, 3, 3]
    #         .  .  1  2  1  .  1  2  1  2  1  2
    wanted = [1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25, 0.2, 0.2, 0.2]
    assert scales(values, rule()) == wanted


def test_a_score_is_to_rise():
    assert scales([0.1, 0.2, 0.3, 0.3, 0.2, 0.4], rule("max")) == [1, 1, 1, 1, 0.5, 0.5]


def test_small_improvements_and_bad_numbers_are_none():
    assert scales([1.0, 0.95, 0.91], rule(min_delta=0.1)) == [1, 1, 0.5]
    assert scales([1.0, math.nan, math.inf], rule()) == [1, 1, 0.5]


@pytest.mark.parametrize("cut", [1, 3, 4])
def test_a_record_continues_after_json(cut):
    values, plateau = [5, 5, 5, 5, 5, 5], rule()
    record = PlateauState()
    for epoch, value in enumerate(values, start=1):
        if epoch == cut:
            record = PlateauState.from_json(json.loads(json.dumps(dataclasses.asdict(record))))
        record = update_plateau(record, plateau, value, step=epoch, epoch=epoch)
    assert record.scale == scales(values, plateau)[-1] == 0.25
