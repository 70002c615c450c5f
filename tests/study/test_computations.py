"""The studies that train nothing of the usual kind, against numbers known beforehand."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from cnn_lab.analysis.verdict import values_of
from cnn_lab.study.computations.polynomial import (
    TAUGHT,
    X,
    descent,
    least_squares,
    polynomial,
    ridge,
)
from cnn_lab.study.computations.signal import root_mean_square, signal
from cnn_lab.study.computations.xor import guessed_accuracy, xor


@pytest.mark.parametrize("degree", TAUGHT)
def test_the_coefficients_that_are_taught(degree):
    taught, units = TAUGHT[degree]
    np.testing.assert_array_less(abs(least_squares(degree) - taught), units)


@pytest.mark.parametrize("penalty", [np.exp(-18), 1e-3, 1.0])
def test_the_ridge_solution_has_no_gradient(penalty):
    from cnn_lab.study.computations.polynomial import T

    w, a = ridge(penalty), X[:, None] ** np.arange(10)
    np.testing.assert_allclose(a.T @ (a @ w - T) + penalty * w, 0, atol=1e-12)


def test_gradient_descent_finds_the_ridge_solution():
    np.testing.assert_allclose(descent(1e-3, 20_000), ridge(1e-3), atol=1e-9)


def test_the_polynomials_rows():
    records = polynomial()
    assert values_of(records, "error by degree", ("least squares, training", 9))[0] < 1e-9
    errors = [
        values_of(records, "error by degree", ("least squares, training", d))[0] for d in range(10)
    ]
    assert all(later <= earlier for earlier, later in itertools.pairwise(errors))
    # The fitted curve of degree 9 starts at the first point.
    assert values_of(records, "fit", ("degree 9", 0.0))[0] == pytest.approx(0.349486, abs=1e-6)


def test_xor():
    records = xor(num_seeds=4, num_steps=600)
    for name, most in (("and", 1.0), ("or", 1.0), ("xor", 0.75)):
        accuracies = values_of(records, "accuracy", ("perceptron", name)).values()
        assert len(accuracies) == 4
        assert max(accuracies) <= most
        highest = values_of(records, "highest accuracy", ("perceptron", name))
        assert highest == {0: max(accuracies)}
        learned = values_of(records, "share that learn it", ("perceptron", name))
        assert learned == {0: float(most == 1)}
    assert set(values_of(records, "accuracy", ("perceptron", "and")).values()) == {1.0}
    assert (
        np.mean(list(values_of(records, "accuracy", ("multi-layer perceptron", "xor")).values()))
        > 0.9
    )


def test_equal_outputs_are_a_guess():
    outputs = jnp.array([[1.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    # Right, wrong, and two guesses.
    assert float(guessed_accuracy(outputs, jnp.array([0, 1, 0, 1]))) == 0.5
    assert float(guessed_accuracy(outputs, jnp.array([0, 0, 0, 1]))) == 0.75


def test_what_is_drawn_by_chance_is_not_exact():
    sizes = {"depth": 2, "width": 4, "num_seeds": 1, "num_examples": 4}
    drawn = signal(**sizes, initializers=("normal",), activations=("relu",))
    assert not any(row.exact for row in drawn)
    assert all(row.exact for row in polynomial(num_steps=1))


def test_variances_travel_as_theory_has_it():
    records = signal(depth=6, width=256, num_seeds=3, initializers=("he_normal", "glorot_normal"))

    def mean(measure: str, series: str, layer: int) -> float:
        return float(np.mean(list(values_of(records, measure, (series, layer)).values())))

    # Five layers between; ReLU leaves half of the mean square, forwards and backwards.
    for measure, end, start in (("activation", 6, 1), ("gradient", 1, 6)):
        assert mean(measure, "he_normal, relu", start) == 1
        assert mean(measure, "he_normal, relu", end) == pytest.approx(1, rel=0.35)
        assert mean(measure, "glorot_normal, relu", end) == pytest.approx(0.5**5, rel=0.35)
        assert mean(measure, "glorot_normal, tanh", end) < 1
        assert mean(measure, "glorot_normal, tanh", end) > 0.1


def test_squares_too_small_for_the_number_format_are_measured():
    values = jnp.array([3e-30, -4e-30])  # whose squares are 0 in float32
    assert float(root_mean_square(values)) == pytest.approx(12.5**0.5 * 1e-30)
    assert float(root_mean_square(jnp.zeros(3))) == 0
