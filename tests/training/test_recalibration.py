"""Statistics of batch normalisation measured anew, at every scale."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import refused

from cnn_lab.core.errors import ConfigError
from cnn_lab.distributed.mesh import make_mesh
from cnn_lab.layers.normalization import BatchNorm
from cnn_lab.training.frozen import apply_in_training
from cnn_lab.training.recalibration import BatchStatsRecalibration

BATCHES = np.random.default_rng(0).normal(size=(6, 32, 4)).astype(np.float32)


class Loader:
    """Stacks of up to four batches of one scale."""

    max_steps = 4

    def __init__(self, scale: float):
        self.device_arrays: Any = {}
        self.batches = BATCHES * np.float32(scale)

    def load(self, first_step: int, num_steps: int) -> Any:
        stack = np.zeros((self.max_steps, *self.batches.shape[1:]), np.float32)
        stack[:num_steps] = self.batches[first_step : first_step + num_steps]
        return {"image": stack}

    def raw_shapes(self) -> Any:
        return jax.eval_shape(lambda: self.load(0, 1))

    def prepare(self, device_arrays: Any, raw_batch: Any, key: Any) -> Any:
        return raw_batch


class Model(nn.Module):
    """Two layers of different momentum, one of them Linen's own."""

    @nn.compact
    def __call__(self, images, *, train: bool):
        images = BatchNorm(train=train, momentum=0.99, name="slow")(images)
        return nn.BatchNorm(not train, momentum=0.5, name="fast")(images)


def recalibrated(model: nn.Module, loader: Any) -> Any:
    variables = dict(model.init(jax.random.key(0), BATCHES[0], train=False))
    recalibration = BatchStatsRecalibration(
        functools.partial(apply_in_training, model),
        loader,
        num_steps=len(BATCHES),
        mesh=make_mesh(1),
    )
    parts = {"params": variables.pop("params"), "collections": variables, "frozen": {}}
    return recalibration(jax.device_put(parts))


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4, 1e8])
def test_the_mean_of_the_batches_statistics_whatever_their_size(scale):
    loader = Loader(scale)
    found = recalibrated(Model(), loader)
    wide = loader.batches.astype(np.float64)
    np.testing.assert_allclose(
        found["slow"]["mean"], wide.mean(1).mean(0), rtol=0, atol=1e-5 * scale
    )
    np.testing.assert_allclose(found["slow"]["var"], wide.var(1).mean(0), rtol=3e-5)
    # What reaches the second layer is normalised already, up to the first one's epsilon.
    variance = wide.var(1)
    expected = (variance / (variance + 1e-5)).mean(0)
    np.testing.assert_allclose(found["fast"]["var"], expected, rtol=3e-5)
    assert jnp.isfinite(found["fast"]["mean"]).all()


def test_a_layer_that_is_applied_twice_weighs_both_of_its_inputs():
    class Shared(nn.Module):
        @nn.compact
        def __call__(self, images, *, train: bool):
            norm = BatchNorm(train=train, momentum=0.5, name="norm")
            return norm(images), norm(images + 1)

    found = recalibrated(Shared(), Loader(1.0))
    # The running mean of a batch is half of its last input's and a quarter of its first one's.
    expected = BATCHES.mean((0, 1)) + (0.5 * 1 + 0.25 * 0) / 0.75
    np.testing.assert_allclose(found["norm"]["mean"], expected, atol=1e-6)


def test_statistics_that_do_not_follow_the_batches_are_refused_by_name():
    class Still(nn.Module):
        @nn.compact
        def __call__(self, images, *, train: bool):
            return nn.BatchNorm(use_running_average=True, name="still")(images)

    with refused(ConfigError, where="still"):
        recalibrated(Still(), Loader(1.0))
