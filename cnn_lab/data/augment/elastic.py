"""Elastic distortion: a smooth random field by which pixels wander (Simard et al. 2003).

Simard et al., "Best practices for convolutional neural networks applied to visual document
analysis", section 2: even noise from -1 to 1 for each pixel and axis, smoothed by a Gaussian of
standard deviation sigma and multiplied by alpha.

Differs from the paper: noise is drawn on a grid as coarse as sigma, scaled to the same deviation.
The field's covariance is the same to 4 digits, for a sixteenth of the draws at sigma 4. The grid
goes beyond the image, so that the deviation does not fall off at its border. It is never finer than
pixels and may lie half way between them, where a Gaussian of a small part of a pixel has ended: so
sigma is at least half a pixel, which hardly smooths any more.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32

from cnn_lab.core.arrays import Key
from cnn_lab.core.random import random_bits
from cnn_lab.data.augment.draws import computed_once

REACH = 3  # standard deviations after which a Gaussian counts as ended


def field(
    key: Key, num_examples: int, height: int, width: int, *, alpha: float, sigma: float
) -> tuple[Float32[Array, "n h w"], Float32[Array, "n h w"]]:
    """How far pixels wander, along x and along y, in pixels.

    Args:
        key: randomness.
        num_examples: n.
        height: h.
        width: w.
        alpha: factor of the smoothed noise, in pixels.
        sigma: standard deviation of the Gaussian, in pixels, at least 0.5.
    """
    down, across = smoothing(height, sigma), smoothing(width, sigma)
    shape = (num_examples, down.shape[1], across.shape[1])
    words = computed_once(random_bits(key, shape))
    halves = jnp.stack([words >> jnp.uint32(16), words & jnp.uint32(0xFFFF)], axis=1)
    noise = (halves.astype(jnp.float32) + 0.5) * jnp.float32(2**-15) - 1
    rows = jnp.einsum("nkgs,ws->nkgw", noise, (across * alpha).astype(np.float32))
    both = jnp.einsum("hg,nkgw->nkhw", down.astype(np.float32), rows)
    return both[:, 0], both[:, 1]


def smoothing(length: int, sigma: float) -> np.ndarray:
    """Weights [length, grid] of the noise's grid points along one axis.

    Their root of sums of squares is, at every pixel, that of a Gaussian filter over pixels.
    """
    spacing = max(1.0, sigma)
    reach = REACH * sigma
    num_points = int(np.ceil((length - 1 + 2 * reach) / spacing)) + 1
    points = (length - 1) / 2 + (np.arange(num_points) - (num_points - 1) / 2) * spacing
    weights = _gaussian(np.arange(length)[:, None] - points[None, :], sigma)
    dense = _gaussian(np.arange(-np.ceil(reach), np.ceil(reach) + 1), sigma)
    norm = np.linalg.norm(dense) / dense.sum()
    return weights / np.linalg.norm(weights, axis=1, keepdims=True) * norm


def _gaussian(distance: np.ndarray, sigma: float) -> np.ndarray:
    return np.exp(-0.5 * (distance / sigma) ** 2)
