"""Where pixels go: flips, shifts, and one interpolation for all the rest."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from cnn_lab.data.augment import draws, geometry
from cnn_lab.data.augment.compose import make_augment
from cnn_lab.data.augment.recipes import Augmentation

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (64, 8, 8, 3), dtype=np.uint8)
LABELS = np.zeros(64, np.int32)
PAD: Any = {"black": "constant", "reflect": "reflect", "edge": "edge"}  # as numpy calls them


def changed(images=IMAGES, seed: int = 0, **options) -> np.ndarray:
    """The images after an augmentation."""
    augment = jax.jit(make_augment(Augmentation(**options), images.shape[1:], 10))
    found, labels = augment(jax.random.key(seed), images, LABELS[: len(images)])
    assert labels.dtype == jnp.int32
    return np.asarray(found)


def sampled(images, to_old: geometry.Map, fill: Any = "black") -> np.ndarray:
    planes = geometry.interpolate(jnp.asarray(images), to_old, None, fill)
    return np.asarray(geometry.to_images(planes))


def test_a_certain_flip_mirrors_every_image_exactly():
    found = changed(flip=1.0)
    assert found.dtype == np.uint8
    assert np.array_equal(found, IMAGES[:, :, ::-1])


def test_a_flip_is_drawn_for_each_image_as_often_as_it_says():
    images = np.repeat(IMAGES[:1], 2000, axis=0)
    augment = jax.jit(make_augment(Augmentation(flip=0.3), (8, 8, 3), 10))
    found = np.asarray(augment(jax.random.key(1), images, np.zeros(2000, np.int32))[0])
    flipped = (found == images[:, :, ::-1]).all((1, 2, 3))
    assert ((found == images).all((1, 2, 3)) ^ flipped).all()
    assert abs(flipped.mean() - 0.3) < 4 * np.sqrt(0.3 * 0.7 / 2000)


@pytest.mark.parametrize("fill", PAD)
def test_a_shift_is_padding_and_cropping(fill):
    found = changed(shift=2, fill=fill)
    assert found.dtype == np.uint8
    padded = np.pad(IMAGES, ((0, 0), (2, 2), (2, 2), (0, 0)), mode=PAD[fill])
    places = []
    for old, new in zip(padded, found, strict=True):
        fits = [
            (y, x)
            for y in range(5)
            for x in range(5)
            if np.array_equal(old[y : y + 8, x : x + 8], new)
        ]
        places += fits[:1]
        assert fits
    assert len(set(places)) > 15  # of 25


def test_shift_and_flip_are_the_same_with_and_without_interpolation():
    exact = changed(flip=0.5, shift=3)
    found = changed(flip=0.5, shift=3, scale=1e-9)
    assert found.dtype == np.float32
    assert np.allclose(found, exact, atol=0.01)


@pytest.mark.parametrize("fill", PAD)
def test_the_map_that_changes_nothing_is_exact(fill):
    assert np.array_equal(sampled(IMAGES, geometry.IDENTITY, fill), IMAGES)


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_turns_by_right_angles(turns):
    found = sampled(IMAGES, geometry.rotate(jnp.float32(turns * np.pi / 2)))
    assert np.allclose(found, np.rot90(IMAGES, turns, (1, 2)), atol=2e-3)


def test_maps_do_what_their_names_say():
    assert np.array_equal(sampled(IMAGES, geometry.flip(-1.0)), IMAGES[:, :, ::-1])
    moved = sampled(IMAGES, geometry.translate(2.0, -1.0))
    assert np.array_equal(moved[:, :7, 2:], IMAGES[:, 1:, :6])
    assert (moved[:, 7] == 0).all()
    assert (moved[:, :, :2] == 0).all()
    half = sampled(IMAGES, geometry.translate(0.5, 0.0))
    pixels = IMAGES.astype(np.float32)
    assert np.array_equal(half[:, :, 1:], (pixels[:, :, 1:] + pixels[:, :, :-1]) / 2)
    double = sampled(IMAGES, geometry.scale(2.0, 1.0))
    assert np.allclose(double[:, :, 3], 0.75 * pixels[:, :, 3] + 0.25 * pixels[:, :, 4])
    slanted = sampled(IMAGES, geometry.shear(1.0), "edge")
    assert np.allclose(slanted[:, 3, 1:], (pixels[:, 3, 1:] + pixels[:, 3, :-1]) / 2)


def test_later_maps_act_on_what_earlier_ones_made():
    first, second = geometry.rotate(jnp.float32(0.3)), geometry.translate(1.0, 2.0)
    x, y = 0.7, -1.1
    between = affine_at(second, x, y)
    together = affine_at(geometry.chain(first, second), x, y)
    assert np.allclose(affine_at(first, *between), together, atol=1e-6)


def affine_at(to_old: geometry.Map, x: float, y: float) -> tuple[float, float]:
    xx, xy, x1, yx, yy, y1 = (float(number) for number in to_old)
    return xx * x + xy * y + x1, yx * x + yy * y + y1


@pytest.mark.parametrize(
    "to_old",
    [
        geometry.rotate(0.35),
        geometry.chain(geometry.scale(1.3, 0.8), geometry.shear(0.2)),
        geometry.chain(geometry.rotate(-1.1), geometry.translate(2.3, -1.6)),
    ],
)
def test_interpolation_is_that_of_pil(to_old):
    image = RANDOM.integers(0, 256, (15, 20, 3), dtype=np.uint8)
    xx, xy, x1, yx, yy, y1 = (float(number) for number in to_old)
    # PIL counts from the outer corner of the first pixel.
    x0, y0 = x1 + 10 - xx * 10 - xy * 7.5, y1 + 7.5 - yx * 10 - yy * 7.5
    expected = Image.fromarray(image).transform(
        (20, 15),
        Image.Transform.AFFINE,
        (xx, xy, x0, yx, yy, y0),
        resample=Image.Resampling.BILINEAR,
    )
    found = sampled(image[None], to_old)[0]
    assert (np.asarray(expected) == 0).all(-1).sum() > 5
    assert np.abs(found - np.asarray(expected)).max() < 1.01  # PIL cuts fractions off


def test_places_outside_are_mirrored_or_repeated():
    row = np.arange(5, dtype=np.uint8)[None, None, :, None] * 10
    for fill in ("reflect", "edge"):
        expected = np.pad(row[0, 0, :, 0], (4, 4), mode=PAD[fill])[:5]
        found = sampled(row, geometry.translate(4.0, 0.0), fill)[0, 0, :, 0]
        assert np.array_equal(found, expected)
    far = sampled(row, geometry.translate(11.0, 0.0), "reflect")[0, 0, :, 0]
    assert np.array_equal(far, [30, 20, 10, 0, 10])  # places -11 to -7, mirrored twice


def test_a_crop_keeps_the_area_and_aspect_asked_for_and_nothing_outside():
    augmentation = Augmentation(crop_area=(0.3, 0.4), crop_aspect=(0.8, 1.25))
    values = draws.draw(jax.random.key(0), 500)
    xx, _, x1, _, yy, y1 = geometry.random_map(augmentation, values, 12, 16)
    area, aspect = np.asarray(xx * yy), np.asarray(xx * 16 / (yy * 12))
    assert area.min() > 0.3 - 1e-6
    assert area.max() < 0.4 + 1e-6
    assert area.std() > 0.02
    assert aspect.min() > 0.8 - 1e-5
    assert aspect.max() < 1.25 + 1e-5
    assert np.all(np.abs(x1) <= (1 - xx) * 8 + 1e-5)
    assert np.all(np.abs(y1) <= (1 - yy) * 6 + 1e-5)
    assert np.abs(x1).max() > 2
    white = np.full((64, 12, 16, 1), 255, np.uint8)
    assert (changed(white, crop_area=(0.1, 1.0), crop_aspect=(0.5, 2.0)) == 255).all()


def test_amplitudes_are_reached_and_not_passed():
    values = draws.draw(jax.random.key(0), 4000)

    def drawn(**options):
        return [np.asarray(v) for v in geometry.random_map(Augmentation(**options), values, 9, 9)]

    turned = np.rad2deg(np.arctan2(drawn(rotation=20.0)[3], drawn(rotation=20.0)[0]))
    slanted = np.rad2deg(np.arctan(drawn(shear=10.0)[1]))
    scaled = np.log(drawn(scale=0.2)[0]) / np.log(1.2)
    stretched = drawn(stretch=0.5)
    ratio = np.log(stretched[4] / stretched[0]) / np.log(1.5)
    assert np.allclose(stretched[0] * stretched[4], 1, atol=1e-5)
    for found, most in (
        (turned, 20),
        (slanted, 10),
        (scaled, 1),
        (ratio, 1),
        (drawn(translate=1.5)[2], 1.5),
        (drawn(translate=1.5)[5], 1.5),
    ):
        assert 0.99 * most < found.max() < 1.0001 * most
        assert -1.0001 * most < found.min() < -0.99 * most
        assert abs(found.std() - most / np.sqrt(3)) < 0.03 * most


@pytest.mark.parametrize("sigma", [0.5, 2.0, 4.0])
def test_an_elastic_field_is_that_of_smoothed_noise(sigma):
    """Deviation and covariance of alpha times a Gaussian filter of even noise from -1 to 1."""
    size = 24
    x, y = geometry.elastic_field(jax.random.key(0), (3000, size, size), 10.0, sigma)
    reach = int(np.ceil(3 * sigma))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    kernel /= kernel.sum()
    for field in (np.asarray(x), np.asarray(y)):
        deviation = 10 / np.sqrt(3) * (kernel**2).sum()
        assert np.allclose(field.std(0), deviation, rtol=0.08)  # everywhere, at the border too
        assert abs(field.std() / deviation - 1) < 0.02
        near = (field[:, 5, 5] * field[:, 5, 7]).mean() / deviation**2
        lag = (kernel[2:] * kernel[:-2]).sum() / (kernel**2).sum()
        assert abs(near - lag) < 0.08
    assert abs(np.corrcoef(np.asarray(x).ravel(), np.asarray(y).ravel())[0, 1]) < 0.02


@pytest.mark.parametrize("length", [1, 2, 7, 28, 33])
def test_the_narrowest_elastic_field_is_as_strong_at_every_pixel(length):
    # Grid points lie on pixels or half way between them, by the length.
    strength = np.linalg.norm(geometry.smoothing(length, sigma=0.5), axis=1)
    kernel = np.exp(-0.5 * (np.arange(-2, 3) / 0.5) ** 2)
    np.testing.assert_allclose(strength, np.linalg.norm(kernel) / kernel.sum(), rtol=1e-12)


def test_elastic_moves_pixels_by_the_field():
    images = np.broadcast_to(np.arange(28, dtype=np.uint8)[None, None, :, None] * 8, (4, 28, 28, 1))
    found = changed(images, elastic_alpha=20.0, fill="edge")
    key = jax.random.fold_in(jax.random.key(0), 1)
    x, _ = geometry.elastic_field(key, (4, 28, 28), 20.0, 4.0)
    expected = np.clip(np.arange(28) + np.asarray(x), 0, 27) * 8
    assert np.allclose(found[..., 0], expected, atol=1e-3)
    assert np.abs(found - images).max() > 4


def test_other_numbers_of_channels_are_moved_too():
    images = RANDOM.integers(0, 256, (4, 6, 7, 5), dtype=np.uint8)
    assert np.array_equal(changed(images, flip=1.0, scale=1e-9).round(), images[:, :, ::-1])
