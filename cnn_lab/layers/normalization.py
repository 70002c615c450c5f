"""Normalisation over the batch, over groups of channels and over neighbouring channels."""

import math
import typing

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cnn_lab.layers.scopes import as_layer


@typing.no_type_check  # beartype cannot check the fields that it inherits
class BatchNorm(nn.BatchNorm):
    """Linen's batch normalisation, which also takes in the call whether it is trained.

    Under a jitted step whose batch is sharded the statistics are those of the whole batch, so that
    they do not depend on the number of devices.

    Attributes:
        train: normalise by the batch's statistics and move the running ones towards them; an
            argument of the call goes before it.
        use_fast_variance: would take E[x^2] - E[x]^2, which cancels: inputs of mean 1e4 and
            deviation 1 would come out with a deviation of 279.
    """

    train: bool = False
    momentum: float = 0.9
    epsilon: float = 1e-5
    use_fast_variance: bool = False

    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, x: jax.Array, *, train: bool | None = None
    ) -> jax.Array:
        """Normalises maps [n *space c]."""
        trained = self.train if train is None else train
        return super().__call__(x, use_running_average=not trained)


class GroupNorm(nn.Module):
    """Normalises each example over space and a group of channels (Wu & He 2018, arXiv:1803.08494).

    Attributes:
        max_groups: there are as many as divide both this number and the channels.
        dtype: of the result; statistics are float32.
    """

    max_groups: int = 32
    epsilon: float = 1e-5
    scale_init: nn.initializers.Initializer = nn.initializers.ones
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "n *space c"]) -> Float[Array, "n *space c"]:
        """Normalises maps [n *space c]."""
        channels = x.shape[-1]
        scale = self.param("scale", self.scale_init, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        groups = math.gcd(self.max_groups, channels)
        parts = x.astype(jnp.float32).reshape(x.shape[0], -1, groups, channels // groups)
        parts = parts - parts.mean((1, 3), keepdims=True)
        variance = jnp.square(parts).mean((1, 3), keepdims=True)
        y = (parts * jax.lax.rsqrt(variance + self.epsilon)).reshape(x.shape)
        last = (*(1,) * (x.ndim - 1), channels)
        return (y * scale.reshape(last) + bias.reshape(last)).astype(self.dtype)


@as_layer
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
    Sutskever, Hinton 2012, section 3.3): x / (k + alpha * sum of squares) ** beta.

    The value's own channel is in the middle, and there are fewer at both ends. `average` divides
    alpha by `size`, as torch and Caffe do.
    """  # noqa: D205 - a citation
    before = size // 2
    squares = jnp.square(x.astype(jnp.float32))
    window, strides = (*(1,) * (x.ndim - 1), size), (1,) * x.ndim
    pads = (*((0, 0),) * (x.ndim - 1), (before, size - 1 - before))
    energy = jax.lax.reduce_window(squares, 0.0, jax.lax.add, window, strides, pads)
    weight = alpha / size if average else alpha
    return (x / (k + weight * energy) ** beta).astype(x.dtype)
