"""Normalisation over the batch and over neighbouring channels."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# With `use_fast_variance` the variance is E[x^2] - E[x]^2, which cancels: inputs of mean 1e4 and
# deviation 1 come out with a deviation of 279. Under a jitted step whose batch is sharded the
# statistics are those of the whole batch, so that they do not depend on the number of devices.
BatchNorm = functools.partial(nn.BatchNorm, momentum=0.9, epsilon=1e-5, use_fast_variance=False)


def local_response_norm(
    x: Float[Array, "*n c"],
    size: int = 5,
    alpha: float = 1e-4,
    beta: float = 0.75,
    k: float = 2.0,
    *,
    average: bool = False,
) -> Float[Array, "*n c"]:
    """Divides each value by a power of the energy in `size` neighbouring channels (Krizhevsky,
    Sutskever, Hinton 2012, section 3.3).

    Args:
        x: [... c].
        size: neighbouring channels, the value's own in the middle; fewer at both ends.
        alpha: weight of the summed squares.
        beta: the power.
        k: added to the weighted sum.
        average: divide alpha by `size`, as torch and Caffe do.

    Returns:
        x / (k + alpha * sum of squares) ** beta.
    """  # noqa: D205 - a citation
    before = size // 2
    squares = jnp.square(x.astype(jnp.float32))
    window, strides = (*(1,) * (x.ndim - 1), size), (1,) * x.ndim
    pads = (*((0, 0),) * (x.ndim - 1), (before, size - 1 - before))
    energy = jax.lax.reduce_window(squares, 0.0, jax.lax.add, window, strides, pads)
    weight = alpha / size if average else alpha
    return (x / (k + weight * energy) ** beta).astype(x.dtype)
