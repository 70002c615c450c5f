"""Which parameters Muon trains, and what it makes of their gradients."""

import descents
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from descents import make

from cnn_lab.core import trees
from cnn_lab.core.errors import ConfigError

KERNELS = {f"backbone/conv{n}d/kernel" for n in (1, 2, 3)}


def updates_of(optimizer, params):
    return jax.jit(lambda p: optimizer.update(p, optimizer.init(p), p)[0])(params)


def first_updates(shape: tuple[int, ...], **options) -> np.ndarray:
    params = {"kernel": jax.random.normal(jax.random.key(0), shape)}
    updates = updates_of(make("muon", 1.0, **options), params)
    return -np.asarray(trees.flatten(updates)["kernel"])


def trained_by_adam(**options) -> set[str]:
    state = make("muon", 0.1, **options).init(descents.convnet_params())
    paths = [path for path in trees.flatten(state) if "/nu/" in path]
    return {path.split("/nu/")[1] for path in paths}


@pytest.mark.parametrize(
    ("shape", "scale"),
    [((8, 3), 1), ((3, 4, 6), 1), ((3, 3, 2, 4), 1), ((1, 1, 2, 8), 2), ((2, 2, 2, 1, 32), 2)],
)
def test_kernels_of_all_axes_take_orthogonal_steps(shape, scale):
    # Five iterations bring singular values to between 0.68 and 1.13.
    matrix = first_updates(shape).reshape(-1, shape[-1])
    singular_values = np.linalg.svd(matrix, compute_uv=False) / scale
    assert len(singular_values) > 1
    assert 0.65 < singular_values.min() <= singular_values.max() < 1.25


def test_a_convolution_is_the_matrix_of_its_incoming_weights_by_units():
    random = np.random.default_rng(0)
    kernel = jnp.asarray(random.normal(size=(3, 3, 2, 4)), jnp.float32)
    found = []
    for params in ({"kernel": kernel}, {"kernel": kernel.reshape(18, 4)}):
        updates = updates_of(make("muon", 1.0), params)
        found.append(np.asarray(trees.flatten(updates)["kernel"]).reshape(18, 4))
    np.testing.assert_allclose(*found, rtol=0, atol=1e-6)


def test_adam_trains_vectors_and_the_last_layer():
    everything = set(trees.flatten(descents.convnet_params()))
    assert trained_by_adam() == everything - KERNELS
    assert "head/output/kernel" in trained_by_adam()
    assert trained_by_adam(adam_layers=("conv2d",)) == everything - (
        KERNELS - {"backbone/conv2d/kernel"}
    )


def test_the_rate_of_adam_is_a_fraction_of_muons():
    params = descents.convnet_params()
    updates = trees.flatten(updates_of(make("muon", 0.1, adam_fraction=0.5), params))
    for path in set(updates) - KERNELS:  # Adam's first step is its rate
        np.testing.assert_allclose(updates[path], -0.05, rtol=1e-5)


def test_a_layer_for_adam_that_is_not_there_is_answered_with_the_nearest():
    with pytest.raises(ConfigError) as caught:
        trained_by_adam(adam_layers=("conv4d",))
    assert caught.value.where == "config.optim.options.adam_layers"
    assert caught.value.found == "conv4d"
    assert caught.value.nearest[0].startswith("conv")


def test_its_adam_has_no_momentum_of_nesterovs():
    # Second step of Adam along a gradient of 1 and 0.5, worked out as for adam.
    params = {"bias": jnp.zeros((1,))}
    optimizer = make("muon", 1.0, adam_fraction=1.0, b1=0.9, b2=0.999)
    _, state = optimizer.update({"bias": jnp.ones((1,))}, optimizer.init(params), params)
    updates, _ = optimizer.update({"bias": jnp.full((1,), 0.5)}, state, params)
    # (0.09 + 0.05) / 0.19 / sqrt((0.000999 + 0.00025) / 0.001999)
    assert trees.flatten(updates)["bias"].item() == pytest.approx(-0.9321819, rel=1e-4)
