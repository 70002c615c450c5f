"""Random erasing: a rectangle of noise over part of an image (Zhong et al. 2017, arXiv 1708.04896).

As in the paper's section 3: area and aspect ratio are drawn, the place is even, every pixel and
channel gets an even value from 0..255 (RE-R). Differs from the paper: a rectangle longer than the
image is cut to it, not drawn again.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8, UInt32

from cnn_lab.data.augment import boxes
from cnn_lab.data.augment.draws import Draws, within, within_ratio
from cnn_lab.data.augment.recipes import Augmentation

# A finaliser of MurmurHash3: noise to look at needs no cipher.
MIXING = ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1))

Pixels = Float[Array, "n h w c"] | UInt8[Array, "n h w c"]


def erased(augmentation: Augmentation, draws: Draws, images: Pixels) -> Pixels:
    """Draws rectangles and covers them, in as many images as the probability says."""
    _, height, width, _ = images.shape
    hidden = boxes.inside(box(augmentation, draws, height, width), height, width)
    return jnp.where(hidden, noise(draws, images.shape).astype(images.dtype), images)


def box(augmentation: Augmentation, draws: Draws, height: int, width: int) -> boxes.Box:
    """The rectangles; those of images left alone are empty."""
    area = within(draws["erasing_area"], *augmentation.erasing_area) * height * width
    aspect = within_ratio(draws["erasing_aspect"], *augmentation.erasing_aspect)
    chosen = draws["erasing"] < augmentation.erasing
    size = jnp.sqrt(area / aspect), jnp.sqrt(area * aspect)
    found = boxes.fitting(size, (draws["erasing_y"], draws["erasing_x"]), height, width)
    return jnp.where(chosen[None], found, 0)


def noise(draws: Draws, shape: tuple[int, ...]) -> UInt32[Array, "n h w c"]:
    """Even whole numbers from 0 to 255, from one random word per image."""
    number = jnp.zeros(shape[1:], jnp.uint32)
    for axis, length in enumerate(shape[1:]):
        number = number * jnp.uint32(length)
        number += jax.lax.broadcasted_iota(jnp.uint32, shape[1:], axis)
    word = (draws["erasing_noise"] * 2**24).astype(jnp.uint32)[:, None, None, None]
    bits = word * jnp.uint32(0x9E3779B9) + number[None]
    for shift, factor in MIXING:
        bits = (bits ^ (bits >> jnp.uint32(shift))) * jnp.uint32(factor)
    return bits >> jnp.uint32(24)
