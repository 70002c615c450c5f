"""Steps at which the loop logs, evaluates and saves, against a loop over single steps."""

import dataclasses
import json

import pytest

from cnn_lab.training.monitor import SelectionState
from cnn_lab.training.progress import Intervals, Progress
from cnn_lab.training.stepper import StepsPerCall

INTERVALS = [
    Intervals(
        steps_per_epoch=s,
        num_epochs=e,
        log_every_steps=log,
        evaluate_every_epochs=v,
        save_every_steps=save,
    )
    for s, e, log, v, save in [
        (1, 1, 1, 1, None),
        (1, 7, 3, 2, 2),
        (5, 3, 5, 1, None),
        (7, 4, 3, 1, 4),
        (7, 4, 100, 3, 5),
        (10, 5, 4, 2, None),
        (12, 2, 5, 1, 12),
        (13, 3, 1000, 3, 1000),
    ]
]


def naive(intervals: Intervals) -> dict[str, list[int]]:
    """What a loop over single steps would do, written from the attributes' descriptions."""
    logs, evaluates, saves, step = [], [], [], 0
    for epoch in range(1, intervals.num_epochs + 1):
        for index in range(intervals.steps_per_epoch):
            step += 1
            ends = index == intervals.steps_per_epoch - 1
            looked = ends and (
                epoch % intervals.evaluate_every_epochs == 0 or epoch == intervals.num_epochs
            )
            if looked:
                evaluates.append(step)
            if looked or step % intervals.log_every_steps == 0:
                logs.append(step)
            if looked or (intervals.save_every_steps and step % intervals.save_every_steps == 0):
                saves.append(step)
    return {"logs": logs, "evaluates": evaluates, "saves": saves}


@pytest.mark.parametrize("intervals", INTERVALS)
def test_the_intervals_agree_with_a_naive_loop(intervals):
    steps = range(1, intervals.total_steps + 1)
    assert naive(intervals) == {
        "logs": [s for s in steps if intervals.logs_at(s)],
        "evaluates": [s for s in steps if intervals.evaluates_at(s)],
        "saves": [s for s in steps if intervals.saves_at(s)],
    }


@pytest.mark.parametrize("longest", [1, 2, 3, 8, 10_000])
@pytest.mark.parametrize("intervals", INTERVALS)
def test_no_boundary_is_skipped_from_wherever_one_starts(intervals, longest):
    boundaries = {step for steps in naive(intervals).values() for step in steps}
    for first in range(intervals.total_steps):
        stop = intervals.next_stop(first, longest)
        assert first < stop <= min(first + longest, intervals.total_steps)
        assert not boundaries & set(range(first + 1, stop))
        # As far as allowed: something happens there, or the stack is full.
        assert stop in boundaries or stop == first + longest


def test_progress_survives_json():
    selection = SelectionState(best_value=0.5, best_step=3, reference=0.25, stale_checks=1)
    progress = Progress(step=4, sums={"loss": [1.5, 2.0]}, selection=selection, seconds=2.5)
    values = json.loads(json.dumps(dataclasses.asdict(progress)))
    assert Progress.from_json(values) == progress
    assert isinstance(Progress.from_json(values).selection, SelectionState)


def pace_of(seconds_per_step: float, num_calls: int, most: int = 128) -> list[int]:
    """Steps of calls one after the other, each made while the one before is running."""
    steps_per_call, made, ended, steps, running = StepsPerCall(most), 0.0, 0.0, [], []
    for _ in range(num_calls):
        steps.append(steps_per_call.num_steps)
        ended = max(made, ended) + seconds_per_step * steps[-1]
        running.append((steps[-1], made, ended))
        if len(running) > 1:
            steps_per_call.measure(*running.pop(0))
            made = steps_per_call._last_end
    return steps


def test_calls_of_a_quick_step_are_as_long_as_allowed():
    assert pace_of(0.004, 7) == [1, 1, 4, 16, 64, 128, 128]


@pytest.mark.parametrize(("seconds", "most"), [(0.05, 20), (0.3, 3), (0.9, 1), (40.0, 1)])
def test_calls_of_a_slow_step_take_about_a_second(seconds: float, most: int):
    steps = pace_of(seconds, 12)
    assert steps[0] == 1
    assert max(steps) <= most
    assert steps[-1] in (most - 1, most)  # the seconds are sums of floats


def test_a_pause_of_the_machine_is_forgotten():
    steps_per_call = StepsPerCall(128)
    for _ in range(4):
        steps_per_call.measure(10, start=0.0, end=steps_per_call._last_end + 0.04)
    steps_per_call.measure(128, start=0.0, end=steps_per_call._last_end + 60.0)
    assert steps_per_call.num_steps == 2
    for _ in range(3):
        steps_per_call.measure(2, start=0.0, end=steps_per_call._last_end + 0.008)
    assert steps_per_call.num_steps == 128
