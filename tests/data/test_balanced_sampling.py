"""Balanced sampling: every class equally often, as a pure function of seed and step."""

import numpy as np
import pytest

from cnn_lab.data.sampler import Sampler

CLASSES = np.array([0] * 70 + [1] * 20 + [2] * 10)
INDICES = np.arange(500, 600)


def epoch_of(sampler: Sampler, epoch: int) -> np.ndarray:
    """Source positions of an epoch, what fills up its last batch left out."""
    steps = sampler.steps_per_epoch
    positions, weights = sampler.batches(epoch * steps, steps)
    return positions[weights > 0]


@pytest.mark.parametrize("batch_size", [1, 7, 100])
def test_an_epoch_is_as_long_and_holds_each_class_equally_often(batch_size):
    sampler = Sampler(INDICES, batch_size, 3, CLASSES)
    for epoch in range(4):
        positions = epoch_of(sampler, epoch)
        assert len(positions) == 100
        counts = np.bincount(CLASSES[positions - 500])
        assert sorted(counts.tolist()) == [33, 33, 34]


def test_small_classes_come_repeatedly_and_of_large_ones_each_time_another_part():
    sampler = Sampler(INDICES, 10, 0, CLASSES)
    times = np.bincount(
        np.concatenate([epoch_of(sampler, e) for e in range(40)]) - 500, minlength=100
    )
    per_epoch = np.bincount(epoch_of(sampler, 0) - 500, minlength=100)
    assert set(per_epoch[90:].tolist()) <= {3, 4}  # 33 or 34 of ten
    assert set(per_epoch[70:90].tolist()) <= {1, 2}
    assert set(per_epoch[:70].tolist()) <= {0, 1}
    assert times[:70].min() > 0
    assert set(epoch_of(sampler, 0)) != set(epoch_of(sampler, 1))


def test_the_order_depends_on_seed_and_step_alone():
    one, same, other = (Sampler(INDICES, 8, seed, CLASSES) for seed in (1, 1, 2))
    whole = one.batches(0, 30)[0]
    np.testing.assert_array_equal(np.concatenate([same.batches(s, 1)[0] for s in range(30)]), whole)
    assert (other.batches(0, 30)[0] != whole).any()
    # Classes are mixed within the epoch.
    assert len(set(CLASSES[whole[0] - 500])) > 1


def test_equal_classes_are_all_shown_once():
    classes = np.arange(100) % 5
    for epoch in range(2):
        positions = epoch_of(Sampler(INDICES, 10, 0, classes), epoch)
        np.testing.assert_array_equal(np.sort(positions), INDICES)
