"""Steps of the length of their layer, worked out by hand."""

import jax.numpy as jnp
import numpy as np
import pytest
from descents import descend, make

PARAMS = {"kernel": jnp.array([[3.0, 0.0]]), "bias": jnp.array([3.0])}
GRADIENTS = {"kernel": jnp.array([[0.0, 4.0]]), "bias": jnp.array([2.0])}


def first_step(name: str, **options) -> dict[str, list[float]]:
    params = descend(make(name, 0.1, **options), PARAMS, 1, lambda _: GRADIENTS)[0]
    return {name: np.ravel(PARAMS[name] - leaf).tolist() for name, leaf in params.items()}


def test_lars_scales_gradient_and_decay_to_the_kernel():
    # u = (1.5, 4) is 4.2720019 long, the kernel 3; the bias has plain momentum.
    found = first_step("lars", weight_decay=0.5, trust_coefficient=1.0)
    assert found["kernel"] == pytest.approx([0.105337, 0.2808988], rel=1e-5)
    assert found["bias"] == pytest.approx([0.2], rel=1e-5)


def test_lamb_scales_adam_and_decay_to_the_kernel():
    # Adam's first direction is (0, 1), u = (1.5, 1) is 1.8027756 long; the bias has Adam's step.
    found = first_step("lamb", weight_decay=0.5)
    assert found["kernel"] == pytest.approx([0.2496151, 0.1664101], rel=1e-5)
    assert found["bias"] == pytest.approx([0.1], rel=1e-5)
