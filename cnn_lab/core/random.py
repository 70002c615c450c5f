"""Random words that cost little on CPUs.

JAX's threefry generator is a loop there, whose thirty small operations a call take longer than what
most masks are made for. Here the twenty rounds are written out, so that they fuse into one
operation; the bits are those of `jax.random.bits`, the same for any number of devices.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, UInt32

from cnn_lab.core.arrays import Key

ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
PARITY = 0x1BD11BDA


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
