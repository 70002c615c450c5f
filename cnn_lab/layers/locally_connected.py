"""Convolution without weight sharing: every position has kernels of its own."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jaxtyping import Array, Float

from cnn_lab.core.arrays import Key
from cnn_lab.core.errors import ConfigError
from cnn_lab.layers.convolution import shifted_maps
from cnn_lab.layers.windows import Size, per_axis, times


class LocallyConnected(nn.Module):
    """The windows of a convolution, each with weights of its own (LeCun 1989, "Generalization and
    network design strategies"; Taigman et al. 2014, DeepFace).

    The kernel is [*positions *kernel c features] and is drawn at every position as that of a
    convolution would. (Linen's `ConvLocal` counts positions as part of the receptive field, so that
    its weights are drawn smaller the larger the map is.)

    A kernel that does not fit the padded map is a `ConfigError`.

    Attributes:
        kernel_size: pixels, or one per axis of space, as of strides and padding.
        use_bias: whether a bias for every position and feature is added.
        kernel_init: initialiser of one position's kernel [*kernel c features].
    """  # noqa: D205 - a citation

    features: int
    kernel_size: Size
    strides: Size = 1
    padding: Size = 0
    use_bias: bool = True
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
    dtype: str = "float32"

    @nn.compact
    def __call__(self, maps: Float[Array, "n *space c"]) -> Float[Array, "n *positions f"]:
        """Maps [n *space c] to [n *positions features]."""
        axes, channels = maps.ndim - 2, maps.shape[-1]
        sides = per_axis(self.kernel_size, axes, "kernel_size")
        strides = per_axis(self.strides, axes, "strides")
        padding = per_axis(self.padding, axes, "padding", minimum=0)
        lengths = [size + 2 * pad for size, pad in zip(maps.shape[1:-1], padding, strict=True)]
        if any(length < side for length, side in zip(lengths, sides, strict=True)):
            raise ConfigError(
                f"A kernel of {times(sides)} does not fit a map of {times(maps.shape[1:-1])} with "
                f"padding {times(padding)}; use larger images or a smaller kernel.",
                where="kernel_size",
                found=self.kernel_size,
            )
        settings = zip(lengths, sides, strides, strict=True)
        positions = tuple((length - side) // stride + 1 for length, side, stride in settings)

        def init(key: Key, shape: tuple[int, ...]) -> jax.Array:
            keys = jax.random.split(key, math.prod(positions))
            each = jax.vmap(lambda key: self.kernel_init(key, shape[axes:], jnp.float32))
            return each(keys).reshape(shape)

        kernel = self.param("kernel", init, (*positions, *sides, channels, self.features))
        bias = None
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (*positions, self.features))
        maps, kernel, bias = promote_dtype(maps, kernel, bias, dtype=self.dtype)
        padded = jnp.pad(maps, ((0, 0), *((pad, pad) for pad in padding), (0, 0)))
        windows = shifted_maps(padded, sides, positions, strides)
        patches = jnp.stack(windows, -2)  # [n *positions kernel c]
        flat = kernel.reshape(*positions, len(windows), channels, self.features)
        y = jnp.einsum("n...kc,...kcf->n...f", patches, flat)
        return y if bias is None else y + bias[None]
