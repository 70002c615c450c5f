"""Regression: its losses, metrics and predictions, held to scikit-learn and to values by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import refused
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

from cnn_lab.config import TaskConfig
from cnn_lab.core.errors import ConfigError
from cnn_lab.core.targets import TargetSpec
from cnn_lab.tasks.losses import LOSSES, huber, mae, make_loss, mse
from cnn_lab.tasks.metrics import example_weights
from cnn_lab.tasks.regression import NumberPredictions, Regression

TARGET = TargetSpec("numbers", ("weight", "age"))
TRAINING = np.array([[1000.0, 3.0], [1400.0, 5.0], [1200.0, 10.0]], np.float32)
LABELS = np.array([[1100.0, 4.0], [1300.0, 9.0], [1210.0, 2.0], [900.0, 7.0]], np.float32)


def regression(**fields) -> Regression:
    config = TaskConfig(**fields)
    measured = Regression.measure(config, TARGET, TRAINING)
    return Regression(config, TARGET, measured, **config.options)


def test_losses_by_hand():
    outputs, targets = jnp.array([[1.0, 2.0], [0.0, 0.0]]), jnp.array([[1.0, 5.0], [0.5, -0.5]])
    assert mse(outputs, targets).tolist() == [9 / 2, 1 / 4]  # without the half
    assert mae(outputs, targets).tolist() == [1.5, 0.5]
    assert huber(outputs, targets, delta=2.0).tolist() == [(3 * 2 - 2) / 2, 1 / 8]


@pytest.mark.parametrize("name", [n for n, loss in LOSSES.items() if loss.target == "numbers"])
def test_losses_are_float32_and_each_examples_own(name):
    outputs = jax.random.normal(jax.random.key(0), (4, 2), jnp.bfloat16)
    targets = jnp.ones((4, 2))
    losses = LOSSES[name].function(outputs, targets)
    assert (losses.shape, losses.dtype) == ((4,), jnp.float32)
    alone = LOSSES[name].function(outputs[2:3], targets[2:3])
    np.testing.assert_array_equal(losses[2:3], alone)


@pytest.mark.parametrize("standardize", [True, False])
def test_metrics_are_those_of_scikit_learn_in_the_unit_of_the_data(standardize):
    task = regression(options={"standardize": standardize})
    outputs = jax.random.normal(jax.random.key(1), (4, 2)) * (1.0 if standardize else 500.0)
    predicted = task.predictions(np.asarray(outputs)).values
    values = task.metrics(outputs, {"label": jnp.asarray(LABELS)})
    assert all(each.shape == (4,) for each in values.values())
    found = task.summarize({name: float(each.mean()) for name, each in values.items()})
    assert list(found) == ["loss", "mae", "rmse", "r2"]
    assert set(found) == set(task.better)
    for name, wanted in {
        "mae": mean_absolute_error(LABELS, predicted),
        "rmse": root_mean_squared_error(LABELS, predicted),
        "r2": r2_score(LABELS, predicted),
    }.items():
        assert found[name] == pytest.approx(wanted, rel=2e-5), name


def test_the_default_loss_counts_numbers_of_any_unit_alike():
    assert next(iter(Regression.better.items())) == ("loss", "min")
    task = regression()
    units = jnp.asarray(TRAINING.std(0))
    for number in (0, 1):  # an error of one deviation in either number
        labels = jnp.asarray(LABELS).at[:, number].add(units[number])
        outputs = (jnp.asarray(LABELS) - jnp.asarray(TRAINING.mean(0)[None])) / units[None]
        losses = task.losses(outputs, {"label": labels})
        np.testing.assert_allclose(losses, 0.5, rtol=1e-4)  # 1 of two numbers


def test_what_is_learned_has_mean_0_and_deviation_1():
    task = regression()
    values = task.metrics(jnp.zeros((3, 2)), {"label": jnp.asarray(TRAINING)})
    np.testing.assert_allclose(values["loss"].mean(), 1.0, rtol=1e-6)
    np.testing.assert_allclose(
        task.predictions(np.zeros((1, 2))).values, TRAINING.mean(0)[None], rtol=1e-6
    )


def test_numbers_that_are_all_the_same_are_no_division_by_zero():
    target, labels = TargetSpec("numbers", ("x",)), np.full((3, 1), 7.0, np.float32)
    task = Regression(TaskConfig(), target, Regression.measure(TaskConfig(), target, labels))
    for output, wanted in ((0.0, 1.0), (2.0, 0.0)):
        values = task.metrics(jnp.full((3, 1), output), {"label": jnp.asarray(labels)})
        means = {name: float(each.mean()) for name, each in values.items()}
        assert task.summarize(means)["r2"] == wanted


def test_names_that_are_not_its_own_are_left_as_they_are():
    task = regression()
    values = task.metrics(jnp.zeros((4, 2)), {"label": jnp.asarray(LABELS)})
    means = {name: float(each.mean()) for name, each in values.items()}
    assert task.summarize({**means, "gradient_norm": 3.0})["gradient_norm"] == 3.0


def test_predictions_are_rows_and_lines():
    found = regression().predictions(np.zeros((2, 2)))
    assert isinstance(found, NumberPredictions)
    assert found.rows()[1] == {"weight": pytest.approx(1200), "age": pytest.approx(6)}
    assert found.describe(3) == ["weight 1200  age 6"] * 2


def test_a_loss_of_classes_and_class_weights_are_refused():
    with refused(
        ConfigError,
        where="config.task.loss",
        found="hinge",
        allowed=["huber", "mae", "mse"],
    ):
        regression(loss="hinge")
    with refused(ConfigError, where="config.task.loss", found="huber"):
        make_loss("huber", {})
    with refused(ConfigError, where="config.task.class_weights", found="balanced"):
        Regression.check(TaskConfig(class_weights="balanced"))


def test_a_loss_of_another_shape_is_refused_by_name():
    @LOSSES.register()
    def total(logits, targets):
        return jnp.sum(logits) + 0 * jnp.sum(targets)

    try:
        loss = make_loss("total", {})
        with refused(ConfigError, where="config.task.loss", found=(), allowed="(2,)"):
            loss(jnp.ones((2, 3)), jnp.array([0, 1]))
    finally:
        del LOSSES["total"]


def test_a_batch_without_weights_counts_every_example_once():
    images = jnp.zeros((3, 2, 2, 1))
    batch = {"image": images, "label": jnp.zeros(3, jnp.int32)}
    assert example_weights(batch).tolist() == [1, 1, 1]
    weights = jnp.array([1.0, 0.0, 2.0])
    assert example_weights({**batch, "weight": weights}) is weights
    where = "The shape of `weight` in a batch"
    with refused(ConfigError, where=where, found=(3, 1)):
        example_weights({**batch, "weight": jnp.ones((3, 1))})
    with refused(ConfigError, where="label", found=["image"]):
        example_weights({"image": images})
    where = "The number of labels in a batch"
    with refused(ConfigError, where=where, found=2, allowed="3, one an image"):
        example_weights({**batch, "label": jnp.zeros(2, jnp.int32)})
