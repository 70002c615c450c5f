"""Windows of poolings and convolutions: sizes per axis of space, places and padding."""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

from cnn_lab.core.errors import ConfigError

Size = int | Sequence[int]


@dataclasses.dataclass(frozen=True)
class Windows:
    """Windows over maps [n *space c]; one entry per axis of space.

    Attributes:
        shape: of the maps, in space.
        sides: of a window, in pixels.
        strides: pixels between windows.
        padding: pixels added on both sides.
        ceil_mode: whether a last window may hang over the far edge.
    """

    shape: tuple[int, ...]
    sides: tuple[int, ...]
    strides: tuple[int, ...]
    padding: tuple[int, ...]
    ceil_mode: bool

    @classmethod
    def over(
        cls,
        shape: Sequence[int],
        window: Size,
        strides: Size | None,
        padding: Size,
        *,
        ceil_mode: bool,
    ) -> "Windows":
        """Windows over maps of that shape in space.

        Raises:
            ConfigError: a window that does not fit, or a padding of more than half of it.
        """
        axes = len(shape)
        sides = per_axis(window, axes, "window")
        windows = cls(
            tuple(shape),
            sides,
            sides if strides is None else per_axis(strides, axes, "strides"),
            per_axis(padding, axes, "padding", minimum=0),
            ceil_mode,
        )
        for length, side, pad in zip(shape, sides, windows.padding, strict=True):
            if pad > side // 2:
                raise ConfigError(
                    f"A pooling window of {times(sides)} may be padded by at most half of itself; "
                    f"found a padding of {pad}."
                )
            if length + 2 * pad < side:
                raise ConfigError(
                    f"A pooling window of {times(sides)} does not fit a map of {times(shape)}: the "
                    "image is too small for this model; set data.image_size, data.pad or --input."
                )
        return windows

    @property
    def counts(self) -> tuple[int, ...]:
        """Windows per axis."""
        counts = []
        for length, side, stride, pad in self._axes():
            free = length + 2 * pad - side
            count = (-(-free // stride) if self.ceil_mode else free // stride) + 1
            if (count - 1) * stride >= length + pad:
                count -= 1  # a window must begin inside the map or its near padding
            counts.append(count)
        return tuple(counts)

    @property
    def pads(self) -> tuple[tuple[int, int], ...]:
        """Pixels before and after each axis, so that the last window is whole."""
        ends = zip(self._axes(), self.counts, strict=True)
        return tuple(
            (pad, max(0, (count - 1) * stride + side - length - pad))
            for (length, side, stride, pad), count in ends
        )

    @property
    def is_tiling(self) -> bool:
        """Whether the windows stand side by side on the map, with nothing added."""
        return self.strides == self.sides and all(
            before == after == 0 for before, after in self.pads
        )

    @property
    def within(self) -> tuple[int, ...]:
        """The axes of `tiles` inside a window."""
        return tuple(range(2, 2 + 2 * len(self.sides), 2))

    def tiles(self, maps: jax.Array) -> jax.Array:
        """Maps [n *space c] as [n rows window columns window ... c]; what is left over is cut."""
        covered = tuple(c * s for c, s in zip(self.counts, self.sides, strict=True))
        cut = maps[(slice(None), *(slice(length) for length in covered))]
        pairs = zip(self.counts, self.sides, strict=True)
        return cut.reshape(maps.shape[0], *(s for pair in pairs for s in pair), maps.shape[-1])

    def pixels(self, *, count_padding: bool) -> np.ndarray:
        """Number of pixels of each window that count [1 *pooled 1]; what hangs over does not."""
        counts = np.ones((1,) * len(self.sides))
        for axis, ((length, side, stride, pad), number) in enumerate(
            zip(self._axes(), self.counts, strict=True)
        ):
            start = np.arange(number) * stride - pad
            end = np.minimum(start + side, length + pad)
            if not count_padding:
                start, end = np.maximum(start, 0), np.minimum(end, length)
            shape = [-1 if a == axis else 1 for a in range(len(self.sides))]
            counts = counts * (end - start).reshape(shape)
        return counts[None, ..., None]

    def _axes(self) -> list[tuple[int, int, int, int]]:
        return list(zip(self.shape, self.sides, self.strides, self.padding, strict=True))


def per_axis(size: Size, axes: int, name: str, minimum: int = 1) -> tuple[int, ...]:
    """One entry per axis of space, from one for all or one each.

    Raises:
        ConfigError: another number of entries, or one below `minimum`.
    """
    sizes = (size,) * axes if isinstance(size, int) else tuple(size)
    if len(sizes) != axes or min(sizes) < minimum:
        raise ConfigError(
            f"{name} must be a number of at least {minimum}, or {axes} of them; found {size}."
        )
    return sizes


def times(sizes: Sequence[int]) -> str:
    """Sizes as people write them: 3x3."""
    return "x".join(map(str, sizes))
