"""Which weights are the best, and when to give up."""

import math

import pytest

from cnn_lab.training.monitor import Selection, SelectionState, update_selection

NAN, INF = math.nan, math.inf


def after(values, rule: Selection, every: int = 1) -> list[SelectionState]:
    """Records after evaluations every `every` epochs of 5 steps, until the rule says stop."""
    records = [SelectionState()]
    for index, value in enumerate(values):
        epoch = every * (index + 1)
        records.append(update_selection(records[-1], rule, value, step=5 * epoch, epoch=epoch))
        if records[-1].stopped:
            break
    return records[1:]


@pytest.mark.parametrize(
    ("mode", "values", "best"),
    [
        ("max", [0.5, 0.7, 0.6, 0.7], (0.7, 10)),  # a tie keeps the earlier weights
        ("min", [0.5, 0.7, 0.4, 0.4], (0.4, 15)),
        ("max", [NAN, 0.1, NAN], (0.1, 10)),
        ("min", [NAN, 0.1, NAN], (0.1, 10)),
        ("max", [-3.0, -2.0], (-2.0, 10)),
        ("max", [NAN, NAN], (None, None)),
        ("min", [INF, 3.0, -INF], (3.0, 10)),
    ],
)
def test_the_best_value_and_its_step_are_remembered(mode, values, best):
    records = after(values, Selection("accuracy", mode))
    assert (records[-1].best_value, records[-1].best_step) == best
    assert not any(record.stopped or record.stale_checks for record in records)


def test_the_lectures_rule_stops_at_the_first_check_that_is_not_better():
    rule = Selection("accuracy", "max", check_every_epochs=10, patience=1)
    checked = after([0.5, 0.6, 0.58, 0.9], rule, every=10)
    assert [record.stopped for record in checked] == [False, False, True]
    assert (checked[-1].best_value, checked[-1].best_step) == (0.6, 100)  # the previous model
    assert after([0.5, 0.5], rule, every=10)[-1].stopped  # as good is not better


def test_evaluations_between_checks_select_but_do_not_stop():
    rule = Selection("accuracy", "max", check_every_epochs=3, patience=1)
    values = [0.1, 0.9, 0.5, 0.4, 0.3, 0.6, 0.2, 0.2, 0.6]
    records = after(values, rule)
    assert [r.stopped for r in records] == [False] * 8 + [True]
    assert [r.stale_checks for r in records] == [0] * 8 + [1]
    assert (records[-1].best_value, records[-1].best_step) == (0.9, 10)
    assert records[-1].reference == 0.6


@pytest.mark.parametrize(
    ("mode", "patience", "values", "stops_after"),
    [
        ("max", 1, [1, 2, 3], None),
        ("max", 2, [1, 1, 1], 3),
        ("max", 2, [1, 0, 2, 1, 3, 2, 2], 7),  # an improvement starts the count anew
        ("min", 2, [3, 4, 2, 3, 2], 5),
        ("max", 3, [NAN, NAN, NAN], 3),
        ("max", 2, [1, NAN, 2, NAN, NAN], 5),
        ("min", 1, [1, NAN], 2),
        ("min", 2, [INF, -INF], 2),
    ],
)
def test_patience_counts_checks_in_a_row(mode, patience, values, stops_after):
    records = after([float(v) for v in values], Selection("loss", mode, 1, patience))
    assert [record.stopped for record in records[:-1]] == [False] * (len(records) - 1)
    assert records[-1].stopped == (stops_after is not None)
    assert len(records) == (stops_after or len(values))


@pytest.mark.parametrize("mode", ["max", "min"])
def test_a_change_must_exceed_min_delta_to_count_but_not_to_select(mode):
    sign = 1.0 if mode == "max" else -1.0
    rule = Selection("x", mode, check_every_epochs=1, patience=3, min_delta=0.25)
    records = after([sign * v for v in (1.0, 1.25, 1.5, 1.5, 1.5)], rule)
    # 1.25 is within the delta; 1.5 is not, since what counts is the last improvement.
    assert [record.stale_checks for record in records] == [0, 1, 0, 1, 2]
    assert [record.reference for record in records] == [sign * v for v in (1, 1, 1.5, 1.5, 1.5)]
    assert [record.best_step for record in records] == [5, 10, 15, 15, 15]
