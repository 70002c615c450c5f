"""Models as configs name them."""

from functools import partial

import jax
import numpy as np
import pytest
from refusals import refused

from cnn_lab.config import ExperimentConfig, ModelConfig, TransferConfig
from cnn_lab.core.errors import ConfigError
from cnn_lab.experiment.network import make_model


def config(name: str, rate: float | None) -> ExperimentConfig:
    return ExperimentConfig(model=ModelConfig(name=name), transfer=TransferConfig(dropout=rate))


def test_dropout_before_the_head_acts_in_training_alone(staged_model):
    images = jax.random.normal(jax.random.key(0), (4, 8, 8, 1))
    plain, dropping = (make_model(config("staged", rate), 10) for rate in (None, 0.5))
    variables = jax.jit(partial(plain.init, train=False))(jax.random.key(1), images)
    np.testing.assert_array_equal(
        *(jax.jit(partial(m.apply, train=False))(variables, images) for m in (plain, dropping))
    )

    @partial(jax.jit, static_argnums=0)
    def trained(model, seed):
        key = {"dropout": jax.random.key(seed)}
        return model.apply(variables, images, train=True, rngs=key, mutable=["batch_stats"])[0]

    np.testing.assert_array_equal(trained(plain, 0), trained(plain, 1))
    assert np.abs(trained(dropping, 0) - trained(dropping, 1)).max() > 1e-3
    # It is the features that are dropped: the weights alone decide about what is left of them.
    seeds = jax.numpy.arange(400)
    many = jax.vmap(lambda seed: trained(dropping, seed))(seeds)
    np.testing.assert_allclose(many.mean(axis=0), trained(plain, 0), atol=0.15)


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("resnet20", "dropout_rate"),
        ("lenet5", "input_dropout_rate"),
        ("vgg11", "input_dropout_rate"),
        ("squeezenet1_1", "dropout_rate"),
        ("mobilenet_v2", "dropout_rate"),
    ],
)
def test_every_head_has_a_place_for_it(name, field):
    assert getattr(make_model(config(name, 0.3), 5).head, field) == 0.3
    own = make_model(config(name, None), 5).head
    assert getattr(own, field) == getattr(
        make_model(ExperimentConfig(model=ModelConfig(name=name)), 5).head, field
    )


def test_a_model_without_a_place_for_it_is_told():
    with refused(ConfigError, where="config.transfer.dropout", found=0.3):
        make_model(config("unet", 0.3), 2)
