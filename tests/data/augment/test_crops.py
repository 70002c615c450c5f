"""Random resized crops: the draws, and their edges in an image."""

import jax
import numpy as np
import pytest
from PIL import Image

from cnn_lab.data.augment import draws, geometry
from cnn_lab.data.augment.crops import Crop, RandomCrops
from cnn_lab.data.augment.recipes import Augmentation

CROPS = RandomCrops((0.08, 0.9), (0.75, 1.5), seed=3)


def test_a_crop_is_a_function_of_seed_step_and_place_in_the_batch():
    crops = CROPS(7, 16)
    again = RandomCrops((0.08, 0.9), (0.75, 1.5), seed=3)
    assert again(7, 16) == crops
    assert again(7, 5) == crops[:5]  # whatever the rest of the batch is
    others = [*CROPS(8, 16), *RandomCrops((0.08, 0.9), (0.75, 1.5), seed=4)(7, 16)]
    assert len({*crops, *others}) == 48


def test_crops_stay_the_same_on_other_versions():
    """Resuming with another numpy must meet the same crops."""
    (crop,) = CROPS(7, 1)
    expected = (0.1737037264583417, 0.884475149723071, 0.5727726924031978, 0.8363178104915141)
    assert crop == pytest.approx(expected, rel=1e-12)


def test_crops_do_not_follow_the_order_of_the_examples():
    order = np.random.Generator(np.random.Philox(key=(3, 7))).random((64, 4))
    drawn = np.array(RandomCrops((1e-9, 1.0), (1.0, 1.0), seed=3)(7, 64))
    assert np.abs(drawn[:, 0] - order[:, 0]).max() > 0.1
    assert abs(np.corrcoef(drawn[:, 0], order[:, 0])[0, 1]) < 0.5


def test_areas_aspects_and_places_are_spread_evenly():
    """As Szegedy et al. 2015 have it: aspects on a logarithmic scale."""
    random_crops = RandomCrops((0.08, 0.9), (0.75, 1.5), seed=0)
    crops = np.array([crop for step in range(40) for crop in random_crops(step, 500)])
    crops[:, 1] = np.log(crops[:, 1])
    ranges = [(0.08, 0.9), (np.log(0.75), np.log(1.5)), (0, 1), (0, 1)]
    for column, (least, most) in zip(crops.T, ranges, strict=True):
        even = (np.arange(len(column)) + 0.5) / len(column)
        # Kolmogorov and Smirnov's bound, passed by one correct generator in a thousand.
        assert np.abs((np.sort(column) - least) / (most - least) - even).max() < 1.95 / 20_000**0.5
    correlations = np.corrcoef(crops.T) - np.eye(4)
    assert np.abs(correlations).max() < 4 / 20_000**0.5


def test_a_crop_keeps_the_area_and_aspect_drawn_where_they_fit():
    fits = RandomCrops((0.1, 0.4), (0.75, 4 / 3), seed=0)
    found = []
    for crop in fits(0, 200):
        left, top, right, bottom = crop.box(500, 375)
        assert (right - left) * (bottom - top) == pytest.approx(crop.area * 500 * 375)
        assert (right - left) / (bottom - top) == pytest.approx(crop.aspect)
        found.append((left / (500 - right + left), top / (375 - bottom + top)))
    assert np.ptp(found, axis=0).min() > 0.95  # anywhere in the image


@pytest.mark.parametrize("size", [(500, 375), (3, 400), (1, 1), (4000, 3)])
def test_a_crop_never_leaves_the_image(size):
    image = Image.new("L", size, 200)
    width, height = size
    corners = [Crop(1.0, width / height, 1.0, 1.0), Crop(1e-6, 1.0, 1.0, 1.0)]
    for crop in [*RandomCrops((0.01, 1.0), (0.2, 5.0), seed=1)(0, 300), *corners]:
        left, top, right, bottom = crop.box(*size)
        assert 0 <= left < right <= width + 1e-9
        assert 0 <= top < bottom <= height + 1e-9
        # PIL refuses what reaches outside by a rounding error.
        resized = image.resize((2, 2), Image.Resampling.BILINEAR, box=crop.box(*size))
        assert resized.getextrema() == (200, 200)
    assert Crop(1.0, width / height, 0.3, 0.6).box(*size) == pytest.approx((0, 0, *size))


def test_a_side_longer_than_the_image_is_cut_to_it():
    height = (0.5 * 100 * 50 / 8) ** 0.5  # the width would be 141
    top = 0.5 * (50 - height)
    assert Crop(0.5, 8.0, 0.5, 0.9).box(100, 50) == pytest.approx((0, top, 100, top + height))


def test_both_loaders_mean_the_same_by_a_crop():
    """What the step does with a draw is what the readers do with it."""
    augmentation = Augmentation(crop_area=(0.2, 1.0), crop_aspect=(0.5, 2.0))
    values = draws.draw(jax.random.key(0), 100)
    xx, _, x1, _, yy, y1 = (
        np.asarray(v) for v in geometry.random_map(augmentation, values, 30, 40)
    )
    u = {name: np.asarray(values[f"crop_{name}"], np.float64) for name in ("area", "aspect")}
    for i in range(100):
        crop = Crop(
            0.2 + 0.8 * u["area"][i],
            0.5 * 4.0 ** u["aspect"][i],
            float(values["crop_y"][i]),
            float(values["crop_x"][i]),
        )
        left, top, right, bottom = crop.box(40, 30)
        assert (right - left, bottom - top) == pytest.approx((xx[i] * 40, yy[i] * 30), rel=1e-5)
        centre = ((left + right) / 2 - 20, (top + bottom) / 2 - 15)
        assert centre == pytest.approx((x1[i], y1[i]), abs=1e-4)
