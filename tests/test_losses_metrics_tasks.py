"""Losses, metrics and tasks, on values worked out by hand."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_lab.core.errors import ConfigError
from cnn_lab.losses import LOSSES, cross_entropy, squared_error
from cnn_lab.metrics import accuracy, weighted_pairs
from cnn_lab.tasks import TASKS, classification

LABELS = jnp.array([0, 2], jnp.int32)


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


@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_per_example_in_float32_and_at_least_zero(name):
    logits = jax.random.normal(jax.random.key(0), (2, 3), jnp.bfloat16)
    losses = LOSSES[name](logits, LABELS)
    assert (losses.shape, losses.dtype) == ((2,), jnp.float32)
    assert bool((losses > 0).all())
    alone = jnp.concatenate([LOSSES[name](logits[i : i + 1], LABELS[i : i + 1]) for i in (0, 1)])
    np.testing.assert_array_equal(losses, alone)


def test_accuracy_takes_the_first_of_equal_logits():
    logits = jnp.array([[1.0, 3.0, 2.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    assert accuracy(logits, jnp.array([1, 0, 1], jnp.int32)).tolist() == [1.0, 1.0, 0.0]


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


@pytest.mark.parametrize("name", LOSSES)
def test_a_classification_measures_what_it_names(name):
    task = classification(name)
    logits = jnp.array([[2.0, 0.0, 1.0], [2.0, 0.0, 1.0]])
    metrics = task.metrics(logits, {"label": LABELS})
    assert dict(task.better) == {"loss": "min", "accuracy": "max"}
    assert metrics.keys() == task.better.keys()
    np.testing.assert_array_equal(metrics["loss"], LOSSES[name](logits, LABELS))
    np.testing.assert_array_equal(metrics["loss"], task.losses(logits, {"label": LABELS}))
    assert metrics["accuracy"].tolist() == [1.0, 0.0]


def test_tasks_and_losses_are_found_by_name():
    assert TASKS["classification"]("cross_entropy") == classification("cross_entropy")
    text = "There is no loss named 'crossentropy'; did you mean cross_entropy?"
    with pytest.raises(ConfigError, match=f"^{re.escape(text)}$"):
        classification("crossentropy")
