"""Windows of poolings and convolutions: sizes per axis of space, places and padding."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from cnn_lab.core.errors import ConfigError

Size = int | Sequence[int]


class Windows(NamedTuple):
    """Windows over maps [n *space c], one entry per axis of space.

    Attributes:
        lengths: of the maps in space.
        sides: of a window, in pixels.
        strides: pixels between windows.
        counts: windows.
        pads: pixels before, as asked for, and after, so that the last window is whole.
        is_tiling: whether the windows stand side by side on the map, with nothing added.
    """

    lengths: tuple[int, ...]
    sides: tuple[int, ...]
    strides: tuple[int, ...]
    counts: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    is_tiling: bool

    @classmethod
    def over(
        cls,
        lengths: Sequence[int],
        window: Size,
        strides: Size | None,
        padding: Size,
        *,
        ceil_mode: bool,
    ) -> "Windows":
        """Windows over maps of that size in space; the arguments are those of a pool."""
        axes, counts, pads = len(lengths), [], []
        sides = per_axis(window, axes, "window")
        steps = sides if strides is None else per_axis(strides, axes, "strides")
        padding = per_axis(padding, axes, "padding", minimum=0)
        for length, side, step, pad in zip(lengths, sides, steps, padding, strict=True):
            if pad > side // 2:
                allowed = f"at most half of the pooling window of {times(sides)}"
                raise ConfigError(where="padding", found=pad, allowed=allowed)
            free = length + 2 * pad - side
            if free < 0:
                raise ConfigError(
                    f"A pooling window of {times(sides)} does not fit a map of {times(lengths)}: "
                    "the image is too small for this model; set data.image_size, data.pad or "
                    "--input.",
                    where="config.data.image_size",
                    found=times(lengths),
                )
            count = (-(-free // step) if ceil_mode else free // step) + 1
            if (count - 1) * step >= length + pad:
                count -= 1  # a window must begin inside the map or its near padding
            counts.append(count)
            pads.append((pad, max(0, (count - 1) * step + side - length - pad)))
        is_tiling = steps == sides and not any(map(any, pads))
        return cls(tuple(lengths), sides, steps, tuple(counts), tuple(pads), is_tiling)

    def tiles(self, maps: jax.Array) -> tuple[jax.Array, tuple[int, ...]]:
        """Maps [n *space c] as [n rows window columns window ... c]; what is left over is cut.

        The second result are the axes inside a window.
        """
        pairs = list(zip(self.counts, self.sides, strict=True))
        cut = maps[(slice(None), *(slice(count * side) for count, side in pairs))]
        shape = (maps.shape[0], *(size for pair in pairs for size in pair), maps.shape[-1])
        return cut.reshape(shape), tuple(range(2, len(shape) - 1, 2))

    def pixels(self, *, count_padding: bool) -> np.ndarray:
        """Number of pixels of each window that count [1 *pooled 1]; what hangs over does not."""
        counts = np.ones((1,) * len(self.sides))
        axes = zip(self.lengths, self.sides, self.strides, self.pads, self.counts, strict=True)
        for axis, (length, side, stride, (pad, _), number) in enumerate(axes):
            start = np.arange(number) * stride - pad
            end = np.minimum(start + side, length + pad)
            if not count_padding:
                start, end = np.maximum(start, 0), np.minimum(end, length)
            shape = [-1 if a == axis else 1 for a in range(len(self.sides))]
            counts = counts * (end - start).reshape(shape)
        return counts[None, ..., None]


def per_axis(size: Size, axes: int, name: str, minimum: int = 1) -> tuple[int, ...]:
    """One entry per axis of space, from one for all or one each.

    Another number of entries, or one below `minimum`, is a `ConfigError`.
    """
    sizes = (size,) * axes if isinstance(size, int) else tuple(size)
    if len(sizes) != axes or min(sizes) < minimum:
        allowed = f"a number of at least {minimum}, or {axes} of them"
        raise ConfigError(where=name, found=size, allowed=allowed)
    return sizes


def times(sizes: Sequence[int]) -> str:
    """Sizes as people write them: 3x3."""
    return "x".join(map(str, sizes))
