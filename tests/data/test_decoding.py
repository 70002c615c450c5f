"""Parts of images, decoded and resized in one go."""

import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from cnn_lab.data.augment.crops import Crop
from cnn_lab.data.decoding import decode, decode_crop

RANDOM = np.random.default_rng(0)
WHOLE = 4 / 3  # the aspect of the images below


def smooth(width: int, height: int) -> Image.Image:
    """A colour image without sharp edges, of which smaller versions are alike."""
    small = Image.fromarray(RANDOM.integers(0, 256, (6, 8, 3), np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "JPEG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def with_alpha() -> Image.Image:
    image = smooth(40, 30)
    image.putalpha(smooth(40, 30).convert("L"))
    return image


STORED = {
    "colour JPEG": encoded(smooth(40, 30)),
    "gray JPEG": encoded(smooth(40, 30).convert("L")),
    "transparent PNG": encoded(with_alpha(), "PNG"),
    "16-bit PNG": encoded(Image.fromarray(RANDOM.integers(0, 2**16, (30, 40), np.uint16)), "PNG"),
    "colour pixels": np.asarray(smooth(40, 30)),
    "gray pixels": np.asarray(smooth(40, 30).convert("L"))[:, :, None],
}


@pytest.mark.parametrize("shape", [(15, 20, 3), (30, 40, 3), (15, 20, 1), (60, 80, 1)])
@pytest.mark.parametrize("stored", STORED.values(), ids=STORED.keys())
def test_a_crop_of_the_whole_image_is_the_image_bit_for_bit(stored, shape):
    found = decode_crop(stored, shape, Crop(1.0, WHOLE, 0.2, 0.7))
    assert found.shape == shape
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, decode(stored, shape))


@pytest.mark.parametrize("num_channels", [1, 3])
def test_the_pixels_of_a_crop_are_those_of_pil(num_channels):
    mode = "L" if num_channels == 1 else "RGB"
    stored = encoded(smooth(40, 30))
    image = Image.open(io.BytesIO(stored)).convert(mode)
    # 24 x 18 pixels from row 6 and column 4: all whole numbers.
    crop = Crop(24 * 18 / 1200, WHOLE, 6 / 12, 4 / 16)
    left, top, right, bottom = (round(edge) for edge in crop.box(40, 30))
    assert (left, top, right, bottom) == (4, 6, 28, 24)
    found = decode_crop(stored, (10, 11, num_channels), crop)
    for box, inner in ((crop.box(40, 30), slice(None)), ((4, 6, 28, 24), slice(1, -1))):
        expected = image.resize((11, 10), Image.Resampling.BILINEAR, box=box)
        if inner.start:  # the outermost pixels see neighbours from outside the box
            expected = image.crop(box).resize((11, 10), Image.Resampling.BILINEAR)
        expected = np.asarray(expected).reshape(10, 11, num_channels)
        np.testing.assert_array_equal(found[inner, inner], expected[inner, inner])
    assert np.abs(found.astype(int) - decode(stored, (10, 11, num_channels))).max() > 20


def test_a_crop_is_of_the_upright_image():
    image, exif = smooth(40, 30), Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    crop = Crop(0.3, 0.8, 0.1, 0.9)
    turned = image.transpose(Image.Transpose.ROTATE_270)
    expected = turned.resize((9, 9), Image.Resampling.BILINEAR, box=crop.box(30, 40))
    found = decode_crop(encoded(image, "PNG", exif=exif), (9, 9, 3), crop)
    np.testing.assert_array_equal(found, np.asarray(expected))


@pytest.mark.parametrize("size", [(400, 304), (403, 301)])
@pytest.mark.parametrize("orientation", [2, 3, 6, 8])
def test_a_large_image_that_is_turned_shows_the_same_crop(orientation, size):
    """Smaller decoding must not move it, whatever the sides can be divided by."""
    image, exif = smooth(*size), Image.Exif()
    exif[0x0112] = orientation
    stored, crop = encoded(image, quality=95, exif=exif), Crop(0.3, 0.8, 0.1, 0.9)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(stored)))
    expected = upright.resize((9, 9), Image.Resampling.BILINEAR, box=crop.box(*upright.size))
    difference = decode_crop(stored, (9, 9, 3), crop).astype(int) - np.asarray(expected)
    assert np.abs(difference).max() <= 3


def test_a_large_jpeg_is_decoded_smaller_and_looks_the_same():
    """From four times the size wanted on; a full decoding is what PIL gives of it otherwise."""
    image = smooth(643, 481)  # no multiple of anything
    crop = Crop(0.5, 1.1, 0.3, 1.0)
    stored = encoded(image, quality=95)
    full = Image.open(io.BytesIO(stored))
    left, top, right, bottom = crop.box(643, 481)
    ratios = {}
    for size in (20, 40, 80, 130):
        ratios[size] = min(right - left, bottom - top) / size
        expected = np.asarray(
            full.resize((size, size), Image.Resampling.BILINEAR, box=crop.box(643, 481))
        )
        found = decode_crop(stored, (size, size, 3), crop)
        difference = np.abs(found.astype(int) - expected)
        assert difference.max() <= 3
        assert (difference.max() > 0) == (ratios[size] >= 4)
        # Other formats have no smaller size.
        lossless = decode_crop(encoded(full, "PNG"), (size, size, 3), crop)
        np.testing.assert_array_equal(lossless, expected)
    assert ratios[80] > 4 > ratios[130]
