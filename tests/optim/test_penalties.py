"""Penalties on the weights."""

import jax
import jax.numpy as jnp

from cnn_lab.optim.penalties import l1, l2, sum_of

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


def test_l2_takes_vectors_where_it_is_asked_to():
    assert float(l2(0.5, vectors=True)(PARAMS)) == 0.5 * 0.5 * (1 + 4 + 100**2 + 4)


def test_the_syllabus_compares_weights_by_their_complexity():
    both, one = ({"kernel": jnp.array([w])} for w in ([1.3, -1.2], [2.2]))
    # l2 3.13 against 4.84: the spread-out weights cost less
    assert round(2 * float(l2(1.0)(both)), 2) == 3.13
    assert round(2 * float(l2(1.0)(one)), 2) == 4.84


def test_l1_is_the_weighted_sum_of_absolute_kernels():
    assert float(l1(0.5)(PARAMS)) == 0.5 * (1 + 2 + 4)
    assert float(l1(0.5)({"bias": jnp.ones((3,))})) == 0.0


def test_the_gradient_of_l1_is_the_sign_and_nothing_at_0_and_on_biases():
    params = {"kernel": jnp.array([[3.0, -2.0, 0.0, -0.0]]), "bias": jnp.array([5.0])}
    gradient = jax.grad(l1(0.5))(params)
    assert gradient["kernel"].tolist() == [[0.5, -0.5, 0.0, 0.0]]
    assert gradient["bias"].tolist() == [0.0]


def test_an_elastic_net_is_the_sum_of_both():
    penalty = sum_of(l1(0.5), l2(0.25))
    assert float(penalty(PARAMS)) == 0.5 * 7 + 0.5 * 0.25 * 9
    assert jax.grad(penalty)(PARAMS)["layer"]["kernel"].tolist() == [[0.75, -1.0]]
    assert float(sum_of()(PARAMS)) == 0.0
