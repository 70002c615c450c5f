"""Statistics of batch normalisation measured anew, at every scale."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_lab.distributed.mesh import make_mesh
from cnn_lab.train.frozen import apply_in_training
from cnn_lab.train.recalibration import BatchStatsRecalibration

BATCHES = np.random.default_rng(0).normal(size=(6, 32, 4)).astype(np.float32)


class Loader:
    """Stacks of up to four batches of one scale."""

    max_steps = 4

    def __init__(self, scale: float):
        self.in_memory: Any = {}
        self.batches = BATCHES * np.float32(scale)

    def load(self, first_step: int, num_steps: int) -> Any:
        stack = np.zeros((self.max_steps, *self.batches.shape[1:]), np.float32)
        stack[:num_steps] = self.batches[first_step : first_step + num_steps]
        return {"image": stack}


class Model(nn.Module):
    """Two layers of different momentum."""

    @nn.compact
    def __call__(self, images, *, train: bool):
        for name, momentum in (("slow", 0.99), ("fast", 0.5)):
            images = nn.BatchNorm(not train, momentum=momentum, name=name)(images)
        return images


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4, 1e8])
def test_the_mean_of_the_batches_statistics_whatever_their_size(scale):
    model = Model()
    loader: Any = Loader(scale)
    variables = dict(model.init(jax.random.key(0), BATCHES[0], train=False))
    recalibration = BatchStatsRecalibration(
        functools.partial(apply_in_training, model),
        lambda in_memory, raw_batch, key: raw_batch,  # noqa: ARG005 - as `prepare` is called
        loader,
        jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), loader.load(0, 1)),
        num_steps=len(BATCHES),
        mesh=make_mesh(1),
    )
    parts = {"params": variables.pop("params"), "collections": variables, "frozen": {}}
    found = recalibration(jax.device_put(parts))
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
