"""Dropout: JAX's bits, the right share, the same expectation."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_lab.layers.dropout import Dropout, random_bits


@pytest.mark.parametrize("shape", [(), (1,), (7,), (128, 84), (3, 5, 7, 2), (2, 0)])
def test_the_bits_are_those_of_jax(shape):
    key = jax.random.fold_in(jax.random.key(3), 5)
    ours = jax.jit(random_bits, static_argnums=1)(key, shape)
    np.testing.assert_array_equal(ours, jax.random.bits(key, shape))


def test_other_generators_are_left_to_jax():
    key = jax.random.key(0, impl="rbg")
    np.testing.assert_array_equal(random_bits(key, (4, 3)), jax.random.bits(key, (4, 3)))


def drop(x, rate: float, seed: int = 1):
    dropped: Any = Dropout(rate).apply({}, x, train=True, rngs={"dropout": jax.random.key(seed)})
    return dropped


def test_values_are_dropped_or_scaled_and_the_mean_stays():
    y = np.asarray(drop(jnp.ones((1000, 100)), 0.3))
    np.testing.assert_allclose(np.unique(y), [0, 1 / 0.7], rtol=1e-6)
    # 100,000 draws: the share has a standard deviation of 0.0015.
    assert abs((y == 0).mean() - 0.3) < 0.006


@pytest.mark.parametrize(("rate", "train"), [(0.5, False), (0.0, True)])
def test_nothing_is_dropped_in_evaluation_or_at_rate_zero(rate, train):
    x = jnp.arange(6.0)
    np.testing.assert_array_equal(Dropout(rate).apply({}, x, train=train), x)


def test_the_gradient_passes_where_the_value_did():
    x = jnp.ones((50,))
    np.testing.assert_array_equal(jax.grad(lambda x: drop(x, 0.5).sum())(x), drop(x, 0.5))


def test_bfloat16_stays_bfloat16():
    assert drop(jnp.ones((8,), jnp.bfloat16), 0.5).dtype == jnp.bfloat16
