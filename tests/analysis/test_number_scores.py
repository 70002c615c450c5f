"""Scores of predicted numbers: of each in its unit, held to scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

from cnn_lab.analysis.regression import NumbersEvaluation, evaluate_numbers

RANDOM = np.random.default_rng(0)
TARGETS = RANDOM.normal(size=(50, 2)) * [1000, 0.1] + [5000, 1]
PREDICTIONS = TARGETS + RANDOM.normal(size=(50, 2)) * [200, 0.01] + [100, -0.02]
MEANS = {"loss": 0.5, "mae": 1.0, "rmse": 2.0, "r2": 0.9}


def evaluated(num_values: int, num_resamples: int = 50) -> NumbersEvaluation:
    return evaluate_numbers(
        PREDICTIONS[:, :num_values],
        TARGETS[:, :num_values],
        ("weight", "length")[:num_values],
        means=MEANS,
        num_resamples=num_resamples,
    )


def test_each_number_is_scored_in_its_unit():
    numbers = evaluated(2).to_json()["numbers"]
    assert [number["name"] for number in numbers] == ["weight", "length"]
    for number, true, found in zip(numbers, TARGETS.T, PREDICTIONS.T, strict=True):
        assert number["mae"] == pytest.approx(mean_absolute_error(true, found))
        assert number["rmse"] == pytest.approx(root_mean_squared_error(true, found))
        assert number["r2"] == pytest.approx(r2_score(true, found))
        assert number["bias"] == pytest.approx((found - true).mean())


def test_figures_that_units_would_mix_are_of_a_single_number_alone():
    several, single = evaluated(2), evaluated(1)
    assert several.metrics == MEANS
    assert set(several.intervals) == {"mae", "rmse"}
    assert list(single.metrics) == [*MEANS, "bias", "error_q50", "error_q90", "error_q99"]
    assert set(single.intervals) == {"mae", "rmse", "bias"}
    errors = np.abs(PREDICTIONS - TARGETS)[:, 0]
    assert single.metrics["error_q90"] == pytest.approx(np.quantile(errors, 0.9))
    assert single.metrics["bias"] == pytest.approx((PREDICTIONS - TARGETS)[:, 0].mean())


def test_a_number_that_never_changes_is_explained_or_not():
    for found, wanted in ((3.0, 1.0), (4.0, 0.0)):
        one = evaluate_numbers(
            np.full((5, 1), found), np.full((5, 1), 3.0), ("x",), means={}, num_resamples=0
        )
        assert one.numbers()[0].r2 == wanted
