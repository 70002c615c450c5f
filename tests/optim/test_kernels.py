"""The three measures of the lecture, on its own example."""

import jax.numpy as jnp
import pytest

from cnn_lab.optim.kernels import weight_complexity


def measures(*weights: float) -> dict[str, float]:
    params = {"kernel": jnp.array([weights]), "bias": jnp.full((5,), 7.0), "scale": jnp.ones(())}
    return {name: float(value) for name, value in weight_complexity(params).items()}


def test_two_small_weights_have_less_energy_than_one_large():
    # Each is as long as |w1| + |w2| asks for about the same output.
    assert measures(1.3, -1.2) == pytest.approx({"l0": 2, "l1": 2.5, "l2": 3.13}, rel=1e-6)
    assert measures(2.2, 0.0) == pytest.approx({"l0": 1, "l1": 2.2, "l2": 4.84}, rel=1e-6)


def test_all_kernels_count_and_in_float32():
    kernels = {"a": jnp.full((2, 3), 2.0, jnp.bfloat16), "b": {"c": jnp.full((1, 1, 1, 4), -1.0)}}
    found = weight_complexity(kernels)
    assert {name: (value.dtype, float(value)) for name, value in found.items()} == {
        "l0": (jnp.float32, 10),
        "l1": (jnp.float32, 16),
        "l2": (jnp.float32, 28),
    }


def test_no_kernels_have_no_complexity():
    assert weight_complexity({"bias": jnp.ones((3,))}) == {"l0": 0, "l1": 0, "l2": 0}
