"""Random words: JAX's own, made faster."""

import jax
import numpy as np
import pytest

from cnn_lab.core.random import random_bits


@pytest.mark.parametrize("shape", [(), (1,), (7,), (128, 84), (3, 5, 7, 2), (2, 0)])
def test_the_bits_are_those_of_jax(shape):
    key = jax.random.fold_in(jax.random.key(3), 5)
    ours = jax.jit(random_bits, static_argnums=1)(key, shape)
    np.testing.assert_array_equal(ours, jax.random.bits(key, shape))


def test_other_generators_are_left_to_jax():
    key = jax.random.key(0, impl="rbg")
    np.testing.assert_array_equal(random_bits(key, (4, 3)), jax.random.bits(key, (4, 3)))
