"""Activations by name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import refused

from cnn_lab.core.errors import ConfigError
from cnn_lab.layers.factory import ACTIVATIONS, MONOTONE, activation, scaled_tanh, threshold
from cnn_lab.layers.pooling import max_pool

# Values at -2, 0 and 1, by hand.
VALUES = {
    "elu": (np.expm1(-2), 0, 1),
    "gelu": (-0.0454023, 0, 0.841192),  # the tanh form
    "gelu_exact": (-0.0455003, 0, 0.8413447),
    "hard_swish": (-1 / 3, 0, 2 / 3),
    "identity": (-2, 0, 1),
    "leaky_relu": (-0.02, 0, 1),
    "relu": (0, 0, 1),
    "relu6": (0, 0, 1),
    "scaled_tanh": (1.7159 * np.tanh(-4 / 3), 0, 1.7159 * np.tanh(2 / 3)),
    "sigmoid": (1 / (1 + np.exp(2)), 0.5, 1 / (1 + np.exp(-1))),
    "silu": (-2 / (1 + np.exp(2)), 0, 1 / (1 + np.exp(-1))),
    "tanh": (np.tanh(-2), 0, np.tanh(1)),
    "threshold": (0, 0, 1),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_values(name):
    x = jnp.array([-2.0, 0.0, 1.0])
    found = activation(name)(x)
    np.testing.assert_allclose(found, VALUES[name], rtol=0, atol=1e-6)  # float32 near 1
    assert found.dtype == x.dtype


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_the_compute_type_is_kept(name):
    assert activation(name)(jnp.ones((2, 3), jnp.bfloat16)).dtype == jnp.bfloat16


def test_the_gradient_of_threshold_is_passed_straight_through():
    x, weights = jnp.array([-3.0, 0.0, 0.5, 7.0]), jnp.array([1.0, 2.0, 3.0, 4.0])
    assert jax.grad(lambda x: jnp.vdot(threshold(x), weights))(x).tolist() == [1, 2, 3, 4]
    assert jax.jvp(threshold, (x,), (weights,))[1].tolist() == [1, 2, 3, 4]


def test_scaled_tanh_maps_one_to_one():
    assert scaled_tanh(jnp.array(1.0)) == pytest.approx(1.0, abs=1e-4)  # 1.7159 has five digits
    assert scaled_tanh(jnp.array(-1.0)) == -scaled_tanh(jnp.array(1.0))


def test_an_unknown_name_is_answered_with_the_nearest():
    with refused(ConfigError, found="relo", nearest=("relu", "relu6")):
        activation("relo")


@pytest.mark.parametrize("name", sorted(MONOTONE))
def test_a_monotone_activation_commutes_with_a_maximum_and_so_does_its_gradient(name):
    images = jax.random.normal(jax.random.key(0), (4, 6, 6, 3))

    def total(images, order):
        first, then = (
            (activation(name), lambda x: max_pool(x, 2))
            if order == "pool last"
            else (lambda x: max_pool(x, 2), activation(name))
        )
        return jnp.sum(jnp.sin(then(first(images))))

    both = [jax.value_and_grad(total)(images, order) for order in ("pool last", "pool first")]
    np.testing.assert_array_equal(both[0][1], both[1][1])
    assert both[0][0] == both[1][0]
