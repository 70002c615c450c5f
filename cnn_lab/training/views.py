"""Test-time augmentation: the fixed views of an image over which predictions are averaged.

Krizhevsky et al. 2012, "ImageNet classification with deep convolutional neural networks", NIPS,
section 4.1, average the softmax of five crops and their mirror images.

Differs from the paper: the crops keep the whole image's size, shifted by a few pixels.
"""

from collections.abc import Callable, Sequence

import jax.numpy as jnp

from cnn_lab.core.arrays import Images
from cnn_lab.core.errors import ConfigError, lookup

View = Callable[[Images], Images]

PLACES = ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1))  # down and right, in shifts
TTA = {name: name.split("+") for name in ("none", "flip", "shifts", "flip+shifts")}


def whole(images: Images) -> Images:
    """The images as they are."""
    return images


def mirrored(images: Images) -> Images:
    """Left and right exchanged."""
    return images[:, :, ::-1]


def shifted(down: int, right: int) -> View:
    """Moves the content by whole pixels; the edge is repeated where nothing moves in."""

    def shift(images: Images) -> Images:
        height, width = images.shape[1:3]
        fill = max(abs(down), abs(right))
        edges = ((0, 0), (fill, fill), (fill, fill), (0, 0))
        top, left = fill - down, fill - right
        padded = jnp.pad(images, edges, mode="edge")
        return padded[:, top : top + height, left : left + width]

    return shift


def check_pixels(pixels: int, image_shape: Sequence[int]) -> None:
    """Refuses shifts, by a `ConfigError`, that leave nothing of an image."""
    if pixels >= min(image_shape[:2]):
        raise ConfigError(
            f"--tta_pixels is {pixels}, but the images have {image_shape[0]} x {image_shape[1]} "
            "pixels, of which nothing might be left; use fewer.",
            where="--tta_pixels",
            found=pixels,
        )


def make_views(name: str, pixels: int) -> tuple[View, ...]:
    """The views of a name in `TTA`, the images as they are first.

    Raises:
        ConfigError: no such name, or shifts by less than a pixel.
    """
    parts = lookup(TTA, name, "test-time augmentation (--tta)", "--tta")
    if pixels < 1:
        raise ConfigError(where="--tta_pixels", found=pixels, allowed="at least 1")
    views: list[View] = [whole]
    if "shifts" in parts:
        views = [shifted(down * pixels, right * pixels) for down, right in PLACES]
    if "flip" in parts:
        views = [
            flipped
            for view in views
            for flipped in (view, lambda images, view=view: mirrored(view(images)))
        ]
    return tuple(views)
