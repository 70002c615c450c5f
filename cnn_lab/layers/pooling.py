"""Spatial pooling over windows that do not overlap.

Written with reshapes: on CPU a windowed reduction costs several times more, in both directions.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cnn_lab.core.errors import ConfigError
from cnn_lab.core.shapes import Images

Pooled = Float[Array, "n rows columns c"]


def average_pool(images: Images, window: int) -> Pooled:
    """Mean of each window by window patch; rows and columns left over are dropped.

    Args:
        images: [n h w c].
        window: side of the square window and stride, in pixels.

    Returns:
        [n h//window w//window c].

    Raises:
        ConfigError: the window is larger than the image.
    """
    return _patches(images, window).mean((2, 4))


def max_pool(images: Images, window: int) -> Pooled:
    """Maximum of each window by window patch; rows and columns left over are dropped.

    The gradient goes to the maximum, the first one in reading order on ties.

    Args:
        images: [n h w c].
        window: side of the square window and stride, in pixels.

    Returns:
        [n h//window w//window c].

    Raises:
        ConfigError: the window is larger than the image.
    """
    return _patch_max(_patches(images, window))


def _patches(images: jax.Array, window: int) -> jax.Array:
    """[n h w c] as [n rows window columns window c]."""
    n, height, width, channels = images.shape
    rows, columns = height // window, width // window
    if rows == 0 or columns == 0:
        raise ConfigError(
            f"A pooling window of {window}x{window} does not fit a map of {height}x{width}: the "
            "image is too small for this model; use larger images or set data.image_size."
        )
    cropped = images[:, : rows * window, : columns * window]
    return cropped.reshape(n, rows, window, columns, window, channels)


@jax.custom_vjp
def _patch_max(patches: jax.Array) -> jax.Array:
    return patches.max((2, 4))


def _patch_max_forward(patches):
    winners = patches.max((2, 4))
    return winners, (patches, winners)


def _patch_max_backward(residuals, gradient):
    patches, winners = residuals
    window = patches.shape[2]
    places = window * window
    place = jnp.full(winners.shape, places - 1, jnp.int32)
    for candidate in reversed(range(places - 1)):
        row, column = divmod(candidate, window)
        place = jnp.where(patches[:, :, row, :, column] == winners, candidate, place)
    index = jnp.arange(places, dtype=jnp.int32).reshape(1, 1, window, 1, window, 1)
    won = place[:, :, None, :, None] == index
    return (jnp.where(won, gradient[:, :, None, :, None], jnp.zeros((), gradient.dtype)),)


_patch_max.defvjp(_patch_max_forward, _patch_max_backward)
