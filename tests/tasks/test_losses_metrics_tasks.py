"""Losses, metrics and tasks, on values worked out by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import refused

from cnn_lab.core.errors import ConfigError
from cnn_lab.tasks.classification import classification
from cnn_lab.tasks.losses import (
    LOSSES,
    cross_entropy,
    focal,
    hinge,
    make_loss,
    squared_error,
)
from cnn_lab.tasks.metrics import accuracy, weighted_pairs
from cnn_lab.tasks.task import TASKS

LABELS = jnp.array([0, 2], jnp.int32)
OF_CLASSES = [name for name, loss in LOSSES.items() if loss.target == "class"]
OF_NUMBERS = [name for name, loss in LOSSES.items() if loss.target == "numbers"]


def test_cross_entropy_of_uniform_logits_is_log_k():
    found = cross_entropy(jnp.full((2, 7), 3.0), LABELS)
    np.testing.assert_allclose(found, math.log(7), rtol=3e-7)  # two roundings in float32


def test_cross_entropy_by_hand():
    logits = jnp.log(jnp.array([[1.0, 2.0, 5.0], [1.0, 2.0, 5.0]]))
    wanted = [math.log(8), math.log(8 / 5)]
    np.testing.assert_allclose(cross_entropy(logits, LABELS), wanted, rtol=0, atol=5e-7)


def test_cross_entropy_of_huge_logits_is_finite_and_its_gradient_too():
    logits = jnp.array([[1e4, -1e4, 0.0], [1e4, -1e4, 0.0]])
    assert cross_entropy(logits, LABELS).tolist() == [0.0, 1e4]
    gradient = jax.grad(lambda x: cross_entropy(x, LABELS).sum())(logits)
    assert gradient.tolist() == [[0, 0, 0], [1, 0, -1]]


def test_squared_error_by_hand():
    outputs = jnp.array([[1.0, 0.0, 0.0], [0.5, -1.0, 3.0]])
    assert squared_error(outputs, LABELS).tolist() == [0.0, 0.5 * (0.25 + 1 + 4)]
    gradient = jax.grad(lambda x: squared_error(x, LABELS).sum())(outputs)
    assert gradient.tolist() == [[0, 0, 0], [0.5, -1.0, 2.0]]


def test_label_smoothing_by_hand():
    # Shares 0.1/3 + 0.9 of the label, 0.1/3 of the others (smoothing 0.1, three classes).
    logits = jnp.log(jnp.array([[1.0, 2.0, 5.0]]) / 8)
    wanted = -(0.1 / 3 * math.log(1 / 8) + 0.1 / 3 * math.log(2 / 8))
    wanted -= (0.9 + 0.1 / 3) * math.log(5 / 8)
    found = cross_entropy(logits, jnp.array([2], jnp.int32), label_smoothing=0.1)
    np.testing.assert_allclose(found, [wanted], rtol=1e-6)


def test_hinge_by_hand():
    # Scores and losses of the cat and the frog in Stanford's CS231n lecture on losses.
    scores = jnp.array([[3.2, 5.1, -1.7], [2.2, 2.5, -3.1]])
    found = hinge(scores, jnp.array([0, 2], jnp.int32))
    np.testing.assert_allclose(found, [2.9, 12.9], rtol=1e-6)
    gradient = jax.grad(lambda x: hinge(x, jnp.array([0, 2], jnp.int32)).sum())(scores)
    assert gradient.tolist() == [[-1, 1, 0], [1, 1, -2]]
    assert hinge(scores, jnp.array([1, 0], jnp.int32), margin=0.25).tolist() == [
        0.0,
        pytest.approx(0.55, rel=1e-6),
    ]


def test_focal_by_hand():
    logits = jnp.log(jnp.array([[1.0, 2.0, 5.0], [1.0, 2.0, 5.0]]))
    wanted = [-((7 / 8) ** 2) * math.log(1 / 8), -((3 / 8) ** 2) * math.log(5 / 8)]
    np.testing.assert_allclose(focal(logits, LABELS), wanted, rtol=1e-6)
    np.testing.assert_allclose(
        focal(logits, LABELS, gamma=0.0), cross_entropy(logits, LABELS), 1e-6
    )


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_is_finite_where_the_answer_is_certain(gamma):
    logits = jnp.array([[200.0, 0.0, 0.0], [200.0, 0.0, 0.0]])
    value, gradient = jax.value_and_grad(lambda x: focal(x, LABELS, gamma).sum())(logits)
    assert float(value) == pytest.approx(200)
    assert bool(jnp.isfinite(gradient).all())


@pytest.mark.parametrize("name", [n for n in OF_CLASSES if not LOSSES[n].needs_one_class])
def test_whole_shares_are_classes(name):
    logits = jax.random.normal(jax.random.key(0), (2, 3))
    shares = jnp.eye(3)[LABELS]
    # Sums over classes in another order.
    np.testing.assert_allclose(
        LOSSES[name].function(logits, shares), LOSSES[name].function(logits, LABELS), rtol=1e-6
    )


def test_mixed_cross_entropy_is_the_mix_of_both():
    logits = jax.random.normal(jax.random.key(0), (2, 3))
    other = jnp.array([1, 1], jnp.int32)
    mixed = cross_entropy(logits, 0.7 * jnp.eye(3)[LABELS] + 0.3 * jnp.eye(3)[other])
    wanted = 0.7 * cross_entropy(logits, LABELS) + 0.3 * cross_entropy(logits, other)
    np.testing.assert_allclose(mixed, wanted, rtol=1e-6)


def test_hinge_refuses_mixed_images():
    with refused(ConfigError, where="config.task.loss", found="hinge"):
        hinge(jnp.ones((2, 3)), jnp.ones((2, 3)) / 3)


@pytest.mark.parametrize("name", OF_CLASSES)
def test_class_weights_are_factors_of_the_examples_losses(name):
    logits = jax.random.normal(jax.random.key(0), (2, 3))
    weighted = make_loss(name, {}, (0.5, 7.0, 3.0))(logits, LABELS)
    np.testing.assert_allclose(
        weighted, LOSSES[name].function(logits, LABELS) * jnp.array([0.5, 3.0])
    )


def test_class_weights_of_mixed_images_are_mixed():
    logits, shares = jnp.zeros((1, 2)), jnp.array([[0.25, 0.75]])
    weighted = make_loss("cross_entropy", {}, (4.0, 8.0))(logits, shares)
    np.testing.assert_allclose(weighted, [7 * math.log(2)], rtol=1e-6)


def test_options_of_losses_are_checked():
    smooth = make_loss("cross_entropy", {"label_smoothing": 0.5})
    assert float(smooth(jnp.array([[9.0, 0.0]]), jnp.array([0], jnp.int32))[0]) > 2
    where = "config.task.loss_options"
    with refused(ConfigError, where=where, found="label_smoothing", allowed=["margin"]):
        make_loss("hinge", {"label_smoothing": 0.1})
    with refused(ConfigError, where=f"{where}.label_smoothing", found=1.0):
        make_loss("cross_entropy", {"label_smoothing": 1.0})


@pytest.mark.parametrize("name", OF_CLASSES)
def test_losses_are_per_example_in_float32_and_at_least_zero(name):
    logits = jax.random.normal(jax.random.key(0), (2, 3), jnp.bfloat16)
    losses = LOSSES[name].function(logits, LABELS)
    assert (losses.shape, losses.dtype) == ((2,), jnp.float32)
    assert bool((losses > 0).all())
    alone = jnp.concatenate(
        [LOSSES[name].function(logits[i : i + 1], LABELS[i : i + 1]) for i in (0, 1)]
    )
    np.testing.assert_array_equal(losses, alone)


def test_accuracy_takes_the_first_of_equal_logits():
    logits = jnp.array([[1.0, 3.0, 2.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    assert accuracy(logits, jnp.array([1, 0, 1], jnp.int32)).tolist() == [1.0, 1.0, 0.0]


def test_accuracy_of_mixed_images_is_that_of_the_larger_share():
    logits = jnp.array([[1.0, 3.0], [1.0, 3.0]])
    assert accuracy(logits, jnp.array([[0.4, 0.6], [0.6, 0.4]])).tolist() == [1.0, 0.0]


def test_pairs_are_weighted_sums_and_the_summed_weight():
    values = {"a": jnp.array([1.0, 2.0, 4.0]), "b": jnp.array([0.0, 1.0, 0.0])}
    pairs = weighted_pairs(values, jnp.array([1.0, 0.5, 2.0]))
    assert {name: (float(s), float(n)) for name, (s, n) in pairs.items()} == {
        "a": (10.0, 3.5),
        "b": (0.5, 3.5),
    }


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf, -jnp.inf])
def test_examples_of_weight_zero_are_left_out_whatever_their_value(bad):
    values, weights = jnp.array([1.0, bad, 4.0]), jnp.array([1.0, 0.0, 1.0])
    total, count = weighted_pairs({"a": values}, weights)["a"]
    assert (float(total), float(count)) == (5.0, 2.0)
    gradient = jax.grad(lambda v: weighted_pairs({"a": v}, weights)["a"][0])(values)
    assert gradient.tolist() == [1.0, 0.0, 1.0]


def test_a_bad_value_that_counts_is_not_hidden():
    values = {"a": jnp.array([1.0, jnp.nan])}
    assert math.isnan(float(weighted_pairs(values, jnp.array([1.0, 1e-3]))["a"][0]))


@pytest.mark.parametrize("name", OF_CLASSES)
def test_a_classification_measures_what_it_names(name):
    task = classification(name)
    logits = jnp.array([[2.0, 0.0, 1.0], [2.0, 0.0, 1.0]])
    metrics = task.metrics(logits, {"label": LABELS})
    assert dict(task.better) == {"loss": "min", "accuracy": "max"}
    assert metrics.keys() == task.better.keys()
    np.testing.assert_array_equal(metrics["loss"], LOSSES[name].function(logits, LABELS))
    np.testing.assert_array_equal(metrics["loss"], task.losses(logits, {"label": LABELS}))
    assert metrics["accuracy"].tolist() == [1.0, 0.0]


def test_tasks_and_losses_are_found_by_name():
    assert list(TASKS) == ["classification", "regression"]
    assert type(classification("hinge")) is TASKS["classification"]
    fields = {"where": "config.task.loss", "found": "crossentropy"}
    with refused(ConfigError, **fields, nearest=("cross_entropy",)):
        classification("crossentropy")
