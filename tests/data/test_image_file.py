"""A user's image files: which are opened, and which look like negatives."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from refusals import refused

from cnn_lab.core.errors import DataError
from cnn_lab.data.decoding import looks_inverted, read_image_file

PIXELS = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)


def encoded(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_the_content_counts_not_the_name(tmp_path: Path, kind: str):
    path = tmp_path / "image.tif"
    path.write_bytes(encoded(kind))
    image = read_image_file(path, (8, 8, 3))
    assert image.shape == (8, 8, 3)
    if kind == "PNG":
        np.testing.assert_array_equal(image, PIXELS)


@pytest.mark.parametrize("kind", ["TIFF", "GIF", "BMP", "PPM", "WEBP", "PSD"])
def test_other_formats_are_named_and_not_opened(tmp_path: Path, kind: str, monkeypatch):
    path = tmp_path / "image.png"
    path.write_bytes(b"8BPS\0\1" + bytes(60) if kind == "PSD" else encoded(kind))
    Image.init()
    factory, accepts = Image.OPEN[kind]

    def never(*_):
        raise AssertionError(f"the decoder of {kind} ran")

    assert factory is not never
    monkeypatch.setitem(Image.OPEN, kind, (never, accepts))
    with refused(DataError, where=str(path), found=kind, allowed="PNG or JPEG"):
        read_image_file(path, (8, 8, 1))


@pytest.mark.parametrize("content", [b"", b"GIF", b"\n\n", b"no image", b"\xff\xd8\xff", bytes(9)])
def test_what_is_no_image_is_told_so(tmp_path: Path, content: bytes):
    path = tmp_path / "image.png"
    path.write_bytes(content)
    with refused(DataError, where=str(path), found=None, allowed="PNG or JPEG"):
        read_image_file(path, (8, 8, 1))


def test_a_folder_is_no_image_file(tmp_path: Path):
    with refused(DataError, where=str(tmp_path), found="folder", allowed="PNG or JPEG files"):
        read_image_file(tmp_path, (8, 8, 1))


def gray(brightness: float) -> np.ndarray:
    return np.full((1, 4, 4, 1), round(brightness * 255), np.uint8)


@pytest.mark.parametrize(
    ("brightness", "mean", "inverted"),
    [
        (0.87, 0.13, True),
        (0.7, 0.13, True),
        (0.13, 0.13, False),
        (0.4, 0.13, False),
        (0.13, 0.87, True),  # light on dark, for a net trained on dark on light
        (0.87, 0.87, False),
        (0.6, 0.45, False),  # near gray, a negative is about as bright as the image
        (0.95, 0.5, False),
    ],
)
def test_negatives_are_told_by_their_brightness(brightness, mean, inverted):
    assert looks_inverted(gray(brightness), mean).tolist() == [inverted]
