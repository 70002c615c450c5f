"""Penalties on the weights."""

import jax
import jax.numpy as jnp

from cnn_lab.optim.penalties import l2

PARAMS = {
    "layer": {"kernel": jnp.array([[1.0, -2.0]]), "bias": jnp.array([100.0])},
    "k": jnp.ones((2, 2)),
}


def test_l2_is_half_the_weighted_sum_of_squared_kernels():
    assert float(l2(0.5)(PARAMS)) == 0.5 * 0.5 * (1 + 4 + 4)
    assert float(l2(0.5)({"bias": jnp.ones((3,))})) == 0.0


def test_its_gradient_is_the_weighted_kernel_and_nothing_on_biases():
    gradient = jax.grad(l2(0.5))(PARAMS)
    assert gradient["layer"]["kernel"].tolist() == [[0.5, -1.0]]
    assert gradient["layer"]["bias"].tolist() == [0.0]
    assert gradient["k"].tolist() == [[0.5, 0.5], [0.5, 0.5]]


def test_the_syllabus_compares_weights_by_their_complexity():
    both, one = ({"kernel": jnp.array([w])} for w in ([1.3, -1.2], [2.2]))
    # l2 3.13 against 4.84: the spread-out weights cost less
    assert round(2 * float(l2(1.0)(both)), 2) == 3.13
    assert round(2 * float(l2(1.0)(one)), 2) == 4.84
