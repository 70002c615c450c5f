"""The way back from pooled maps: nearest neighbour, remembered maxima, transposed convolution."""

import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jax import lax
from jaxtyping import Array, Float, Int32

from cnn_lab.core.errors import ConfigError
from cnn_lab.layers.convolution import shifted_maps
from cnn_lab.layers.windows import Size, Windows, per_axis, times

Maps = Float[Array, "n *space c"]


def nearest_unpool(maps: Maps, factor: Size) -> Float[Array, "n *unpooled c"]:
    """Repeats every pixel `factor` times along each axis."""
    return _repeated(maps, per_axis(factor, maps.ndim - 2, "factor"))


def max_pool_with_indices(
    maps: Maps,
    window: Size,
    strides: Size | None = None,
    padding: Size = 0,
    *,
    ceil_mode: bool = False,
) -> tuple[Float[Array, "n *pooled c"], Int32[Array, "n *pooled c"]]:
    """Maximum of each window, and where it was; the arguments are those of `max_pool`.

    Returns:
        The maxima [n *pooled c], and the winner's number in the unpadded map in reading order (row
        * width + column of an image), the first one on ties, int32 [n *pooled c].
    """
    space = maps.shape[1:-1]
    windows = Windows.over(space, window, strides, padding, ceil_mode=ceil_mode)
    fill = ((0, 0), *windows.pads, (0, 0))
    padded = jnp.pad(maps, fill, constant_values=-jnp.inf)
    places = jnp.pad(_places(space), fill)
    values, *others = shifted_maps(padded, windows.sides, windows.counts, windows.strides)
    index, *indices = shifted_maps(places, windows.sides, windows.counts, windows.strides)
    winners = jnp.broadcast_to(index, values.shape)
    for value, index in zip(others, indices, strict=True):
        wins = (value > values) | jnp.isnan(value)  # what is not a number is not hidden
        values, winners = jnp.where(wins, value, values), jnp.where(wins, index, winners)
    return values, winners


def max_unpool(
    pooled: Float[Array, "n *pooled c"],
    indices: Int32[Array, "n *pooled c"],
    size: Sequence[int],
    tile: Size | None = None,
) -> Maps:
    """Puts pooled values back where they came from, zeros elsewhere (Zeiler, Krishnan, Taylor,
    Fergus 2010; Noh, Hong, Han 2015, arXiv:1505.04366).

    Args:
        pooled: values [n *pooled c].
        indices: as `max_pool_with_indices` returns them.
        size: of the map that was pooled, and of the result [n *size c]; where windows overlapped,
            one of the values stays. A size that cannot have been pooled is a `ConfigError`.
        tile: the window, where windows lay side by side without padding; every pixel is then
            compared with its winner, which on CPU is faster than scattering.
    """  # noqa: D205 - a citation
    n, *counts, channels = pooled.shape
    sides = (1,) * len(counts) if tile is None else per_axis(tile, len(counts), "tile")
    covered = tuple(count * side for count, side in zip(counts, sides, strict=True))
    fits = len(size) == len(counts)
    if not fits or any(c > s for c, s in zip(covered, size, strict=True)):
        allowed = "the size of the map that was pooled"
        problem = f"Maps of {times(counts)} cannot be unpooled to {times(size)} pixels"
        raise ConfigError(f"{problem}; give {allowed}.", where="size", found=size, allowed=allowed)
    if tile is not None:
        place = _places(size)[(slice(None), *map(slice, covered))]
        filled = jnp.where(place == _repeated(indices, sides), _repeated(pooled, sides), 0)
        beyond = [(0, s - c) for c, s in zip(covered, size, strict=True)]
        return jnp.pad(filled, ((0, 0), *beyond, (0, 0)))
    flat = jnp.zeros((n, math.prod(size), channels), pooled.dtype)
    example, channel = jnp.arange(n)[:, None, None], jnp.arange(channels)[None, None]
    filled = flat.at[example, indices.reshape(n, -1, channels), channel].set(
        pooled.reshape(n, -1, channels)
    )
    return filled.reshape(n, *size, channels)


def _places(space: Sequence[int]) -> jax.Array:
    """The number of every pixel in reading order [1 *space 1]."""
    return jnp.arange(math.prod(space), dtype=jnp.int32).reshape(1, *space, 1)


def _repeated(maps: jax.Array, factors: Sequence[int]) -> jax.Array:
    for axis, factor in enumerate(factors, start=1):
        maps = jnp.repeat(maps, factor, axis)
    return maps


class ConvTranspose(nn.Module):
    """Transposed convolution with torch's arithmetic of sizes (Dumoulin & Visin 2016,
    arXiv:1603.07285, chapter 4).

    The output has (size - 1) * stride - 2 padding + dilation * (kernel - 1) + output_padding + 1
    pixels per axis. The kernel is that of the convolution of which this is the gradient, with its
    two channel axes exchanged: [*kernel c features], not flipped.

    Attributes:
        strides: pixels of the result from one pixel of the input to the next.
        padding: pixels cut from both sides of the result.
        output_padding: pixels added at the far side, below the stride or the dilation.
        dilation: pixels of the result from one weight of the kernel to the next.
        kernel_init: where patches lie side by side, the fan-in is the number of channels: no more
            weights meet in a value of the result.
    """  # noqa: D205 - a citation

    features: int
    kernel_size: Size
    strides: Size = 1
    padding: Size = 0
    output_padding: Size = 0
    dilation: Size = 1
    use_bias: bool = True
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
    dtype: str = "float32"

    @nn.compact
    def __call__(self, maps: Maps) -> Float[Array, "n *larger f"]:
        """Maps [n *space c] to [n *larger features]."""
        axes = maps.ndim - 2
        sides = per_axis(self.kernel_size, axes, "kernel_size")
        strides = per_axis(self.strides, axes, "strides")
        dilation = per_axis(self.dilation, axes, "dilation")
        padding = per_axis(self.padding, axes, "padding", minimum=0)
        extra = per_axis(self.output_padding, axes, "output_padding", minimum=0)
        if any(e >= max(s, d) for e, s, d in zip(extra, strides, dilation, strict=True)):
            allowed = f"below the strides, {times(strides)}, or the dilation, {times(dilation)}"
            raise ConfigError(where="output_padding", found=self.output_padding, allowed=allowed)
        reach = [d * (k - 1) for d, k in zip(dilation, sides, strict=True)]
        settings = zip(maps.shape[1:-1], strides, reach, padding, extra, strict=True)
        sizes = [(size - 1) * s + r + 1 - 2 * p + e for size, s, r, p, e in settings]
        if min(sizes) < 1:
            space = times(maps.shape[1:-1])
            allowed = f"low enough for the transposed convolution to leave a pixel of {space}"
            raise ConfigError(where="padding", found=self.padding, allowed=allowed)
        is_tiling = sides == strides and not any((*padding, *extra)) and set(dilation) == {1}
        init = _of_patches(self.kernel_init) if is_tiling else self.kernel_init
        kernel = self.param("kernel", init, (*sides, maps.shape[-1], self.features))
        bias = None
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,))
        maps, kernel, bias = promote_dtype(maps, kernel, bias, dtype=self.dtype)
        if is_tiling:
            y = _side_by_side(maps, kernel)
        else:
            space = "DHW"[-axes:]
            y = lax.conv_general_dilated(
                maps,
                jnp.flip(kernel, range(axes)),
                (1,) * axes,
                [(r - p, r - p + e) for r, p, e in zip(reach, padding, extra, strict=True)],
                lhs_dilation=strides,
                rhs_dilation=dilation,
                dimension_numbers=(f"N{space}C", f"{space}IO", f"N{space}C"),
            )
        return y if bias is None else y + bias.reshape(*(1,) * (axes + 1), -1)


def _of_patches(init: nn.initializers.Initializer) -> nn.initializers.Initializer:
    """Draws a kernel [*kernel c f] as that of the dense product that makes patches of pixels."""

    def draw(key, shape, dtype=jnp.float32):
        *sides, channels, features = shape
        dense = init(key, (channels, math.prod(sides) * features), dtype)
        return jnp.moveaxis(dense.reshape(channels, *sides, features), 0, -2)

    return draw


def _side_by_side(maps, kernel):
    """Patches that do not overlap: one dense product, then the patches laid out."""
    axes = maps.ndim - 2
    patches = jnp.tensordot(maps, jnp.moveaxis(kernel, -2, 0), axes=1)  # [n *space *kernel f]
    order = [0, *(a + 1 + b for a in range(axes) for b in (0, axes)), 2 * axes + 1]
    larger = (s * k for s, k in zip(maps.shape[1:-1], kernel.shape, strict=False))
    return patches.transpose(order).reshape(maps.shape[0], *larger, kernel.shape[-1])
