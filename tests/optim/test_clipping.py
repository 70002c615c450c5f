"""Gradients at their limits, worked out by hand."""

from typing import Any

import descents
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cnn_lab.core import trees
from cnn_lab.optim.assemble import adaptive_clip


def clipped(clip, gradients, params=None) -> Any:
    return clip.update(gradients, clip.init(gradients), params)[0]


def test_a_global_norm_is_that_of_all_parameters_together():
    gradients = {"kernel": jnp.array([[3.0]]), "bias": jnp.array([4.0])}
    found = clipped(optax.clip_by_global_norm(1.0), gradients)
    assert [found["kernel"].item(), found["bias"].item()] == pytest.approx([0.6, 0.8])
    assert clipped(optax.clip_by_global_norm(5.5), gradients) == gradients


def test_values_are_cut_each_by_itself():
    found = clipped(optax.clip(2.0), {"kernel": jnp.array([[3.0, -1.0, -9.0]])})
    assert found["kernel"].tolist() == [[2.0, -1.0, -2.0]]


def test_adaptive_clipping_goes_by_the_weights_into_each_unit():
    # Norms of the weights of the two units: 5 and 10; of their gradients: 1 and just below.
    params = {"kernel": jnp.array([[[3.0, 6.0], [4.0, 8.0]]])}
    gradients = {"kernel": jnp.array([[[0.0, 0.3], [1.0, 0.9]]])}
    found = clipped(adaptive_clip(0.1), gradients, params)["kernel"]
    np.testing.assert_allclose(found, [[[0.0, 0.3], [0.5, 0.9]]], rtol=1e-6)


def test_a_vector_counts_as_one_unit_and_weights_of_0_as_some():
    params = {"bias": jnp.array([3.0, 4.0]), "kernel": jnp.zeros((2, 1))}
    gradients = {"bias": jnp.array([0.0, 1.0]), "kernel": jnp.array([[3.0], [4.0]])}
    found = clipped(adaptive_clip(0.1, eps=0.01), gradients, params)
    np.testing.assert_allclose(found["bias"], [0.0, 0.5], rtol=1e-6)
    np.testing.assert_allclose(found["kernel"], [[0.0006], [0.0008]], rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_adaptive_clipping_knows_kernels_of_all_axes_and_spares_the_head(dtype):
    params = descents.convnet_params(dtype)
    gradients = jax.tree.map(lambda p: 50 * jnp.ones_like(p), params)
    found = jax.jit(lambda *trees: clipped(adaptive_clip(0.01), *trees))(gradients, params)
    for path, leaf in trees.flatten(found).items():
        expected = 50 if path.startswith("head/") else 0.01  # of weights that are all 1
        np.testing.assert_allclose(np.asarray(leaf, np.float32), expected, rtol=1e-2)
        assert leaf.dtype == dtype
    assert {leaf.ndim for leaf in jax.tree.leaves(found)} == {0, 1, 2, 3, 4, 5}


def test_only_the_head_is_spared_and_not_what_is_called_like_it():
    params = {"header": {"kernel": jnp.ones((1, 1))}, "head": {"kernel": jnp.ones((1, 1))}}
    found = clipped(adaptive_clip(0.1), params, params)
    assert trees.flatten(jax.tree.map(lambda x: round(x.item(), 6), found)) == {
        "head/kernel": 1.0,
        "header/kernel": 0.1,
    }
