"""Erasing, mixup and CutMix: what is covered, and what labels say of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from cnn_lab.data.augment import mixing
from cnn_lab.data.augment.compose import make_augment
from cnn_lab.data.augment.recipes import Augmentation

RANDOM = np.random.default_rng(0)
NUM = 600


def run(images, labels, **options):
    augment = jax.jit(make_augment(Augmentation(**options), images.shape[1:], 7))
    return tuple(np.asarray(v) for v in augment(jax.random.key(0), images, labels))


def test_erasing_covers_one_rectangle_of_noise_of_the_area_and_aspect_asked_for():
    size = 40
    images = RANDOM.integers(0, 256, (NUM, size, size, 3), dtype=np.uint8)
    labels = np.zeros(NUM, np.int32)
    found, same = run(
        images, labels, erasing=0.5, erasing_area=(0.1, 0.3), erasing_aspect=(0.5, 2.0)
    )
    assert np.array_equal(same, labels)
    assert found.dtype == np.uint8
    hidden = (found != images).any(-1)
    chosen = hidden.any((1, 2))
    assert abs(chosen.mean() - 0.5) < 4 * np.sqrt(0.25 / NUM)
    heights, widths = hidden.any(2).sum(1)[chosen], hidden.any(1).sum(1)[chosen]
    areas, aspects = heights * widths / size**2, widths / heights
    assert areas.min() > 0.1 - 0.05  # sides are whole pixels
    assert areas.max() < 0.3 + 0.05
    assert areas.std() > 0.04
    assert aspects.min() > 0.5 * 0.85
    assert aspects.max() < 2.0 * 1.15
    assert abs(np.log(aspects).mean()) < 0.1
    assert hidden[chosen].sum() > 0.99 * (heights * widths).sum()  # all of the rectangle
    noise = found[hidden].astype(np.float64)
    assert abs(noise.mean() - 127.5) < 1
    assert abs(noise.std() - np.sqrt((256**2 - 1) / 12)) < 1
    assert np.abs(np.corrcoef(noise.T) - np.eye(3)).max() < 0.02
    places = hidden[chosen].any(2).argmax(1)
    assert places.min() == 0
    assert (places + heights).max() == size


def numbered(num_examples: int):
    """Images of one value each, the number of the example, and labels that follow it."""
    values = (np.arange(num_examples) % 250).astype(np.uint8)
    images = np.broadcast_to(values[:, None, None, None], (num_examples, 12, 10, 3)).copy()
    return images, (np.arange(num_examples) % 7).astype(np.int32)


@pytest.mark.parametrize("num_examples", [8, 9, 1])
def test_mixup_blends_neighbours_and_labels_alike(num_examples):
    images, labels = numbered(num_examples)
    found, shares = run(images, labels, mixup=1.0)
    number = np.arange(num_examples)
    partner = number ^ 1 if num_examples % 2 == 0 else np.roll(number, 1)
    assert found.dtype == np.float32
    assert shares.dtype == np.float32
    assert np.allclose(shares.sum(1), 1, atol=1e-6)
    one_hot = np.eye(7, dtype=np.float32)
    for i, (image, share) in enumerate(zip(found, shares, strict=True)):
        assert np.ptp(image) == 0
        j = partner[i]
        if i == j:
            assert image[0, 0, 0] == i
            continue
        own = (image[0, 0, 0] - j) / (i - j)
        assert np.allclose(share, own * one_hot[labels[i]] + (1 - own) * one_hot[labels[j]])
    if num_examples > 1:
        assert shares.std() > 0.02


def test_cutmix_pastes_a_rectangle_and_labels_are_its_exact_area():
    images, labels = numbered(NUM)
    found, shares = run(images, labels, cutmix=1.0)
    assert found.dtype == np.uint8
    one_hot = np.eye(7, dtype=np.float32)
    owns = []
    for i, (image, share) in enumerate(zip(found, shares, strict=True)):
        own = np.float32(1) - np.float32((image[..., 0] == images[i ^ 1, 0, 0, 0]).sum()) / 120
        assert set(np.unique(image)) <= {images[i, 0, 0, 0], images[i ^ 1, 0, 0, 0]}
        pasted = image[..., 0] != images[i, 0, 0, 0]
        assert pasted.sum() == pasted.any(0).sum() * pasted.any(1).sum()
        assert np.allclose(share, own * one_hot[labels[i]] + (1 - own) * one_hot[labels[i ^ 1]])
        owns.append(own)
    assert len(set(owns)) > 30
    assert 0.5 < np.mean(owns) < 0.75  # a half, and what the border cuts off


def test_each_image_gets_mixup_or_cutmix_or_nothing():
    images, labels = numbered(NUM)
    found, shares = run(images, labels, mixup=1.0, cutmix=1.0, mix_probability=0.6)
    number = np.arange(NUM) % 250
    two = np.array([len(np.unique(image)) > 1 for image in found])  # CutMix inside the image
    blended = (found % 1 != 0).all((1, 2, 3))
    unchanged = (found == images).all((1, 2, 3))
    assert not (two & blended).any()
    assert abs(blended.mean() - 0.3) < 4 * np.sqrt(0.21 / NUM)
    assert 0.39 < unchanged.mean() < 0.52
    assert np.array_equal(shares[unchanged], np.eye(7, dtype=np.float32)[labels[unchanged]])
    own = shares[np.arange(NUM), labels]
    assert np.allclose(
        found.mean((1, 2, 3)), own * number + (1 - own) * number[np.arange(NUM) ^ 1], atol=1e-3
    )


@pytest.mark.parametrize("alpha", [0.1, 0.2, 1.0, 4.0])
def test_shares_are_beta_distributed(alpha):
    """Moments by formula, and quantiles against draws of another generator."""
    draws = (np.arange(200_000) + 0.5) / 200_000
    found = np.asarray(mixing.beta(jnp.asarray(draws, jnp.float32), alpha), np.float64)
    assert np.all(np.diff(found) >= -1e-6)
    assert abs(found.mean() - 0.5) < 1e-4
    assert abs(found.var() - 1 / (4 * (2 * alpha + 1))) < 2e-4
    fourth = np.mean((found - 0.5) ** 4)
    assert abs(fourth - 3 / (16 * (2 * alpha + 1) * (2 * alpha + 3))) < 1e-4
    others = np.sort(RANDOM.beta(alpha, alpha, 200_000))
    assert np.abs(found - others).max() < 0.02


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0, 8.0, 32.0, 128.0, 1000.0])
def test_shares_have_the_quantiles_of_the_beta_distribution(alpha):
    near = np.arange(1, 2000) * 2.0**-24  # the smallest draws there are
    draws = np.concatenate([near, np.arange(1, 5000) / 5000, 1 - near])
    found = np.asarray(mixing.beta(jnp.asarray(draws, jnp.float32), alpha))
    expected = stats.beta.ppf(draws.astype(np.float32), alpha, alpha)
    np.testing.assert_allclose(found, expected, rtol=0, atol=0 if alpha == 1 else 1e-5)
