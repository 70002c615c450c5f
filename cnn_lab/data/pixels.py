"""From encoded bytes to uint8 pixels of the channels and size asked for, by PIL.

One set of rules for every photograph: the camera's orientation is applied, 16 bits become 8,
palettes are looked up, transparency is laid over white, CMYK becomes RGB.

Whoever changes a pixel that comes out of here raises `DECODER_VERSION`, so that nothing kept from
before is read again.
"""

import io

import numpy as np
import PIL
from jaxtyping import Shaped, UInt8
from PIL import Image, ImageOps

from cnn_lab.core.errors import DataError
from cnn_lab.data.augment.crops import Box, Part

DECODER_VERSION = 1
# PIL changes its resampling and its decoders between major versions only.
DECODER = f"decoder{DECODER_VERSION}-pillow{PIL.__version__.partition('.')[0]}"
FORMATS = ("JPEG", "PNG")  # PIL knows some forty more, whose decoders have seen less scrutiny
GRAY_MODES = frozenset({"1", "L", "LA", "La", "I", "F", "I;16", "I;16L", "I;16B", "I;16N"})
_DEEP_MODES = frozenset({"I", "I;16", "I;16L", "I;16B", "I;16N"})
_ALPHA_MODES = frozenset({"RGBA", "RGBa", "LA", "La", "PA"})
_ORIENTATION_TAG = 0x0112
_LEAST_LEFT = 2  # pixels decoded per pixel wanted: at 1, the decoder's own smoothing shows


def is_turned(image: Image.Image) -> bool:
    """Returns whether the orientation tag exchanges height and width."""
    return _orientation(image) in (5, 6, 7, 8)


def open_file(file: io.BytesIO | io.BufferedReader) -> Image.Image:
    """Opens a JPEG or PNG; its pixels are not decoded yet.

    Raises:
        DataError: it announces more pixels than PIL allows.
        UnidentifiedImageError: it is of no such format.
    """
    limit = Image.MAX_IMAGE_PIXELS
    try:
        image = Image.open(file, formats=FORMATS)
    except Image.DecompressionBombError:  # from twice the limit on
        raise DataError(f"more than the {limit} pixels allowed") from None
    # PIL itself only warns of these.
    if limit is not None and image.width * image.height > limit:
        size = f"{image.width}x{image.height}"
        image.close()
        raise DataError(f"{size} pixels, more than the {limit} allowed")
    return image


def open_image(encoded: bytes) -> Image.Image:
    """Opens encoded bytes and applies the camera's orientation."""
    return upright(open_file(io.BytesIO(encoded)))


def upright(image: Image.Image) -> Image.Image:
    """Applies the camera's orientation, which decodes an image that is turned or mirrored."""
    # Transposing copies the pixels, so it is done only for the few images that ask for it.
    if _orientation(image) != 1:
        image = ImageOps.exif_transpose(image)
    return image


def convert(image: Image.Image, num_channels: int) -> Image.Image:
    """Converts an image of any mode to 8-bit gray (1 channel) or RGB (3 channels).

    Args:
        image: any image PIL can decode.
        num_channels: 1 or 3.

    Returns:
        The image in mode `L` or `RGB`.
    """
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


def to_pixels(
    image: Image.Image, shape: tuple[int | None, int | None, int]
) -> UInt8[np.ndarray, "h w c"]:
    """Converts an image and brings it to a size: shorter side to fit, then the centre.

    Args:
        image: any image PIL can decode.
        shape: height, width and channels wanted; None keeps the image's own size.

    Returns:
        The pixels, `[h, w, c]`.
    """
    height, width, num_channels = shape
    image = convert(image, num_channels)
    if height is not None and width is not None and image.size != (width, height):
        image = ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)
    pixels = np.asarray(image)
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


def decode(
    encoded: bytes | Shaped[np.ndarray, "..."], shape: tuple[int | None, int | None, int]
) -> UInt8[np.ndarray, "h w c"]:
    """Decodes stored pixels: encoded bytes, or an array that is used as it is where it fits.

    Args:
        encoded: a JPEG or PNG, or pixels `[h, w, 1]` or `[h, w, 3]`.
        shape: height, width and channels wanted; None keeps the image's own size.

    Returns:
        The pixels, `[h, w, c]`.
    """
    if isinstance(encoded, bytes):
        return to_pixels(open_image(encoded), shape)
    if shape[:2] in (encoded.shape[:2], (None, None)) and shape[2] == encoded.shape[2]:
        return encoded
    return to_pixels(_image_of(encoded), shape)


def decode_part(
    encoded: bytes | Shaped[np.ndarray, "..."], shape: tuple[int, int, int], part: Part
) -> UInt8[np.ndarray, "h w c"]:
    """Decodes stored pixels and brings a part of the whole image to a size.

    A JPEG that is several times as large as wanted is decoded at a half, a quarter or an eighth of
    its size: its pixels then differ slightly from those of a full decoding that is made smaller.

    Args:
        encoded: a JPEG or PNG, or pixels `[h, w, 1]` or `[h, w, 3]`.
        shape: height, width and channels wanted.
        part: what to keep of the upright image.

    Returns:
        The pixels, `[h, w, c]`.
    """
    height, width, num_channels = shape
    if isinstance(encoded, bytes):
        image = open_file(io.BytesIO(encoded))
        box = part.box(*(image.size[::-1] if is_turned(image) else image.size))
        factor = _decoded_smaller(image, min((box[2] - box[0]) / width, (box[3] - box[1]) / height))
        image, box = upright(image), _divided(box, factor)
    else:
        image = _image_of(encoded)
        box = part.box(*image.size)
    image = convert(image, num_channels)
    image = image.resize((width, height), Image.Resampling.BILINEAR, box=box)
    pixels = np.asarray(image)
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


def _decoded_smaller(image: Image.Image, ratio: float) -> int:
    """Tells a JPEG's decoder to skip detail, of `ratio` pixels per pixel wanted; by what factor."""
    for factor in (8, 4, 2):
        # A last pixel that is smaller than the others would come first once the image is turned.
        divides = image.width % factor == image.height % factor == 0
        fits = ratio >= _LEAST_LEFT * factor and (divides or _orientation(image) == 1)
        if fits and image.draft(None, (image.width // factor, image.height // factor)):
            return factor
    return 1  # other formats know no smaller size


def _orientation(image: Image.Image) -> int:
    return image.getexif().get(_ORIENTATION_TAG, 1)


def _divided(box: Box, factor: int) -> Box:
    left, top, right, bottom = box
    return left / factor, top / factor, right / factor, bottom / factor


def _image_of(pixels: Shaped[np.ndarray, "..."]) -> Image.Image:
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
