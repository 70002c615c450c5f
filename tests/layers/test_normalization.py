"""Normalisation against its definition, on inputs that are hard to get right."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from cnn_lab.layers.factory import LayerFactory
from cnn_lab.layers.normalization import BatchNorm, GroupNorm, local_response_norm

KEY = jax.random.key(0)


def test_a_large_mean_does_not_cancel_the_variance():
    x = 1e4 + jax.random.normal(KEY, (512, 3))
    y, _ = BatchNorm(train=True).init_with_output(KEY, x)
    np.testing.assert_allclose(jnp.std(y, 0), 1, rtol=1e-3)
    np.testing.assert_allclose(jnp.mean(y, 0), 0, atol=4e-3)  # float32 knows 1e4 to 1e-3


def test_running_statistics_move_by_a_tenth_to_those_of_the_batch():
    x = 3 + 2 * jax.random.normal(KEY, (64, 5, 5, 4))
    module: Any = BatchNorm(train=True)
    variables = module.init(KEY, x)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
    _, changed = module.apply(variables, x, mutable=["batch_stats"])
    statistics = changed["batch_stats"]
    np.testing.assert_allclose(statistics["mean"], 0.1 * jnp.mean(x, (0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(statistics["var"], 0.9 + 0.1 * jnp.var(x, (0, 1, 2)), rtol=1e-5)
    fixed: Any = BatchNorm(train=False)
    y = fixed.apply({**variables, **changed}, x)
    mean, variance = (statistics[name][None, None, None] for name in ("mean", "var"))
    np.testing.assert_allclose(y, (x - mean) / jnp.sqrt(variance + 1e-5), atol=1e-5)


def test_statistics_stay_float32_in_bfloat16():
    # In bfloat16 a sum of 4096 ones stops at 256.
    x = jnp.ones((4096, 2), jnp.bfloat16)
    module: Any = LayerFactory(dtype="bfloat16").norm(train=True, name="norm")
    y, variables = module.init_with_output(KEY, x)
    assert y.dtype == jnp.bfloat16
    _, changed = module.apply(variables, x, mutable=["batch_stats"])
    np.testing.assert_allclose(changed["batch_stats"]["mean"], 0.1, rtol=1e-6)
    assert {leaf.dtype for leaf in jax.tree.leaves((variables, changed))} == {
        jnp.dtype(jnp.float32)
    }


@pytest.mark.parametrize(("channels", "groups"), [(64, 32), (48, 16), (8, 8), (6, 2), (5, 1)])
def test_group_normalisation_equals_its_definition(channels, groups):
    x = 1e3 + jax.random.normal(KEY, (3, 4, 5, channels))
    module: Any = GroupNorm()
    y, variables = module.init_with_output(KEY, x)
    parts = np.asarray(x, np.float64).reshape(3, 20, groups, -1)
    mean, variance = parts.mean((1, 3), keepdims=True), parts.var((1, 3), keepdims=True)
    wanted = ((parts - mean) / np.sqrt(variance + 1e-5)).reshape(x.shape)
    np.testing.assert_allclose(y, wanted, atol=2e-3)  # of 1e3 float32 knows 6e-5
    moved = {"scale": jnp.full(channels, 2.0), "bias": jnp.full(channels, 3.0)}
    assert jax.tree.map(jnp.shape, variables["params"]) == jax.tree.map(jnp.shape, moved)
    np.testing.assert_allclose(module.apply({"params": moved}, x), 2 * y + 3, atol=1e-5)


@pytest.mark.parametrize("kind", ["batch", "group", "layer"])
def test_a_style_chooses_the_normalisation(kind):
    x = 5 + 3 * jax.random.normal(KEY, (4, 6, 6, 32))
    layers = LayerFactory(norm_kind=kind, norm_epsilon=0.0)
    y, variables = layers.norm(train=True, name="norm").init_with_output(KEY, x)
    assert {*variables["params"]} == {"scale", "bias"}
    over = {"batch": (0, 1, 2), "group": (1, 2), "layer": (3,)}[kind]  # a channel a group here
    assert ("batch_stats" in variables) == (kind == "batch")
    np.testing.assert_allclose(jnp.mean(y, over), 0, atol=1e-5)
    np.testing.assert_allclose(jnp.std(y, over), 1, atol=1e-4)
    nothing, _ = layers.norm(train=True, zero=True, name="norm").init_with_output(KEY, x)
    assert not np.any(nothing)


@pytest.mark.parametrize("average", [False, True], ids=["paper", "torch"])
@pytest.mark.parametrize("size", [1, 2, 4, 5, 9])
def test_local_response_normalisation_equals_a_plain_loop(size, average):
    x = 3 * np.random.default_rng(0).normal(size=(2, 3, 3, 7)).astype(np.float32)
    alpha, beta, k = 0.2, 0.6, 1.5
    wanted = np.empty_like(x)
    for channel in range(7):
        begin = channel - size // 2
        around = x[..., max(0, begin) : max(0, begin + size)]
        energy = (alpha / size if average else alpha) * np.square(around).sum(-1)
        wanted[..., channel] = x[..., channel] / (k + energy) ** beta
    found = local_response_norm(jnp.asarray(x), size, alpha, beta, k, average=average)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_the_defaults_of_local_response_normalisation_are_the_papers():
    x = jnp.full((1, 1, 1, 5), 100.0)
    found = local_response_norm(x)[0, 0, 0, 2]
    assert float(found) == pytest.approx(100 / (2 + 1e-4 * 5 * 1e4) ** 0.75, rel=1e-5)


def test_the_gradient_of_local_response_normalisation():
    x = jax.random.normal(KEY, (2, 2, 2, 6))
    check_grads(
        lambda x: local_response_norm(jnp.asarray(x), 5, 0.3),
        (x,),
        order=1,
        modes=["rev"],
        rtol=2e-2,
    )
