"""Dropout whose random bits cost little on CPUs.

JAX's threefry generator is a loop there, whose thirty small operations a call take longer than the
product they mask. Here the twenty rounds are written out, so that they fuse into one operation; the
bits are those of `jax.random.bits`, the same for any number of devices.
"""

import math
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt32

from cnn_lab.core.errors import ConfigError
from cnn_lab.core.shapes import Key

ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
PARITY = 0x1BD11BDA


class Dropout(nn.Module):
    """Sets a random share of the values to zero in training (Srivastava et al. 2014, JMLR 15).

    Attributes:
        rate: share of the values that is dropped, in [0, 1).
        scaling: where values are scaled so that the next layer gets as much in training as in
            evaluation: in `training` the ones that are kept are scaled up, and evaluation needs
            nothing; in `evaluation`, as in the paper (section 4), all are scaled down.
    """

    rate: float
    scaling: Literal["training", "evaluation"] = "training"

    @nn.compact
    def __call__(self, x: Float[Array, "..."], *, train: bool) -> Float[Array, "..."]:
        """Drops values of `x` in training; needs the random stream `dropout` then."""
        share = share_kept(self.rate)
        scaled_here = self.scaling == ("training" if train else "evaluation")
        x = x * share if scaled_here and not train else x
        if not train or share == 1:
            return x
        bits = random_bits(self.make_rng("dropout"), x.shape)
        kept = bits >= jnp.uint32(round(self.rate * 2**32))
        return jnp.where(kept, x / share if scaled_here else x, jnp.zeros((), x.dtype))


def share_kept(rate: float) -> float:
    """1 - rate, or a `ConfigError` where a rate is not in [0, 1)."""
    if not 0 <= rate < 1:
        raise ConfigError(f"A rate of dropping must be at least 0 and below 1; found {rate}.")
    return 1 - rate


def random_bits(key: Key, shape: tuple[int, ...]) -> UInt32[Array, "..."]:
    """Uniform 32-bit words of that shape, equal to `jax.random.bits(key, shape)`.

    The cipher is Threefry-2x32 with 20 rounds of the position's number (Salmon et al. 2011,
    "Parallel random numbers: as easy as 1, 2, 3"). Keys of other generators, arrays of 2^32 values
    and more, and other platforms go to JAX.
    """
    threefry = str(jax.random.key_impl(key)) == "threefry2x32"
    if not threefry or math.prod(shape) >= 2**32 or jax.default_backend() != "cpu":
        return jax.random.bits(key, shape, jnp.uint32)
    first, second = jax.random.key_data(key)
    keys = (first, second, first ^ second ^ jnp.uint32(PARITY))
    number = jnp.zeros(shape, jnp.uint32)
    for axis, length in enumerate(shape):
        number = number * jnp.uint32(length)
        number += jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
    left, right = jnp.full_like(number, keys[0]), number + keys[1]
    for block in range(5):
        for rotation in ROTATIONS[block % 2]:
            left = left + right
            right = (right << jnp.uint32(rotation)) | (right >> jnp.uint32(32 - rotation))
            right = right ^ left
        left = left + keys[(block + 1) % 3]
        right = right + keys[(block + 2) % 3] + jnp.uint32(block + 1)
    return left ^ right
