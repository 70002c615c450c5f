"""Where the weights are after steps that were constrained."""

from typing import Any

import descents
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from descents import RATES, descend, make

from cnn_lab.core import trees
from cnn_lab.optim.assemble import max_norm, proximal_l1
from cnn_lab.optim.kernels import weight_complexity
from cnn_lab.optim.penalties import l1


def constant(rate: float) -> optax.Schedule:
    return optax.constant_schedule(rate)


def step_once(transformation, gradients, params, **extra) -> Any:
    chain = optax.chain(optax.sgd(0.1), transformation)
    updates, _ = chain.update(gradients, chain.init(params), params, **extra)
    return optax.apply_updates(params, updates)


PARAMS = {"kernel": jnp.array([[1.0, 0.1, -0.02, 0.0]]), "bias": jnp.array([0.01])}
ZEROS = jax.tree.map(jnp.zeros_like, PARAMS)


def test_weights_are_drawn_to_0_by_rate_times_weight_and_stop_there():
    found = step_once(proximal_l1(0.5, constant(0.1)), ZEROS, PARAMS)
    np.testing.assert_allclose(found["kernel"], [[0.95, 0.05, 0.0, 0.0]], rtol=1e-6)
    assert found["kernel"][0, 2:].tolist() == [0.0, 0.0]
    assert found["bias"].tolist() == PARAMS["bias"].tolist()


def test_the_draw_comes_after_the_step():
    gradients = {"kernel": jnp.array([[1.0, -1.0, 0.0, 0.3]]), "bias": jnp.array([1.0])}
    found = step_once(proximal_l1(0.5, constant(0.1)), gradients, PARAMS)
    np.testing.assert_allclose(found["kernel"], [[0.85, 0.15, 0.0, 0.0]], rtol=1e-6)
    np.testing.assert_allclose(found["bias"], [-0.09], rtol=1e-6)


def test_a_scaled_rate_draws_as_much_less():
    found = step_once(proximal_l1(0.5, constant(0.1)), ZEROS, PARAMS, rate_scale=jnp.float32(0.1))
    np.testing.assert_allclose(found["kernel"], [[0.995, 0.095, -0.015, 0.0]], rtol=1e-6)


def test_the_draw_follows_the_schedule():
    chain = optax.chain(optax.sgd(0.0), proximal_l1(1.0, lambda step: 0.1 * (step + 1)))
    history = descend(optax.with_extra_args_support(chain), {"kernel": jnp.ones((1, 1))}, 3)
    found = [params["kernel"].item() for params in history]
    assert found == pytest.approx([0.9, 0.7, 0.4], rel=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_minimum_of_the_lasso_has_exact_zeros(dtype):
    # Of (w - t)^2 / 2 + 0.1 |w|: t drawn towards 0 by 0.1.
    target = jnp.array([[2.0, -0.5, 0.05, -0.09]], dtype)
    start = {"kernel": jnp.ones((1, 4), dtype)}

    def gradient(params):
        return {"kernel": params["kernel"] - target}

    drawn = optax.chain(optax.sgd(0.5), proximal_l1(0.1, constant(0.5)))
    params = descend(optax.with_extra_args_support(drawn), start, 40, gradient)[-1]
    tolerance = 1e-6 if dtype == jnp.float32 else 1e-2
    found = np.asarray(params["kernel"], np.float32)
    np.testing.assert_allclose(found, [[1.9, -0.4, 0.0, 0.0]], rtol=tolerance)
    assert (found[0, 2:] == 0).all()
    assert params["kernel"].dtype == dtype
    assert weight_complexity(params)["l0"] == 2


def test_the_penalty_alone_leaves_no_exact_zeros():
    target = jnp.array([[2.0, -0.5, 0.05, -0.09]])

    def gradient(params):
        return jax.grad(l1(0.1))(params) | {
            "kernel": params["kernel"] - target + 0.1 * jnp.sign(params["kernel"])
        }

    params = descend(make("sgd", 0.5), {"kernel": jnp.ones((1, 4))}, 40, gradient)[-1]
    assert weight_complexity(params)["l0"] == 4


@pytest.mark.parametrize("name", ["adam", "lars", "lion", "momentum", "muon", "rmsprop", "sam"])
def test_no_unit_passes_the_norm_at_any_step(name):
    # The gradient pulls all weights outwards for ever.
    params = descents.convnet_params()
    chain = optax.with_extra_args_support(optax.chain(make(name, RATES[name]), max_norm(2.0)))

    def body(carry, _):
        carry = descents.one_step(chain, lambda p: jax.tree.map(lambda x: -x, p), *carry)
        return carry, {
            path: jnp.sqrt(jnp.sum(jnp.square(leaf), axis=tuple(range(leaf.ndim - 1))))
            for path, leaf in trees.flatten(carry[0]).items()
        }

    start = (params, chain.init(params))
    (params, _), norms = jax.jit(lambda: jax.lax.scan(body, start, None, length=30))()
    for path, found in norms.items():
        if path.endswith("kernel"):
            assert found.max() <= 2 * (1 + 1e-6), path
            assert found.max() >= 2 * (1 - 1e-6), path  # they would go farther
    assert params["backbone"]["norm"]["scale"].min() > 1  # four of them: not bound as one


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_units_within_the_norm_go_where_they_were_going(dtype):
    # Bit for bit, though steps are larger than the weights and the way there is rounded.
    random = np.random.default_rng(0).normal(size=(2, 3, 500)).astype(np.float32)
    params = {"kernel": jnp.asarray(0.01 * random[0]).at[:, 7].set(3.0), "bias": jnp.ones((9,))}
    gradients = {"kernel": jnp.asarray(random[1]), "bias": jnp.ones((9,))}
    params, gradients = jax.tree.map(lambda x: x.astype(dtype), (params, gradients))
    free = step_once(optax.identity(), gradients, params)
    bound = step_once(max_norm(2.0), gradients, params)
    changed = np.flatnonzero(np.any(bound["kernel"] != free["kernel"], axis=0))
    assert changed.tolist() == [7]
    assert bound["bias"].tolist() == free["bias"].tolist()
    norm = np.linalg.norm(np.asarray(bound["kernel"][:, 7], np.float32))
    assert norm == pytest.approx(2.0, rel=1e-6 if dtype == jnp.float32 else 1e-2)


def test_a_norm_of_0_stays():
    params = {"kernel": jnp.zeros((2, 2))}
    assert step_once(max_norm(1.0), params, params)["kernel"].tolist() == [[0.0] * 2] * 2
