"""Groups of parameters with rates and beginnings of their own."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from descents import make

from cnn_lab.core import trees
from cnn_lab.optim.assemble import LrMultiplier, assemble, grouped, rate_scale_of, with_rate_scale
from cnn_lab.optim.optimizers import OPTIMIZERS
from cnn_lab.optim.schedule_free import evaluation_params
from cnn_lab.training.averaging import NO_AVERAGE
from cnn_lab.training.phases import make_phase_transition
from cnn_lab.training.state import TrainState

PARAMS = {"a": {"kernel": jnp.ones((2, 2))}, "b": {"kernel": jnp.ones((2, 2))}}
GROUPED = [name for name, optimizer in OPTIMIZERS.items() if not optimizer.single_group]


def falling(step):
    return 0.1 / (1.0 + step)


def steps(optimizer, params, gradients, state=None) -> tuple[Any, Any]:
    state = optimizer.init(params) if state is None else state
    for gradient in gradients:
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def drawn(number: int, names=("a", "b"), seed: int = 0):
    generator = np.random.default_rng(seed)
    return [
        {
            name: {"kernel": jnp.asarray(generator.normal(size=(2, 2)), jnp.float32)}
            for name in names
        }
        for _ in range(number)
    ]


def lr_multipliers(**given: LrMultiplier) -> dict[str, LrMultiplier]:
    return {f"{name}/kernel": lr_multiplier for name, lr_multiplier in given.items()}


def assert_equal(found, expected, **tolerance):
    for (path, one), other in zip(
        trees.flatten(found).items(), jax.tree.leaves(expected), strict=True
    ):
        np.testing.assert_allclose(one, other, err_msg=path, **(tolerance or {"rtol": 1e-6}))


@pytest.mark.parametrize("name", GROUPED)
def test_a_group_is_trained_as_if_it_were_alone_at_its_rate(name):
    make_one = lambda rate: make(name, rate)  # noqa: E731
    optimizer = grouped(make_one, falling, lr_multipliers(a=LrMultiplier(0.5), b=LrMultiplier()))
    gradients = drawn(3)
    found, _ = steps(optimizer, PARAMS, gradients)
    for part, factor in (("a", 0.5), ("b", 1.0)):
        alone = make(name, lambda step, factor=factor: factor * falling(step))
        only = [{part: gradient[part]} for gradient in gradients]
        expected, _ = steps(alone, {part: PARAMS[part]}, only)
        assert_equal({part: found[part]}, expected)


def test_two_steps_of_momentum_are_those_computed_by_hand():
    optimizer = grouped(
        lambda rate: make("momentum", rate),
        lambda _: 0.1,
        lr_multipliers(a=LrMultiplier(0.1), b=LrMultiplier()),
    )
    ones = {name: {"kernel": jnp.ones((2, 2))} for name in PARAMS}
    found, _ = steps(optimizer, PARAMS, [ones, ones])
    # v = 1, then 0.9 + 1: together 2.9 times the rate.
    np.testing.assert_allclose(found["a"]["kernel"], 1 - 0.01 * 2.9, rtol=1e-6)
    np.testing.assert_allclose(found["b"]["kernel"], 1 - 0.1 * 2.9, rtol=1e-6)


@pytest.mark.parametrize("name", GROUPED)
def test_a_group_that_begins_late_begins_like_any_other_at_the_rate_of_the_training(name):
    make_one = lambda rate: make(name, rate)  # noqa: E731
    first = drawn(3, ("a",))
    early = grouped(make_one, falling, lr_multipliers(a=LrMultiplier()))
    held = {"b": PARAMS["b"]}
    params, opt_state = steps(early, {"a": PARAMS["a"]}, first)
    state = TrainState(
        step=jnp.int32(3),
        params=params,
        collections={},
        opt_state=opt_state,
        averaged={},
        key=(),
        frozen={"params": held},
    )
    both = grouped(make_one, falling, lr_multipliers(a=LrMultiplier(), b=LrMultiplier(1.0, 3)))
    entered = make_phase_transition(both, NO_AVERAGE, lambda _: True)(state)
    assert entered.frozen == {}
    later = drawn(2, seed=1)
    found, _ = steps(both, entered.params, later, entered.opt_state)
    straight, _ = steps(early, {"a": PARAMS["a"]}, first + [{"a": g["a"]} for g in later])
    assert_equal({"a": found["a"]}, straight)  # its momentum goes on
    begun = make(name, lambda step: falling(step + 3))
    expected, _ = steps(begun, held, [{"b": gradient["b"]} for gradient in later])
    assert_equal({"b": found["b"]}, expected)


def test_a_reduced_rate_reaches_every_group():
    optimizer = grouped(
        lambda rate: assemble(make("momentum", rate), adjustable=True),
        lambda _: 0.1,
        lr_multipliers(a=LrMultiplier(0.1), b=LrMultiplier()),
    )
    state = with_rate_scale(optimizer.init(PARAMS), 0.5)
    assert float(rate_scale_of(state)) == 0.5
    ones = {name: {"kernel": jnp.ones((2, 2))} for name in PARAMS}
    found, _ = steps(optimizer, PARAMS, [ones], state)
    np.testing.assert_allclose(found["a"]["kernel"], 1 - 0.005, rtol=1e-6)
    np.testing.assert_allclose(found["b"]["kernel"], 1 - 0.05, rtol=1e-6)


def test_averages_of_schedule_free_groups_are_all_found():
    optimizer = grouped(
        lambda rate: make("schedule_free_sgd", rate),
        lambda _: 0.5,
        lr_multipliers(a=LrMultiplier(0.1), b=LrMultiplier()),
    )
    params, state = steps(optimizer, PARAMS, drawn(4))
    found = evaluation_params(state, params)
    for name in PARAMS:
        assert not np.allclose(found[name]["kernel"], params[name]["kernel"])
