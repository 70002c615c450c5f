"""Images read as sequences, for the nets that share parameters over time."""

from typing import Literal

import jax
from jaxtyping import Array, Float

from cnn_lab.core.arrays import Images

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
