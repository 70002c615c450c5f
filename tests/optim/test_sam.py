"""Where the second gradient is taken, and what becomes of it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from descents import make

PARAMS = {"a": jnp.array([[1.0, 1.0]]), "b": jnp.array([2.0])}
GRADIENTS = {"a": jnp.array([[3.0, 0.0]]), "b": jnp.array([4.0])}


def test_it_climbs_rho_along_the_first_gradient_and_steps_along_the_second():
    seen = []

    def grad_fn(params):
        seen.append(params)
        return jax.tree.map(lambda p: 10 * p, params)

    optimizer = make("sam", 0.1, rho=0.5)
    updates, _ = optimizer.update(GRADIENTS, optimizer.init(PARAMS), PARAMS, grad_fn=grad_fn)
    (climbed,) = seen  # two gradients a step, of which this is the second
    np.testing.assert_allclose(climbed["a"], [[1.3, 1.0]], rtol=1e-6)
    np.testing.assert_allclose(climbed["b"], [2.4], rtol=1e-6)
    # From where the weights were, not from where they climbed to.
    params: Any = optax.apply_updates(PARAMS, updates)
    np.testing.assert_allclose(params["a"], [[1 - 1.3, 1 - 1.0]], atol=1e-6)
    np.testing.assert_allclose(params["b"], [2 - 2.4], rtol=1e-6)


def test_without_grad_fn_it_says_what_is_missing():
    optimizer = make("sam", 0.1)
    with pytest.raises(ValueError, match="sam needs grad_fn, a function from params to gradients"):
        optimizer.update(GRADIENTS, optimizer.init(PARAMS), PARAMS)
