"""Stratified splits: exact sizes, every class in both parts, groups kept whole."""

import numpy as np
import pytest
from refusals import refused

from cnn_lab.core.errors import ConfigError
from cnn_lab.data.subsets import stratified_split

LABELS = np.repeat([0, 1, 2, 3], [700, 200, 95, 5])


@pytest.mark.parametrize("num_validation", [4, 10, 100, 333, 990])
def test_sizes_are_exact_and_every_class_is_in_both_parts(num_validation):
    train, validation = stratified_split(LABELS, num_validation=num_validation, seed=1)
    assert len(validation) == num_validation
    assert train.dtype == validation.dtype == np.int64
    np.testing.assert_array_equal(np.sort(np.concatenate([train, validation])), np.arange(1000))
    assert (np.diff(train) > 0).all()
    assert (np.diff(validation) > 0).all()
    assert set(LABELS[validation]) == set(LABELS[train]) == {0, 1, 2, 3}
    shares = np.bincount(LABELS[validation]) - np.bincount(LABELS) * num_validation / 1000
    # One from the largest remainder, and as many again where a rare class was given its place.
    assert np.abs(shares).max() <= 4


def test_largest_remainders_get_the_spare_places():
    labels = np.repeat([0, 1, 2], [50, 30, 20])
    _, validation = stratified_split(labels, num_validation=11, seed=0)
    assert np.bincount(labels[validation]).tolist() == [6, 3, 2]  # exact shares 5.5, 3.3, 2.2


def test_a_class_of_one_example_stays_in_training():
    labels = np.array([0] * 10 + [1] + [2] * 9)
    train, validation = stratified_split(labels, num_validation=10, seed=0)
    assert len(validation) == 10
    assert 10 in train


def test_the_seed_decides():
    first = stratified_split(LABELS, num_validation=100, seed=3)
    again = stratified_split(LABELS, num_validation=100, seed=3)
    other = stratified_split(LABELS, num_validation=100, seed=4)
    np.testing.assert_array_equal(first[1], again[1])
    assert len(first[1]) == len(other[1]) == 100
    assert set(first[1]) != set(other[1])


def test_a_split_never_changes_between_releases():
    # Recorded once: a checkpoint's validation score means nothing if its split moves.
    _, validation = stratified_split(np.arange(40) % 4, num_validation=8, seed=0)
    assert validation.tolist() == [2, 20, 23, 25, 32, 34, 35, 37]


def test_groups_stay_whole_and_sizes_come_near():
    random = np.random.default_rng(0)
    groups = random.integers(0, 60, 1000)
    labels = (groups + random.integers(0, 2, 1000)) % 4
    train, validation = stratified_split(labels, num_validation=200, seed=5, groups=groups)
    assert not set(groups[train]) & set(groups[validation])
    assert len(train) + len(validation) == 1000
    assert len(validation) == pytest.approx(200, abs=17)  # one group
    expected = np.bincount(labels) * 0.2
    assert np.abs(np.bincount(labels[validation], minlength=4) - expected).max() < 20
    again = stratified_split(labels, num_validation=200, seed=5, groups=groups)
    np.testing.assert_array_equal(validation, again[1])


def test_text_groups_larger_than_the_split_still_leave_both_parts():
    groups = np.array(["anna"] * 6 + ["bert"] * 4)
    train, validation = stratified_split(
        np.zeros(10, np.int32), num_validation=1, seed=0, groups=groups
    )
    assert set(groups[validation]) == {"bert"}
    assert set(groups[train]) == {"anna"}


@pytest.mark.parametrize(
    ("arguments", "where", "found"),
    [
        ({"num_validation": 1000}, "num_validation", 1000),
        ({"num_validation": 0}, "num_validation", 0),
        ({"num_validation": 5, "groups": np.zeros(1000)}, "The number of groups", 1),
        ({"num_validation": 5, "groups": np.zeros(3)}, "The number of groups", 3),
    ],
)
def test_impossible_requests_are_refused(arguments, where, found):
    with refused(ConfigError, where=where, found=found):
        stratified_split(LABELS, seed=0, **arguments)
