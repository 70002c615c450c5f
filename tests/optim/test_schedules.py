"""Learning rates at the steps where they are known."""

import jax
import numpy as np
import pytest
from refusals import refused

from cnn_lab.config.values import check_options, declared_options
from cnn_lab.core.errors import ConfigError
from cnn_lab.optim.schedules import SCHEDULES, make_schedule, plateau, step


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


def test_plateau_is_constant_and_declares_what_its_reductions_need():
    assert rates((0, 50, 100, 1000), "plateau", factor=0.5, patience=2) == [0.5] * 4
    assert {name: default for name, (_, default) in declared_options(plateau).items()} == {
        "factor": 0.1,
        "patience": 5,
        "min_delta": 1e-4,
        "min_fraction": 1e-3,
    }


def test_step_falls_to_its_factor_after_each_milestone():
    options = {"steps_per_epoch": 10, "milestones_epochs": (3, 5.5, 9)}
    found = rates((0, 29, 30, 54, 55, 89, 90, 99, 1000), "step", factor=0.2, **options)
    assert found == pytest.approx([0.5, 0.5, *[0.1] * 2, *[0.02] * 2, *[0.004] * 3], rel=1e-6)


def test_milestones_count_epochs_of_the_whole_run():
    options = {"steps_per_epoch": 10, "milestones_epochs": (3, 6), "warmup_steps": 20}
    found = rates((10, 20, 29, 30, 59, 60), "step", **options)
    assert found == pytest.approx([0.25, 0.5, 0.5, 0.05, 0.05, 0.005], rel=1e-6)


def test_step_falls_at_half_and_three_quarters_if_nobody_says():
    found = rates((0, 49, 50, 74, 75, 99), "step")
    assert found == pytest.approx([0.5, 0.5, 0.05, 0.05, 0.005, 0.005], rel=1e-6)
    found = rates((20, 59, 60, 79, 80), "step", warmup_steps=20)
    assert found == pytest.approx([0.5, 0.5, 0.05, 0.05, 0.005], rel=1e-6)


MILESTONES = "config.optim.schedule.options.milestones_epochs"


def test_milestones_are_read_from_a_config():
    path = "config.optim.schedule.options"
    checked = check_options(step, {"milestones_epochs": [30, 60.5]}, path)
    assert checked == {"milestones_epochs": (30.0, 60.5)}
    with refused(ConfigError, where=MILESTONES, found=(0,)):
        check_options(step, {"milestones_epochs": (0,)}, path)


def test_milestones_in_one_step_both_count():
    found = rates((9, 10), "step", steps_per_epoch=10, milestones_epochs=(1.0, 1.01))
    assert found == pytest.approx([0.5, 0.005], rel=1e-6)


@pytest.mark.parametrize("milestone", [10, 12.5, 2, 1, 0.01])
def test_a_milestone_outside_the_run_after_its_warm_up_is_refused(milestone):
    with pytest.raises(ConfigError) as caught:
        rates((), "step", milestones_epochs=(milestone,), steps_per_epoch=10, warmup_steps=20)
    assert (caught.value.where, caught.value.found) == (MILESTONES, milestone)
    assert "between 2 and 10 epochs" in str(caught.value.allowed)


@pytest.mark.parametrize("milestones", [(5.0, 3.0), (3.0, 3.0)])
def test_milestones_out_of_order_are_refused(milestones):
    with refused(ConfigError, where=MILESTONES, found=milestones, allowed="rising"):
        rates((), "step", milestones_epochs=milestones, steps_per_epoch=10)


def test_exponential_falls_by_the_same_factor_each_step():
    found = rates((0, 25, 50, 100, 500), "exponential", final_fraction=0.0016)
    assert found == pytest.approx([0.5, 0.1, 0.02, 0.0008, 0.0008], rel=1e-6)
    assert rates((0, 50, 100), "exponential", final_fraction=1) == [0.5] * 3


def test_polynomial_falls_like_a_power_of_what_is_left():
    assert rates((0, 50, 75, 100, 500), "polynomial") == [0.5, 0.25, 0.125, 0.0, 0.0]
    assert rates((0, 50, 100), "polynomial", power=2.0) == [0.5, 0.125, 0.0]
    found = rates((0, 50, 100), "polynomial", power=2.0, final_fraction=0.2)
    assert found == pytest.approx([0.5, 0.1 + 0.25 * 0.4, 0.1], rel=1e-6)


def test_one_cycle_rises_to_the_peak_and_falls_to_almost_nothing():
    # Of 101 steps the 30th is the top, 29 after the first; the 101st is the last.
    schedule = make_schedule("one_cycle", peak=0.5, num_steps=101)
    found = [np.asarray(schedule(step)).item() for step in (0, 29, 100, 1000)]
    assert found == pytest.approx([0.02, 0.5, 0.5 / 25e4, 0.5 / 25e4], rel=1e-6)
    # Half way up and down: the middle between the ends.
    schedule = make_schedule(
        "one_cycle",
        peak=0.5,
        num_steps=101,
        rise_share=0.505,
        initial_fraction=0.2,
        final_fraction=0.1,
    )
    found = [np.asarray(schedule(step)).item() for step in (0, 25, 50, 75, 100)]
    assert found == pytest.approx([0.1, 0.3, 0.5, 0.275, 0.05], rel=1e-6)


@pytest.mark.parametrize("num_steps", range(1, 12))
def test_one_cycle_of_few_steps_has_its_peak(num_steps):
    schedule = make_schedule("one_cycle", peak=0.5, num_steps=num_steps)
    found = [np.asarray(schedule(step)).item() for step in range(num_steps)]
    assert max(found) == pytest.approx(0.5, rel=1e-6)
    if num_steps >= 3:
        assert [found[0], found[-1]] == pytest.approx([0.02, 2e-6])


def test_one_cycle_refuses_a_second_warm_up():
    with refused(ConfigError, where="config.optim.schedule.warmup_steps", found=3):
        rates((), "one_cycle", warmup_steps=3)


WITH_WARM_UP = [name for name in SCHEDULES if name != "one_cycle"]


@pytest.mark.parametrize("name", WITH_WARM_UP)
def test_warm_up_rises_linearly_from_zero_to_the_peak(name):
    found = rates((0, 5, 10, 20), name, warmup_steps=20)
    assert found == pytest.approx([0.0, 0.125, 0.25, 0.5], abs=1e-7)


def test_after_the_warm_up_the_whole_fall_fits_the_rest():
    found = rates((20, 60, 100), warmup_steps=20)
    assert found == pytest.approx([0.5, 0.25, 0.0], abs=1e-7)


@pytest.mark.parametrize("name", WITH_WARM_UP)
@pytest.mark.parametrize("warmup_steps", [0, 7])
def test_it_runs_compiled_and_never_rises_after_the_warm_up(name, warmup_steps):
    schedule = make_schedule(name, peak=0.5, num_steps=100, warmup_steps=warmup_steps)
    found = np.asarray(jax.jit(jax.vmap(schedule))(np.arange(101)))
    assert found.tolist() == pytest.approx(
        rates(range(101), name, warmup_steps=warmup_steps), abs=1e-7
    )
    assert found.argmax() == warmup_steps
    assert found[warmup_steps] == 0.5
    assert (np.diff(found[: warmup_steps + 1]) > 0).all()
    assert (np.diff(found[warmup_steps:]) <= 0).all()


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("num_steps", [1, 2, 3, 100])
def test_it_is_finite_and_not_negative_for_ever_and_compiled_once(name, num_steps):
    schedule = jax.jit(make_schedule(name, peak=0.5, num_steps=num_steps))
    found = np.array([schedule(step) for step in (*range(min(num_steps, 9)), 99, 100, 2**31 - 1)])
    assert np.isfinite(found).all()
    assert (found >= 0).all()
    assert schedule._cache_size() == 1  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("warmup_steps", [100, 101])
def test_a_warm_up_as_long_as_the_run_is_refused(warmup_steps):
    with refused(ConfigError, where="config.optim.schedule.warmup_steps", found=warmup_steps):
        rates((), warmup_steps=warmup_steps)
    assert rates((98, 99), warmup_steps=99) == pytest.approx([0.5 * 98 / 99, 0.5], abs=1e-7)


def test_an_unknown_schedule_is_answered_with_the_nearest():
    where = "config.optim.schedule.name"
    with refused(ConfigError, where=where, found="cosin", nearest=("cosine",)):
        rates((), "cosin")
