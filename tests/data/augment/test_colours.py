"""Brightness, contrast, saturation, hue, grey and RandAugment, against PIL and formulas."""

import colorsys
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from cnn_lab.data.augment import colour, geometry, randaugment
from cnn_lab.data.augment.compose import make_augment
from cnn_lab.data.augment.draws import draw
from cnn_lab.data.augment.recipes import Augmentation

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (6, 9, 7, 3), dtype=np.uint8)
FACTORS = np.array([0.0, 0.4, 1.0, 1.3, 1.9, 0.7], np.float32)
PIL = {
    "brightness": ImageEnhance.Brightness,
    "contrast": ImageEnhance.Contrast,
    "saturation": ImageEnhance.Color,
}


def changed(name: str, factors, images=IMAGES) -> np.ndarray:
    planes = colour.CHANGES[name](geometry.to_planes(jnp.asarray(images)), jnp.asarray(factors))
    return np.asarray(geometry.to_images(planes))


@pytest.mark.parametrize("name", PIL)
def test_blends_are_those_of_pil(name):
    found = changed(name, FACTORS)
    for image, new, factor in zip(IMAGES, found, FACTORS, strict=True):
        expected = np.asarray(PIL[name](Image.fromarray(image)).enhance(float(factor)))
        assert np.abs(new - expected).max() < 1.6  # PIL rounds its greys, then cuts fractions off
    assert np.array_equal(found[2], IMAGES[2])  # factor 1


def test_blends_by_hand():
    images = np.zeros((1, 1, 2, 3), np.uint8)
    images[0, 0] = [[100, 0, 50], [200, 200, 200]]
    half = np.array([0.5], np.float32)
    assert np.allclose(changed("brightness", half, images)[0, 0, 0], [50, 0, 25])
    assert np.allclose(changed("brightness", 4 * half, images)[0, 0, 1], [255] * 3)
    mean = (0.299 * 100 + 0.114 * 50 + 200) / 2
    assert np.allclose(
        changed("contrast", half, images)[0, 0, 0], (np.array([100, 0, 50]) + mean) / 2
    )
    grey = 0.299 * 100 + 0.114 * 50
    assert np.allclose(
        changed("saturation", half, images)[0, 0, 0], (np.array([100, 0, 50]) + grey) / 2
    )
    assert np.allclose(changed("grey", 2 * half, images)[0, 0, 0], [grey] * 3)
    assert np.array_equal(changed("grey", 0 * half, images), images)


def test_hues_turn_as_in_hsv():
    turns = np.array([0.0, 0.1, -0.3, 0.5, 1 / 3, -0.05], np.float32)
    found = changed("hue", turns)
    for image, new, turn in zip(IMAGES, found, turns, strict=True):
        for old, got in zip(image.reshape(-1, 3), new.reshape(-1, 3), strict=True):
            hue, saturation, value = colorsys.rgb_to_hsv(*(old / 255))
            expected = colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value)
            assert np.allclose(got, np.array(expected) * 255, atol=0.01)
    assert np.array_equal(found[0], IMAGES[0])
    assert np.allclose(found[4], IMAGES[4][..., [2, 0, 1]], atol=0.01)  # a third: red is green


def test_factors_are_drawn_from_the_range_asked_for():
    grey = np.full((3000, 1, 1, 1), 100, np.uint8)
    augment = make_augment(Augmentation(brightness=0.4), (1, 1, 1), 10)
    found, _ = jax.jit(augment)(jax.random.key(0), grey, np.zeros(3000, np.int32))
    assert 60 <= found.min() < 61
    assert 139 < found.max() <= 140
    assert abs(found.mean() - 100) < 4 * 40 / np.sqrt(3 * 3000)


def test_greys_are_drawn_as_often_as_asked_for():
    images = np.broadcast_to(IMAGES[:1, :2, :2], (2000, 2, 2, 3))
    augment = make_augment(Augmentation(grayscale=0.2), (2, 2, 3), 10)
    found = np.asarray(jax.jit(augment)(jax.random.key(0), images, np.zeros(2000, np.int32))[0])
    lost = np.ptp(found, axis=-1).max((1, 2)) < 1e-3
    assert (lost ^ (found == images).all((1, 2, 3))).all()
    assert abs(lost.mean() - 0.2) < 4 * np.sqrt(0.16 / 2000)


def test_colour_is_left_out_where_there_is_none():
    augment = make_augment(Augmentation(saturation=0.5, hue=0.2, grayscale=1.0), (9, 7, 1), 10)
    images = IMAGES[..., :1]
    found, _ = augment(jax.random.key(0), jnp.asarray(images), jnp.zeros(6, jnp.int32))
    assert found.dtype == jnp.uint8
    assert np.array_equal(found, images)


def only(member: str, sign: float, magnitude: float, images=IMAGES) -> np.ndarray:
    """The images after one operation of RandAugment, the same for all."""
    return np.asarray(toned(words(member, sign), images, magnitude))


@functools.partial(jax.jit, static_argnames="magnitude")
def toned(values, images, magnitude: float):
    planes = geometry.to_planes(images)
    return geometry.to_images(randaugment.apply_tones(drawn(values), magnitude, planes))


def fixed(member: str, sign: float) -> randaugment.Operation:
    """An operation of which every image drew `member`."""
    return drawn(words(member, sign))


def drawn(values) -> randaugment.Operation:
    return randaugment.operations(Augmentation(randaugment_ops=1), values, 3)[0]


def words(member: str, sign: float) -> dict[str, jax.Array]:
    """What makes every image draw `member`."""
    names = drawn(draw(jax.random.key(0), 6, 1)).members
    return {
        "member0": jnp.full(6, (names.index(member) + 0.5) / len(names)),
        "sign0": jnp.full(6, 0.25 if sign < 0 else 0.75),
    }


@pytest.mark.parametrize("sign", [-1.0, 1.0])
@pytest.mark.parametrize("member", [*PIL, "sharpness"])
def test_randaugment_blends_as_pil_does(member, sign):
    found = only(member, sign, 20.0)
    kind = {**PIL, "sharpness": ImageEnhance.Sharpness}[member]
    for image, new in zip(IMAGES, found, strict=True):
        expected = np.asarray(kind(Image.fromarray(image)).enhance(1 + sign * 0.6))
        assert np.abs(new - expected).max() < 2.1
    assert np.abs(found - IMAGES).max() > 20


@pytest.mark.parametrize(
    ("member", "expected"),
    [
        ("autocontrast", ImageOps.autocontrast),
        ("posterize", lambda image: ImageOps.posterize(image, 5)),  # round(4 * 20 / 30) bits lost
        ("solarize", lambda image: ImageOps.solarize(image, 85)),
    ],
)
def test_randaugment_changes_tones_as_pil_does(member, expected):
    images = IMAGES // 2 + 40
    found = only(member, 1.0, 20.0, images)
    for image, new in zip(images, found, strict=True):
        assert np.abs(new - np.asarray(expected(Image.fromarray(image)))).max() < 1.01
    assert np.abs(found - images).max() > 5


def test_randaugment_leaves_alone_what_drew_something_else():
    for member in ("identity", *randaugment.GEOMETRIC):
        assert np.array_equal(only(member, 1.0, 30.0), IMAGES)
    for member in ("identity", *randaugment.TONES):
        to_old = randaugment.operation_map(fixed(member, 1.0), 30.0, 9, 7)
        assert np.array_equal([np.broadcast_to(v, 6)[0] for v in to_old], [1, 0, 0, 0, 1, 0])


def test_randaugment_moves_as_far_as_torchvision():
    def to_old(member, sign=1.0):
        return [float(np.broadcast_to(v, 6)[0]) for v in
                randaugment.operation_map(fixed(member, sign), 15.0, 9, 7)]  # fmt: skip

    assert np.allclose(to_old("rotate")[3], np.sin(np.deg2rad(15)))
    assert np.allclose(to_old("shear_x", -1.0), [1, -0.15, 0, 0, 1, 0])
    assert np.allclose(to_old("shear_y"), [1, 0, 0, 0.15, 1, 0])
    assert np.allclose(to_old("translate_x"), [1, 0, -7 * 75 / 331, 0, 1, 0])
    assert np.allclose(to_old("translate_y", -1.0), [1, 0, 0, 0, 1, 9 * 75 / 331])


@pytest.mark.parametrize("num_ops", [1, 2, 3])
def test_randaugment_draws_n_operations_evenly(num_ops):
    values = draw(jax.random.key(0), 4000, num_ops)
    drawn = randaugment.operations(Augmentation(randaugment_ops=num_ops), values, 3)
    assert len(drawn) == num_ops
    shares = np.array([[one(name).mean() for name in one.members] for one in drawn])
    assert len(drawn[0].members) == 13
    assert np.allclose(shares.sum(1), 1)
    assert np.abs(shares - 1 / 13).max() < 4.5 * np.sqrt(1 / 13 / 4000)
    # what one operation is says nothing about the next
    if num_ops > 1:
        both = (drawn[0]("rotate") & drawn[1]("rotate")).mean()
        assert abs(both - 1 / 169) < 4 * np.sqrt(1 / 169 / 4000)


def test_randaugment_applies_one_operation_after_another():
    augment = make_augment(
        Augmentation(randaugment_ops=2, randaugment_magnitude=20.0), (9, 7, 3), 2
    )
    images = np.repeat(IMAGES[:1], 600, axis=0)
    key = jax.random.key(0)
    found = np.asarray(jax.jit(augment)(key, images, np.zeros(600, np.int32))[0])
    first, second = randaugment.operations(Augmentation(randaugment_ops=2), draw(key, 600, 2), 3)
    chosen = np.flatnonzero(first("solarize") & second("posterize"))
    assert len(chosen) > 0
    image = ImageOps.posterize(ImageOps.solarize(Image.fromarray(IMAGES[0]), 85), 5)
    assert np.array_equal(found[chosen], np.repeat(np.asarray(image)[None], len(chosen), 0))
    neither = np.flatnonzero(first("identity") & second("identity"))
    assert np.array_equal(found[neither], images[neither])
