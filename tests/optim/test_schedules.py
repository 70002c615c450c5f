"""Learning rates at the steps where they are known."""

import re

import jax
import numpy as np
import pytest

from cnn_lab.core.errors import ConfigError
from cnn_lab.optim.schedules import SCHEDULES, make_schedule


def rates(steps, name="cosine", **options) -> list[float]:
    schedule = make_schedule(name, peak=0.5, num_steps=100, **options)
    return [np.asarray(schedule(step)).item() for step in steps]


def test_constant():
    assert rates((0, 50, 100, 1000), "constant") == [0.5] * 4


def test_cosine_falls_from_the_peak_over_its_middle_to_zero():
    # float32 and one cosine of it
    assert rates((0, 25, 50, 75, 100)) == pytest.approx(
        [0.5, 0.5 * 0.8535534, 0.25, 0.5 * 0.1464466, 0.0], abs=1e-7
    )


def test_cosine_ends_at_its_final_fraction_and_stays_there():
    found = rates((0, 50, 100, 500), final_fraction=0.1)
    assert found == pytest.approx([0.5, 0.275, 0.05, 0.05], abs=1e-7)


@pytest.mark.parametrize("name", SCHEDULES)
def test_warm_up_rises_linearly_from_zero_to_the_peak(name):
    found = rates((0, 5, 10, 20), name, warmup_steps=20)
    assert found == pytest.approx([0.0, 0.125, 0.25, 0.5], abs=1e-7)


def test_after_the_warm_up_the_whole_fall_fits_the_rest():
    found = rates((20, 60, 100), warmup_steps=20)
    assert found == pytest.approx([0.5, 0.25, 0.0], abs=1e-7)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("warmup_steps", [0, 7])
def test_it_runs_compiled_and_never_rises_after_the_warm_up(name, warmup_steps):
    schedule = make_schedule(name, peak=0.5, num_steps=100, warmup_steps=warmup_steps)
    found = np.asarray(jax.jit(jax.vmap(schedule))(np.arange(101)))
    assert found.tolist() == pytest.approx(
        rates(range(101), name, warmup_steps=warmup_steps), abs=1e-7
    )
    assert found.argmax() == warmup_steps
    assert (np.diff(found[: warmup_steps + 1]) > 0).all()
    assert (np.diff(found[warmup_steps:]) <= 0).all()


@pytest.mark.parametrize("warmup_steps", [100, 101])
def test_a_warm_up_as_long_as_the_run_is_refused(warmup_steps):
    text = (
        f"config.optim.schedule.warmup_steps is {warmup_steps}, but the whole run has only 100 "
        "steps; lower it or train longer."
    )
    with pytest.raises(ConfigError, match=f"^{re.escape(text)}$"):
        rates((), warmup_steps=warmup_steps)
    assert rates((98, 99), warmup_steps=99) == pytest.approx([0.5 * 98 / 99, 0.5], abs=1e-7)


def test_an_unknown_schedule_is_answered_with_the_nearest():
    with pytest.raises(ConfigError, match=r"no schedule named 'cosin'; did you mean cosine\?$"):
        rates((), "cosin")
