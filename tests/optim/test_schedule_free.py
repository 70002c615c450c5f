"""The averaged weights, and where they are found."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from descents import make, one_step

from cnn_lab.optim.assemble import assemble, with_clipping
from cnn_lab.optim.schedule_free import evaluation_params, has_averages

ONES = {"kernel": jnp.ones((1, 1)), "bias": jnp.ones((1,))}


def after(optimizer, num_steps: int, params: Any = ONES) -> tuple[Any, Any]:
    state = optimizer.init(params)
    for _ in range(num_steps):
        params, state = one_step(optimizer, lambda p: p, params, state)
    return params, state


def test_the_weights_to_evaluate_are_the_average_of_the_steps():
    # z: 0.9, 0.81, of equal rates and so of equal weights.
    params, state = after(make("schedule_free_sgd", 0.1), 2)
    found = evaluation_params(state, params)
    assert found["kernel"].item() == pytest.approx((0.9 + 0.81) / 2, rel=1e-6)
    assert params["kernel"].item() == pytest.approx(0.8505, rel=1e-6)


def test_a_step_weighs_by_the_square_of_its_own_rate():
    # z: 0.9, then 0.9 - 0.2 * 0.9 = 0.72 with four times the weight.
    params, state = after(make("schedule_free_sgd", lambda step: 0.1 * (1 + step)), 2)
    found = evaluation_params(state, params)["kernel"].item()
    assert found == pytest.approx((0.9 + 4 * 0.72) / 5, rel=1e-6)


@pytest.mark.parametrize("name", ["schedule_free_sgd", "schedule_free_adamw"])
def test_they_are_found_in_a_clipped_chain_and_under_jit(name):
    bare = make(name, 0.1)
    limited = with_clipping(optax.clip(10.0), assemble(make(name, 0.1)))
    wrapped = optax.with_extra_args_support(optax.chain(optax.identity(), limited))
    params, state = after(bare, 3)
    other_params, other_state = after(wrapped, 3)
    expected = evaluation_params(state, params)
    found = jax.jit(evaluation_params)(other_state, other_params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found, expected)


def test_groups_have_their_own_and_frozen_parameters_none():
    def groups(params):
        return {name: name for name in params}

    params = {**ONES, "frozen": jnp.full((2, 2), 7.0)}
    partition = optax.partition(
        {
            "kernel": make("schedule_free_sgd", 0.1),
            "bias": make("schedule_free_sgd", 0.2),
            "frozen": optax.set_to_zero(),
        },
        groups,
    )
    params, state = after(optax.with_extra_args_support(partition), 2, params)
    found = evaluation_params(state, params)
    assert found["kernel"].item() == pytest.approx((0.9 + 0.81) / 2, rel=1e-6)
    assert found["bias"].item() == pytest.approx((0.8 + 0.64) / 2, rel=1e-6)
    assert found["frozen"].tolist() == [[7.0, 7.0], [7.0, 7.0]]


def test_they_keep_the_type_of_the_weights():
    ones = jax.tree.map(lambda x: x.astype(jnp.bfloat16), ONES)
    params, state = after(make("schedule_free_sgd", 0.1), 2, ones)
    assert evaluation_params(state, params)["kernel"].dtype == jnp.bfloat16


def test_other_optimizers_have_none():
    params, state = after(make("adam", 0.1), 1)
    assert not has_averages(state)
    with pytest.raises(ValueError, match="not schedule-free, so there are no averaged weights"):
        evaluation_params(state, params)
