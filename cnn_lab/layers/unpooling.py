"""The way back from pooled maps: nearest neighbour, remembered maxima, transposed convolution."""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jax import lax
from jaxtyping import Array, Float, Int32

from cnn_lab.core.errors import ConfigError
from cnn_lab.core.shapes import Images
from cnn_lab.layers.windows import Size, Windows, per_axis, times

Maps = Float[Array, "n *space c"]


def nearest_unpool(maps: Maps, factor: Size) -> Float[Array, "n *unpooled c"]:
    """Repeats every pixel `factor` times along each axis."""
    for axis, times_ in enumerate(per_axis(factor, maps.ndim - 2, "factor"), start=1):
        maps = jnp.repeat(maps, times_, axis)
    return maps


def max_pool_with_indices(
    images: Images, window: Size, strides: Size | None = None, padding: Size = 0
) -> tuple[Float[Array, "n r s c"], Int32[Array, "n r s c"]]:
    """Maximum of each window, and where it was.

    Args:
        images: [n h w c].
        window: side of the window in pixels, or (height, width).
        strides: pixels between windows; None is the window itself.
        padding: pixels added on both sides, which never win.

    Returns:
        The maxima [n r s c], and the winner's row * w + column in the unpadded map, the first one
        on ties, int32 [n r s c].
    """
    height, width = images.shape[1:3]
    windows = Windows.over((height, width), window, strides, padding, ceil_mode=False)
    (top, bottom), (left, right) = windows.pads
    fill = ((0, 0), (top, bottom), (left, right), (0, 0))
    padded = jnp.pad(images, fill, constant_values=-jnp.inf)
    place = jnp.arange(height * width, dtype=jnp.int32).reshape(1, height, width, 1)
    place = jnp.pad(place, fill)
    values, indices = None, None
    (rows, columns), (row_stride, column_stride) = windows.counts, windows.strides
    for i in range(windows.sides[0]):
        for j in range(windows.sides[1]):
            taken = (
                slice(None),
                slice(i, i + (rows - 1) * row_stride + 1, row_stride),
                slice(j, j + (columns - 1) * column_stride + 1, column_stride),
            )
            value = padded[taken]
            index = jnp.broadcast_to(place[taken], value.shape)
            if values is None or indices is None:
                values, indices = value, index
            else:
                wins = value > values
                values, indices = jnp.where(wins, value, values), jnp.where(wins, index, indices)
    assert values is not None
    assert indices is not None
    return values, indices


def max_unpool(
    pooled: Float[Array, "n r s c"],
    indices: Int32[Array, "n r s c"],
    size: Sequence[int],
    tile: Size | None = None,
) -> Images:
    """Puts pooled values back where they came from, zeros elsewhere (Zeiler, Krishnan, Taylor,
    Fergus 2010; Noh, Hong, Han 2015, arXiv:1505.04366).

    Args:
        pooled: values [n r s c].
        indices: as `max_pool_with_indices` returns them.
        size: (h, w) of the map that was pooled. Where windows overlapped, one of the values stays.
        tile: the window, where windows lay side by side without padding; every pixel is then asked
            whether it won, which on CPU is faster than scattering.

    Returns:
        [n h w c].
    """  # noqa: D205 - a citation
    n, rows, columns, channels = pooled.shape
    height, width = size
    if tile is not None:
        vertical, horizontal = per_axis(tile, 2, "tile")
        covered = (rows * vertical, columns * horizontal)
        place = jnp.arange(height * width, dtype=jnp.int32).reshape(1, height, width, 1)
        won = place[:, : covered[0], : covered[1]] == _repeated(indices, vertical, horizontal)
        filled = jnp.where(won, _repeated(pooled, vertical, horizontal), 0)
        beyond = ((0, 0), (0, height - covered[0]), (0, width - covered[1]), (0, 0))
        return jnp.pad(filled, beyond)
    flat = jnp.zeros((n, height * width, channels), pooled.dtype)
    example, channel = jnp.arange(n)[:, None, None], jnp.arange(channels)[None, None]
    filled = flat.at[example, indices.reshape(n, -1, channels), channel].set(
        pooled.reshape(n, -1, channels)
    )
    return filled.reshape(n, height, width, channels)


def _repeated(maps, vertical: int, horizontal: int):
    return jnp.repeat(jnp.repeat(maps, vertical, 1), horizontal, 2)


class ConvTranspose(nn.Module):
    """Transposed convolution with torch's arithmetic of sizes (Dumoulin & Visin 2016,
    arXiv:1603.07285, chapter 4).

    The output has (size - 1) * stride - 2 padding + dilation * (kernel - 1) + output_padding + 1
    pixels per axis. The kernel is that of the convolution of which this is the gradient, with its
    two channel axes exchanged: [*kernel c features], not flipped.

    Attributes:
        features: channels of the result.
        kernel_size: pixels, or one per axis of space.
        strides: pixels of the result between those of the input.
        padding: pixels cut from both sides of the result.
        output_padding: pixels added at the far side, below the stride or the dilation.
        dilation: pixels of the result between weights.
        use_bias: whether a bias is added.
        kernel_init: initialiser.
        dtype: of the computation.
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
        padding = per_axis(self.padding, axes, "padding", least=0)
        extra = per_axis(self.output_padding, axes, "output_padding", least=0)
        if any(e >= max(s, d) for e, s, d in zip(extra, strides, dilation, strict=True)):
            raise ConfigError(
                f"output_padding must be below the stride or the dilation; found {times(extra)} "
                f"with strides {times(strides)} and dilation {times(dilation)}."
            )
        reach = [d * (k - 1) for d, k in zip(dilation, sides, strict=True)]
        settings = zip(maps.shape[1:-1], strides, reach, padding, extra, strict=True)
        sizes = [(size - 1) * s + r + 1 - 2 * p + e for size, s, r, p, e in settings]
        if min(sizes) < 1:
            raise ConfigError(
                f"A transposed convolution with padding {times(padding)} leaves no pixel of a map "
                f"of {times(maps.shape[1:-1])}; lower the padding."
            )
        kernel = self.param("kernel", self.kernel_init, (*sides, maps.shape[-1], self.features))
        bias = (
            self.param("bias", nn.initializers.zeros, (self.features,)) if self.use_bias else None
        )
        maps, kernel, bias = promote_dtype(maps, kernel, bias, dtype=self.dtype)
        if _is_tiling(sides, strides, (*padding, *extra), dilation):
            y = _side_by_side(maps, kernel)
            return y if bias is None else y + bias.reshape(*(1,) * (axes + 1), -1)
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


def _is_tiling(sides, strides, added, dilation) -> bool:
    return sides == strides and not any(added) and set(dilation) == {1}


def _side_by_side(maps, kernel):
    """Patches that do not overlap: one dense product, then the patches laid out."""
    axes = maps.ndim - 2
    patches = jnp.tensordot(maps, jnp.moveaxis(kernel, -2, 0), axes=1)  # [n *space *kernel f]
    order = [0, *(a + 1 + b for a in range(axes) for b in (0, axes)), 2 * axes + 1]
    larger = (s * k for s, k in zip(maps.shape[1:-1], kernel.shape, strict=False))
    return patches.transpose(order).reshape(maps.shape[0], *larger, kernel.shape[-1])
