"""Random erasing: a rectangle of noise over part of an image (Zhong et al. 2017, arXiv 1708.04896).

As in the paper's section 3: area and aspect ratio are drawn, the place is uniform, every pixel and
channel gets a uniform value from 0..255 (RE-R). Differs from the paper: a rectangle longer than the
image is cut to it, not drawn again.

Rectangles are of whole pixels, one per image; CutMix uses them too.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32, UInt8, UInt32

from cnn_lab.data.augment.draws import Draws, computed_once, log_uniform_in, uniform_in
from cnn_lab.data.augment.recipes import Augmentation

# A finaliser of MurmurHash3: noise to look at needs no cipher.
HASH_ROUNDS = ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1))

Pixels = Float[Array, "n h w c"] | UInt8[Array, "n h w c"]
Rectangle = Int32[Array, "4 n"]  # first row, row after the last, and the same of columns


def erase(augmentation: Augmentation, draws: Draws, images: Pixels) -> Pixels:
    """Covers a random rectangle of an image with noise, with the probability of `erasing`."""
    _, height, width, _ = images.shape
    area = uniform_in(draws["erasing_area"], *augmentation.erasing_area) * height * width
    aspect = log_uniform_in(draws["erasing_aspect"], *augmentation.erasing_aspect)
    chosen = draws["erasing"] < augmentation.erasing
    sides = ((jnp.sqrt(area / aspect), "y", height), (jnp.sqrt(area * aspect), "x", width))
    edges = []
    for extent, axis, length in sides:  # to whole pixels, wholly inside the image
        side = jnp.clip(jnp.round(extent), 0, length)
        first = jnp.floor(draws[f"erasing_{axis}"] * (length - side + 1))
        edges += [first, first + side]
    rectangle = jnp.where(chosen[None], jnp.stack(edges).astype(jnp.int32), 0)
    hidden = rectangle_mask(rectangle, height, width)
    return jnp.where(hidden, noise(draws, images.shape).astype(images.dtype), images)


def noise(draws: Draws, shape: tuple[int, ...]) -> UInt32[Array, "n h w c"]:
    """Uniform whole numbers from 0 to 255, from one random word per image."""
    number = jnp.zeros(shape[1:], jnp.uint32)
    for axis, length in enumerate(shape[1:]):
        number = number * jnp.uint32(length)
        number += jax.lax.broadcasted_iota(jnp.uint32, shape[1:], axis)
    word = (draws["erasing_noise"] * 2**24).astype(jnp.uint32)[:, None, None, None]
    bits = word * jnp.uint32(0x9E3779B9) + number[None]
    for shift, factor in HASH_ROUNDS:
        bits = (bits ^ (bits >> jnp.uint32(shift))) * jnp.uint32(factor)
    return bits >> jnp.uint32(24)


def rectangle_mask(rectangle: Rectangle, height: int, width: int) -> Bool[Array, "n h w 1"]:
    """Which pixels are inside the rectangles."""
    top, bottom, left, right = (edge[:, None] for edge in computed_once(rectangle))
    row, column = jnp.arange(height)[None], jnp.arange(width)[None]
    rows, columns = (row >= top) & (row < bottom), (column >= left) & (column < right)
    return (rows[:, :, None] & columns[:, None, :])[..., None]
