"""Images as networks take them: of sizes that they can take, or read as sequences."""

from typing import Literal

import jax
from jaxtyping import Array, Float

from cnn_lab.core.arrays import Images
from cnn_lab.core.errors import ConfigError

Order = Literal["rows", "pixels"]
Sequences = Float[Array, "n t d"]
Steps = Float[Array, "n t e"]  # what becomes of sequences: as many steps, other values


def as_sequences(images: Images, order: Order) -> jax.Array:
    """Steps from the top left to the bottom right.

    Args:
        images: [n h w c].
        order: `rows` makes every row a step; `pixels` every pixel (sequential MNIST; Le, Jaitly,
            Hinton 2015, arXiv:1504.00941).

    Returns:
        [n h w*c] for `rows`, [n h*w c] for `pixels`.
    """
    n, height, width, channels = images.shape
    if order == "rows":
        return images.reshape(n, height, width * channels)
    return images.reshape(n, height * width, channels)


def require_size(images: Images, min_side: int, model: str, instead: str = "") -> None:
    """Raises a `ConfigError` when images [n h w c] have a side below `min_side`.

    Args:
        images: as the model was given them.
        min_side: the smallest side that leaves a pixel in every map.
        model: its name.
        instead: an option that lets it take smaller ones, as a clause.
    """
    height, width = images.shape[1:3]
    if min(height, width) < min_side:
        raise ConfigError(
            f"{model} takes images of at least {min_side}x{min_side} pixels; found "
            f"{height}x{width}; set data.image_size, data.pad or --input{instead}."
        )


def require_multiple(images: Images, divisor: int, model: str) -> None:
    """Raises a `ConfigError` when a side of images [n h w c] is not a multiple of `divisor`.

    Args:
        images: as the model was given them.
        divisor: the pixels that become one in the coarsest map.
        model: its name.
    """
    height, width = images.shape[1:3]
    if height % divisor or width % divisor:
        larger = "x".join(str(-(-side // divisor) * divisor) for side in (height, width))
        smaller = "x".join(str(side // divisor * divisor) for side in (height, width))
        sizes = larger if min(height, width) < divisor else f"{smaller} or {larger}"
        raise ConfigError(
            f"{model} takes images whose sides are multiples of {divisor}; found {height}x{width}; "
            f"bring them to {sizes} by data.image_size, data.pad or --input."
        )
