"""The nets without convolutions, on what they can and cannot learn."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from refusals import refused

from cnn_lab.config import ExperimentConfig, ModelConfig
from cnn_lab.core.errors import ConfigError
from cnn_lab.experiment.network import make_model
from cnn_lab.models.simple import linear, mlp, perceptron
from cnn_lab.optim.optimizers import OPTIMIZERS
from cnn_lab.tasks.classification import classification
from cnn_lab.training.state import make_init
from cnn_lab.training.step import make_train_step

OPTIONS = "config.model.options"

INPUTS = jnp.array([[0, 0], [0, 1], [1, 0], [1, 1]], jnp.float32).reshape(4, 1, 2, 1)
AND, XOR = jnp.array([0, 0, 0, 1], jnp.int32), jnp.array([0, 1, 1, 0], jnp.int32)


def accuracies(model, loss: str, optimizer: str, rate: float, labels, seed: int) -> np.ndarray:
    """Accuracy on the four points before each of 500 full-batch steps."""
    transformation = OPTIMIZERS[optimizer].make(optax.constant_schedule(rate))
    step = make_train_step(model, classification(loss), transformation)
    batch = {"image": INPUTS, "label": labels, "weight": jnp.ones(4)}
    state = make_init(model, transformation, (1, 2, 1))(jax.random.key(seed))
    run = jax.jit(lambda state: jax.lax.scan(lambda s, _: step(s, batch), state, None, length=500))
    _, metrics = run(state)
    return np.asarray(metrics["accuracy"][0] / metrics["accuracy"][1])


@pytest.mark.parametrize("seed", range(2))
def test_a_perceptron_learns_and_but_never_xor(seed):
    learn = lambda labels: accuracies(perceptron(2), "squared_error", "sgd", 0.1, labels, seed)  # noqa: E731
    assert learn(AND)[-1] == 1.0
    assert learn(XOR).max() <= 0.75  # no line parts three of the points from the fourth's class


def test_a_linear_classifier_never_learns_xor():
    assert accuracies(linear(2), "cross_entropy", "adam", 0.1, XOR, 0).max() <= 0.75


def test_a_multi_layer_perceptron_learns_xor():
    model = mlp(2, hidden=(8,), activation="tanh")
    assert accuracies(model, "cross_entropy", "adam", 0.1, XOR, 0)[-1] == 1.0


def test_the_perceptron_step_is_rosenblatts_rule():
    model, rate = perceptron(2), 0.25
    transformation = OPTIMIZERS["sgd"].make(optax.constant_schedule(rate))
    step = make_train_step(model, classification("squared_error"), transformation)
    state = make_init(model, transformation, (1, 2, 1))(jax.random.key(0))
    old = state.params["head"]["output"]
    x, target = np.array([3.0, -2.0], np.float32), np.array([0.0, 1.0], np.float32)
    fired = (x @ np.asarray(old["kernel"]) + np.asarray(old["bias"]) > 0).astype(np.float32)
    batch = {
        "image": jnp.asarray(x).reshape(1, 1, 2, 1),
        "label": jnp.array([1], jnp.int32),
        "weight": jnp.ones(1),
    }
    new = jax.jit(step)(state, batch)[0].params["head"]["output"]
    # Sums of two products that float32 holds exactly but for the rounding of the sum.
    np.testing.assert_allclose(
        new["kernel"], old["kernel"] + rate * np.outer(x, target - fired), rtol=0, atol=1e-7
    )
    np.testing.assert_allclose(new["bias"], rate * (target - fired), rtol=0, atol=1e-7)


def test_the_maps_and_the_dropout_of_an_mlp():
    model = mlp(10, hidden=(20, 30), dropout_rate=0.5)
    images = jnp.ones((2, 4, 5, 1))
    variables = jax.jit(lambda key: model.init(key, images, train=False))(jax.random.key(0))
    maps: Any = model.apply(variables, images, method=lambda m, x: dict(m.backbone(x, train=False)))
    assert {name: leaf.shape for name, leaf in maps.items()} == {
        "pixels": (2, 20),
        "dense1": (2, 20),
        "dense2": (2, 30),
    }
    rngs = {"dropout": jax.random.key(0)}
    dropped: Any = model.apply(
        variables, images, rngs=rngs, method=lambda m, x: m.backbone(x, train=True)["dense1"]
    )
    kept = maps["dense1"] > 0
    assert set(np.unique(dropped[kept] / maps["dense1"][kept])) == {0.0, 2.0}


def test_an_mlp_drops_weights_of_hidden_layers_in_training_only():
    plain, model = mlp(10, hidden=(20,)), mlp(10, hidden=(20,), drop_connect_rate=0.5)
    images = jax.random.normal(jax.random.key(0), (2, 4, 5, 1))
    variables = plain.init(jax.random.key(0), images, train=False)  # the same paths and shapes
    evaluated: Any = model.apply(variables, images, train=False)
    np.testing.assert_allclose(
        evaluated, jnp.asarray(plain.apply(variables, images, train=False)), atol=1e-6
    )
    trained: Any = model.apply(variables, images, train=True, rngs={"dropout": jax.random.key(1)})
    assert not np.allclose(trained, evaluated, atol=1e-3)


def test_a_hidden_value_of_maxout_is_the_largest_of_its_pieces():
    model = mlp(10, hidden=(7,), pieces=3)
    images = jax.random.normal(jax.random.key(0), (2, 4, 5, 1))
    variables: Any = model.init(jax.random.key(0), images, train=False)
    layer = variables["params"]["backbone"]["dense1"]["pieces_dense"]
    assert layer["kernel"].shape == (20, 21)
    maps: Any = model.apply(variables, images, method=lambda m, x: dict(m.backbone(x, train=False)))
    pieces = images.reshape(2, 20) @ layer["kernel"] + layer["bias"][None]
    np.testing.assert_allclose(maps["dense1"], pieces.reshape(2, 7, 3).max(-1), atol=1e-5)
    with refused(ConfigError, where=f"{OPTIONS}.drop_connect_rate", found=0.5):
        mlp(10, pieces=3, drop_connect_rate=0.5)


def test_a_config_names_a_model_and_its_options():
    config = ExperimentConfig(model=ModelConfig(name="mlp", options={"hidden": [4, 5]}))
    assert make_model(config, 3) == mlp(3, hidden=(4, 5))


@pytest.mark.parametrize(
    ("name", "options", "fields"),
    [
        ("lenet", {}, {"found": "lenet", "nearest": ("lenet5", "alexnet", "googlenet")}),
        ("mlp", {"hiden": (3,)}, {"where": OPTIONS, "found": "hiden", "nearest": ("hidden",)}),
        ("mlp", {"hidden": (0,)}, {"where": f"{OPTIONS}.hidden", "found": (0,)}),
        (
            "linear",
            {"num_classes": 3},
            {"where": OPTIONS, "found": "num_classes", "allowed": ["dtype"]},
        ),
        ("mlp", {"dropout_rate": 1.0}, {"where": f"{OPTIONS}.dropout_rate", "found": 1.0}),
    ],
)
def test_a_wrong_name_or_option_is_refused(name, options, fields):
    with refused(ConfigError, **fields):
        make_model(ExperimentConfig(model=ModelConfig(name=name, options=options)), 10)
