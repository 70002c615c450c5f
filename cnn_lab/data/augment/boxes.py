"""Rectangles of whole pixels, one per image."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32, Int32

from cnn_lab.data.augment.draws import computed_once

Box = Int32[Array, "4 n"]  # first row, row after the last, and the same of columns


def inside(box: Box, height: int, width: int) -> Bool[Array, "n h w 1"]:
    """Which pixels lie in the rectangles."""
    top, bottom, left, right = (edge[:, None] for edge in computed_once(box))
    row, column = jnp.arange(height)[None], jnp.arange(width)[None]
    rows, columns = (row >= top) & (row < bottom), (column >= left) & (column < right)
    return (rows[:, :, None] & columns[:, None, :])[..., None]


def area(box: Box) -> Int32[Array, " n"]:
    """Number of pixels."""
    top, bottom, left, right = box
    return (bottom - top) * (right - left)


def fitting(
    size: tuple[Float32[Array, " n"], Float32[Array, " n"]],
    place: tuple[Float32[Array, " n"], Float32[Array, " n"]],
    height: int,
    width: int,
) -> Box:
    """Rectangles that lie wholly in the image.

    Args:
        size: height and width wished for, rounded to whole pixels and cut to the image's.
        place: draws from [0, 1), down and across, among the places where it fits.
        height: of the image.
        width: of the image.
    """
    edges = []
    for wished, draw, length in zip(size, place, (height, width), strict=True):
        side = jnp.clip(jnp.round(wished), 0, length)
        first = jnp.floor(draw * (length - side + 1))
        edges += [first, first + side]
    return jnp.stack(edges).astype(jnp.int32)
