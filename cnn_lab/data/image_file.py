"""One image file of the user's as pixels."""

from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import UnidentifiedImageError

from cnn_lab.core.errors import DataError
from cnn_lab.data.pixels import open_image, to_pixels


def read_image_file(path: Path, shape: tuple[int, int, int]) -> UInt8[np.ndarray, "h w c"]:
    """Reads a PNG or JPEG file as pixels of `shape`, resized like training images.

    Args:
        path: the file.
        shape: (h, w, c) of the result, c 1 or 3.

    Raises:
        DataError: there is no such file, or it is no image.
    """
    if not path.is_file():
        raise DataError(f"There is no image file {path}; give the paths of PNG or JPEG files.")
    try:
        return to_pixels(open_image(path.read_bytes()), shape)
    except UnidentifiedImageError:
        raise DataError(f"{path} is no image; give PNG or JPEG files.") from None
    except Exception as error:
        raise DataError(
            f"{path} cannot be read as an image ({error}); give PNG or JPEG files."
        ) from error
