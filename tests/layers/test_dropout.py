"""Dropout: the right share, the same expectation."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_lab.layers.dropout import Dropout


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


@pytest.mark.parametrize("rate", [0.0, 0.25, 0.5])
def test_the_scaling_of_2014_is_the_same_in_expectation(rate):
    """Section 4 of Srivastava et al. 2014: p times the weights in evaluation."""
    x = jnp.linspace(0.5, 2.0, 8)[None]

    def mean_of(scaling: str, train: bool):
        layer: Any = Dropout(rate, scaling)  # pyright: ignore[reportArgumentType]
        keys = jax.random.split(jax.random.key(0), 4096)
        apply = lambda key: layer.apply({}, x, train=train, rngs={"dropout": key})  # noqa: E731
        return np.asarray(jax.jit(jax.vmap(apply))(keys).mean(axis=0) / x)

    # Each mean of 4096 draws is within five of its standard deviations.
    error = 5 * np.sqrt(rate / (1 - rate) / 4096) + 1e-6
    np.testing.assert_allclose(mean_of("training", True), 1, atol=error)
    np.testing.assert_allclose(mean_of("training", False), 1, atol=1e-6)
    np.testing.assert_allclose(mean_of("evaluation", True), 1 - rate, atol=error)
    np.testing.assert_allclose(mean_of("evaluation", False), 1 - rate, atol=1e-6)


def test_the_scaling_of_2014_keeps_values_as_they_are_in_training():
    x = jnp.full((1000,), 3.0)
    layer: Any = Dropout(0.5, "evaluation")
    found = layer.apply({}, x, train=True, rngs={"dropout": jax.random.key(0)})
    assert set(found.tolist()) == {0.0, 3.0}
