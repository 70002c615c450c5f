"""Convolutions with every shifted image written out, where the fast library of CPUs refuses.

That takes a copy of the map for every weight of the kernel, or none where the compiler fuses them.
Autodiff finds gradients that are as fast.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

Pairs = tuple[tuple[int, int], tuple[int, int]]


def product(x, w, strides: tuple[int, int], pads: Pairs, outputs: tuple[int, int]) -> jax.Array:
    """A convolution of a map smaller than its kernel, which the library refuses: one dense product.

    Every window is written out, which is cheap for so few pixels.
    """
    windows = jnp.concatenate(_shifted(x, w, strides, pads, outputs), -1)
    values = windows.reshape(-1, windows.shape[-1]) @ w.reshape(-1, w.shape[-1])
    return values.reshape(-1, *outputs, w.shape[-1])


def depthwise(x, w, strides: tuple[int, int], pads: Pairs, outputs: tuple[int, int]) -> jax.Array:
    """A convolution of each channel with its own kernel: a weighted sum of shifted images.

    The library refuses groups; this is one fused loop along the channels.
    """
    dtype = jnp.promote_types(x.dtype, jnp.float32)  # of the sum, as in a convolution
    shifted = _shifted(x.astype(dtype), w, strides, pads, outputs)
    weights = w.astype(dtype).reshape(-1, 1, 1, 1, w.shape[-1])
    terms = (image * weights[tap] for tap, image in enumerate(shifted))
    return functools.reduce(jnp.add, terms).astype(x.dtype)


def _shifted(
    x, w, strides: tuple[int, int], pads: Pairs, outputs: tuple[int, int]
) -> list[jax.Array]:
    """What each weight of the kernel sees, row by row: images [n output_rows output_columns c]."""
    zero = jnp.zeros((), x.dtype)
    x = lax.pad(x, zero, ((0, 0, 0), (*pads[0], 0), (*pads[1], 0), (0, 0, 0)))
    reach_down, reach_right = ((o - 1) * s + 1 for o, s in zip(outputs, strides, strict=True))
    return [
        x[:, row : row + reach_down : strides[0], column : column + reach_right : strides[1]]
        for row in range(w.shape[0])
        for column in range(w.shape[1])
    ]
