"""Averages of weights against a loop that remembers every weight."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_lab.training.averaging import (
    NO_AVERAGE,
    ema,
    evaluated_variables,
    of_optimizer,
    swa,
    with_statistics,
)
from cnn_lab.training.state import TrainState


def state_at(step: int, **others) -> TrainState:
    """A state whose weights are the square of its step and whose statistics are its step."""
    values = {
        "step": jnp.asarray(step),
        "params": {"w": jnp.asarray([float(step) ** 2, 1.0])},
        "collections": {"batch_stats": {"mean": jnp.asarray([float(step)])}},
        "opt_state": (),
        "averaged": {},
        "key": jax.random.key(0),
    }
    return TrainState(**{**values, **others})


def follow(average, num_steps: int) -> list[TrainState]:
    """States after each step, the fresh one first."""
    state = state_at(0)
    state = state.replace(averaged=average.init(state))
    states, update = [state], jax.jit(average.update)
    for step in range(1, num_steps + 1):
        state = state_at(step, averaged=states[-1].averaged)
        states.append(state.replace(averaged=update(state)))
    return states


def weight(state: TrainState) -> float:
    return float(evaluated_variables(state)["params"]["w"][0])


def test_without_an_average_the_last_weights_are_evaluated():
    state = follow(NO_AVERAGE, 3)[-1]
    assert state.averaged == {}
    assert evaluated_variables(state) == {"params": state.params, **state.collections}


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9])
def test_ema_by_a_loop(decay):
    wanted, statistics = 0.0, 0.0
    for step, state in enumerate(follow(ema(decay), 12)[1:], start=1):
        kept = min(decay, step / (9 + step))
        wanted = kept * wanted + (1 - kept) * step**2
        statistics = kept * statistics + (1 - kept) * step
        variables = evaluated_variables(state)
        assert weight(state) == pytest.approx(wanted, rel=1e-6)
        assert float(variables["params"]["w"][1]) == pytest.approx(1, rel=1e-6)
        assert float(variables["batch_stats"]["mean"][0]) == pytest.approx(statistics, rel=1e-6)


@pytest.mark.parametrize(("first", "every"), [(1, 1), (4, 1), (4, 3), (3, 5)])
def test_swa_is_the_mean_of_the_weights_it_takes(first, every):
    states = follow(swa(first, every), 14)
    for step, state in enumerate(states):
        taken = range(first, step + 1, every)
        wanted = np.mean([s**2 for s in taken]) if taken else step**2
        assert weight(state) == pytest.approx(wanted, rel=1e-6)


def test_statistics_of_swa_stay_as_they_were_measured_until_the_next_time():
    average = swa(3, 1)
    state = follow(average, 2)[-1]
    assert float(evaluated_variables(state)["batch_stats"]["mean"][0]) == 2  # as of training
    measured = with_statistics(state, {"batch_stats": {"mean": jnp.asarray([7.0])}})
    after = measured.replace(step=jnp.asarray(3))
    after = after.replace(averaged=average.update(after))
    assert float(evaluated_variables(after)["batch_stats"]["mean"][0]) == 7


def test_the_average_of_an_optimizer_is_read_from_its_state():
    average = of_optimizer(lambda opt_state, params: {"w": params["w"] + opt_state[0]})
    state = state_at(3, opt_state=(jnp.asarray(0.5),))
    state = state.replace(averaged=average.update(state))
    assert weight(state) == 9.5
    assert average.recalibrate_from_step == 1
