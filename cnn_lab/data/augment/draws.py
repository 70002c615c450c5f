"""Random numbers of a batch: each image has a random word of its own for each value drawn.

A word's place never changes, so that switching one augmentation on or off leaves all other draws
the same.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32

from cnn_lab.core.arrays import Key
from cnn_lab.core.random import random_bits

WORDS = (
    *("flip", "shift_y", "shift_x", "crop_area", "crop_aspect", "crop_y", "crop_x"),
    *("rotation", "scale", "stretch", "shear", "translate_y", "translate_x"),
    *("brightness", "contrast", "saturation", "hue", "grayscale"),
    *("erasing", "erasing_area", "erasing_aspect", "erasing_y", "erasing_x", "erasing_noise"),
    *("mix", "mix_kind", "mix_share", "mix_y", "mix_x"),
)
SLOT_WORDS = ("member", "sign")  # again for each operation of RandAugment, after the others

Draws = dict[str, Float32[Array, " n"]]


def draw(key: Key, num_examples: int, num_slots: int = 0) -> Draws:
    """Uniform draws from [0, 1) for each image, multiples of 2^-24, by name.

    The names are `WORDS`, then `member0`, `sign0`, `member1`, ...
    """
    names = [*WORDS, *(f"{word}{slot}" for slot in range(num_slots) for word in SLOT_WORDS)]
    words = computed_once(random_bits(key, (len(names), num_examples)))
    values = (words >> jnp.uint32(8)).astype(jnp.float32) * jnp.float32(2**-24)
    return dict(zip(names, values, strict=True))


def uniform_in(
    draws: Float32[Array, " n"], low: float | Array, high: float | Array
) -> Float32[Array, " n"]:
    """Draws from [0, 1) stretched to [low, high)."""
    return low + draws * (high - low)


def log_uniform_in(draws: Float32[Array, " n"], low: float, high: float) -> Float32[Array, " n"]:
    """Draws from [0, 1) stretched to [low, high) on a logarithmic scale."""
    return jnp.exp(uniform_in(draws, math.log(low), math.log(high)))


def computed_once(x: Array) -> Array:
    """Returns `x`, computed here and not again for every pixel that uses it.

    XLA's CPU compiler merges cheap-looking producers (a generator's rounds, a cosine) into the loop
    over the pixels, and so runs them a thousand times an image; barriers are gone by then. It
    cannot look through a loop: this one inverts all bits twice.
    """
    if jax.default_backend() != "cpu":
        return x
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    return jax.lax.bitcast_convert_type(jax.lax.fori_loop(0, 2, lambda _, b: ~b, bits), x.dtype)
