"""Image files and encoded bytes as uint8 pixels of the channels and size asked for, by PIL.

One set of rules for every photograph: the camera's orientation is applied, 16 bits become 8,
palettes are looked up, transparency is laid over white, CMYK becomes RGB.

A change that alters any decoded pixel must raise `DECODER_VERSION`, so that pixels cached before it
are not read again.
"""

import io
from pathlib import Path

import numpy as np
import PIL
from jaxtyping import Bool, Shaped, UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from cnn_lab.core.errors import DataError
from cnn_lab.data.augment.crops import Crop

DECODER_VERSION = 1
# PIL changes its resampling and its decoders between major versions only.
DECODER = f"decoder{DECODER_VERSION}-pillow{PIL.__version__.partition('.')[0]}"
FORMATS = ("JPEG", "PNG")  # PIL knows some forty more, whose decoders have seen less scrutiny
GRAY_MODES = frozenset({"1", "L", "LA", "La", "I", "F", "I;16", "I;16L", "I;16B", "I;16N"})
_DEEP_MODES = frozenset({"I", "I;16", "I;16L", "I;16B", "I;16N"})
_ALPHA_MODES = frozenset({"RGBA", "RGBa", "LA", "La", "PA"})
_ORIENTATION_TAG = 0x0112
_MIN_RATIO = 2  # decoded pixels per pixel of the result: at 1, the decoder's own smoothing shows
_HEAD_BYTES = 16  # by which PIL distinguishes formats
_MIN_INVERTED_DISTANCE = 0.25  # of brightness to the mean; nearer, a picture may just be bright


def open_file(file: io.BytesIO | io.BufferedReader) -> Image.Image:
    """Opens a JPEG or PNG; its pixels are not decoded yet.

    Raises:
        DataError: it announces more pixels than PIL allows.
        UnidentifiedImageError: it is of no such format.
    """
    limit = Image.MAX_IMAGE_PIXELS
    allowed = f"at most {limit} pixels"
    try:
        image = Image.open(file, formats=FORMATS)
    except Image.DecompressionBombError:  # from twice the limit on
        raise DataError(f"more than the {limit} pixels allowed", allowed=allowed) from None
    # PIL itself only warns of these.
    if limit is not None and image.width * image.height > limit:
        size = f"{image.width}x{image.height}"
        image.close()
        problem = f"{size} pixels, more than the {limit} allowed"
        raise DataError(problem, found=size, allowed=allowed)
    return image


def _orientation(image: Image.Image) -> int:
    return image.getexif().get(_ORIENTATION_TAG, 1)


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height once the camera's orientation is applied."""
    width, height = image.size
    return (height, width) if _orientation(image) in (5, 6, 7, 8) else (width, height)


def _upright(image: Image.Image) -> Image.Image:
    """Applies the camera's orientation, which decodes an image that is turned or mirrored."""
    # Transposing copies the pixels, so it is done only for the few images that ask for it.
    return image if _orientation(image) == 1 else ImageOps.exif_transpose(image)


def open_image(encoded: bytes) -> Image.Image:
    """Opens encoded bytes and applies the camera's orientation."""
    return _upright(open_file(io.BytesIO(encoded)))


def _converted(image: Image.Image, num_channels: int) -> Image.Image:
    """An image of any mode as 8-bit gray (1 channel) or RGB (3 channels)."""
    if image.mode in _DEEP_MODES:
        # PIL would clip 16-bit values at 255 and turn most of the picture white.
        values = np.asarray(image).astype(np.float64)
        image = Image.fromarray(np.clip(np.rint(values / 257.0), 0, 255).astype(np.uint8))
    if image.mode in _ALPHA_MODES or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image).convert("RGB")
    mode = "L" if num_channels == 1 else "RGB"
    return image if image.mode == mode else image.convert(mode)


def _pixels_of(image: Image.Image) -> UInt8[np.ndarray, "h w c"]:
    pixels = np.asarray(image)
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


def _image_of(pixels: Shaped[np.ndarray, "h w c"]) -> Image.Image:
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)


def decode(
    encoded: bytes | Shaped[np.ndarray, "h w c"], shape: tuple[int | None, int | None, int]
) -> UInt8[np.ndarray, "h w c"]:
    """Decodes stored pixels and brings them to a size: shorter side to fit, then the centre.

    Args:
        encoded: a JPEG or PNG, or pixels of 1 or 3 channels, returned unchanged if they fit.
        shape: height, width and channels wanted; None keeps the image's own size.
    """
    height, width, num_channels = shape
    if isinstance(encoded, bytes):
        image = open_image(encoded)
    elif shape[:2] in (encoded.shape[:2], (None, None)) and num_channels == encoded.shape[2]:
        return encoded
    else:
        image = _image_of(encoded)
    image = _converted(image, num_channels)
    if height is not None and width is not None and image.size != (width, height):
        image = ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)
    return _pixels_of(image)


def decode_crop(
    encoded: bytes | Shaped[np.ndarray, "h w c"], shape: tuple[int, int, int], crop: Crop
) -> UInt8[np.ndarray, "h w c"]:
    """Decodes stored pixels and resizes a crop of the whole image.

    A JPEG that is several times as large as wanted is decoded at a half, a quarter or an eighth of
    its size: its pixels then differ slightly from those of a full decoding that is made smaller.

    Args:
        encoded: a JPEG or PNG, or pixels of 1 or 3 channels.
        shape: height, width and channels wanted.
        crop: the part of the upright image to keep.
    """
    height, width, num_channels = shape
    if isinstance(encoded, bytes):
        image = open_file(io.BytesIO(encoded))
        left, top, right, bottom = crop.box(*upright_size(image))
        factor = _reduce(image, min((right - left) / width, (bottom - top) / height))
        image = _upright(image)
        box = (left / factor, top / factor, right / factor, bottom / factor)
    else:
        image = _image_of(encoded)
        box = crop.box(*image.size)
    image = _converted(image, num_channels)
    return _pixels_of(image.resize((width, height), Image.Resampling.BILINEAR, box=box))


def read_image_file(path: Path, shape: tuple[int, int, int]) -> UInt8[np.ndarray, "h w c"]:
    """Reads a PNG or JPEG file as pixels of `shape`, resized like training images."""
    where = str(path)
    if path.is_dir():
        problem = f"{path} is a folder; give image files, as by {path / '*.png'}."
        raise DataError(problem, where=where, found="folder", allowed="PNG or JPEG files")
    if not path.is_file():
        problem = f"There is no image file {path}; give the paths of PNG or JPEG files."
        raise DataError(problem, where=where)
    try:
        return decode(path.read_bytes(), shape)
    except UnidentifiedImageError:
        found = _format_of(path)
        problem = f"{path} looks like a {found} file; only PNG and JPEG are read: convert it first."
        if found is None:
            problem = f"{path} is no image; give PNG or JPEG files."
        raise DataError(problem, where=where, found=found, allowed="PNG or JPEG") from None
    except Exception as error:
        problem = f"{path} cannot be read as an image ({error}); give PNG or JPEG files."
        raise DataError(problem, where=where, allowed="PNG or JPEG") from error


def looks_inverted(images: UInt8[np.ndarray, "n h w 1"], mean: float) -> Bool[np.ndarray, " n"]:
    """Whether gray images are about as bright as negatives of the training images would be.

    `mean` is that of the training pixels, in [0, 1]; near 0.5 negatives are not recognised.
    """
    brightness = images.mean((1, 2, 3)) / 255
    to_mean, to_negative = np.abs(brightness - mean), np.abs(brightness - (1 - mean))
    return (to_mean > _MIN_INVERTED_DISTANCE) & (to_negative < to_mean / 2)


def _reduce(image: Image.Image, ratio: float) -> int:
    """Sets a JPEG to be decoded by a factor smaller, for `ratio` pixels a pixel; returns it."""
    for factor in (8, 4, 2):
        # A last pixel that is smaller than the others would come first once the image is turned.
        divides = image.width % factor == image.height % factor == 0
        fits = ratio >= _MIN_RATIO * factor and (divides or _orientation(image) == 1)
        if fits and image.draft(None, (image.width // factor, image.height // factor)):
            return factor
    return 1  # other formats have no smaller size


def _format_of(path: Path) -> str | None:
    """The format that a file's first bytes announce; nothing is decoded."""
    Image.init()
    with path.open("rb") as file:
        # Some formats look beyond the end of a short file.
        head = file.read(_HEAD_BYTES).ljust(_HEAD_BYTES, b"\0")
    for name, (_, accepts) in Image.OPEN.items():
        if name not in FORMATS and accepts is not None and accepts(head):
            return name
    return None
