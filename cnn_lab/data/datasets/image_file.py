"""Image files of the user's as pixels, and whether they look like negatives of training images."""

from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, UnidentifiedImageError

from cnn_lab.core.errors import DataError
from cnn_lab.data.pixels import FORMATS, open_image, to_pixels

HEAD = 16  # bytes that PIL tells formats by
FAR = 0.25  # of mean brightness; nearer than this, a picture may just be a bright one


def read_image_file(path: Path, shape: tuple[int, int, int]) -> UInt8[np.ndarray, "h w c"]:
    """Reads a PNG or JPEG file as pixels of `shape`, resized like training images.

    Args:
        path: the file.
        shape: (h, w, c) of the result, c 1 or 3.

    Raises:
        DataError: there is no such file, or it is no image of these formats.
    """
    if not path.is_file():
        raise DataError(f"There is no image file {path}; give the paths of PNG or JPEG files.")
    try:
        return to_pixels(open_image(path.read_bytes()), shape)
    except UnidentifiedImageError:
        found = _format_of(path)
        if found is None:
            raise DataError(f"{path} is no image; give PNG or JPEG files.") from None
        raise DataError(
            f"{path} looks like a {found} file; only PNG and JPEG are read: convert it first."
        ) from None
    except Exception as error:
        raise DataError(
            f"{path} cannot be read as an image ({error}); give PNG or JPEG files."
        ) from error


def looks_inverted(images: UInt8[np.ndarray, "n h w 1"], mean: float) -> Bool[np.ndarray, " n"]:
    """Tells which gray images are about as bright as negatives of the training images would be.

    Args:
        images: what was given.
        mean: mean of the training pixels, in [0, 1]; near 0.5 a negative cannot be told.
    """
    brightness = images.mean((1, 2, 3)) / 255
    to_mean, to_negative = np.abs(brightness - mean), np.abs(brightness - (1 - mean))
    return (to_mean > FAR) & (to_negative < to_mean / 2)


def _format_of(path: Path) -> str | None:
    """The format that a file's first bytes announce; nothing is decoded."""
    Image.init()
    with path.open("rb") as file:
        head = file.read(HEAD).ljust(HEAD, b"\0")  # some formats would look beyond a short one
    for name, (_, accepts) in Image.OPEN.items():
        if name not in FORMATS and accepts is not None and accepts(head):
            return name
    return None
