"""Pooling over windows and over whole maps.

Maps are [n *space c] with one, two or three axes of space. Windows that do not overlap are computed
by reshaping: on CPU a windowed reduction costs several times more, in both directions. Sums over
windows are float32 inside, whatever the dtype of the maps. Scopes name the poolings in programs,
where profilers and `analysis` read them.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Concatenate, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

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


P = ParamSpec("P")
R = TypeVar("R")


def as_layer(
    function: Callable[Concatenate[jax.Array, P], R],
) -> Callable[Concatenate[jax.Array, P], R]:
    """Puts a function of maps under a scope of its name, for profilers and `analysis`.

    The maps it is called with pass a marker of the same name, which costs nothing and sets one
    call apart from the next.
    """
    name = function.__name__

    @functools.wraps(function)
    def named(maps: jax.Array, *args: P.args, **kwargs: P.kwargs) -> R:
        with jax.named_scope(name):
            return function(checkpoint_name(maps, name), *args, **kwargs)

    return named


def is_call(equation: Any, name: str) -> bool:
    """Whether an equation of a program is the marker of a call of that function."""
    return equation.primitive.name == "name" and equation.params["name"] == name


LARGEST_TILE = 16  # pixels; the gradient compares them one by one
Maps = Float[Array, "n *space c"]
Pooled = Float[Array, "n *pooled c"]


@as_layer
def max_pool(
    maps: Maps,
    window: Size,
    strides: Size | None = None,
    padding: Size = 0,
    *,
    ceil_mode: bool = False,
) -> Pooled:
    """Maximum of each window.

    The gradient goes to the maximum, the first one in reading order on ties.

    Args:
        maps: [n *space c].
        window: side of the window in pixels, or one per axis.
        strides: pixels between windows; None is the window itself.
        padding: pixels added on both sides, which never win; at most half the window.
        ceil_mode: keep a last window that hangs over the edge.

    Returns:
        [n *pooled c] with floor((size + 2 padding - window) / stride) + 1 pixels per axis, or ceil.

    Raises:
        ConfigError: the window does not fit the padded map.
    """
    windows = Windows.over(maps.shape[1:-1], window, strides, padding, ceil_mode=ceil_mode)
    if windows.is_tiling and math.prod(windows.sides) <= LARGEST_TILE:
        return _tile_max(windows.tiles(maps))
    return lax.reduce_window(
        maps,
        -jnp.inf,
        lax.max,
        (1, *windows.sides, 1),
        (1, *windows.strides, 1),
        ((0, 0), *windows.pads, (0, 0)),
    )


@as_layer
def average_pool(
    maps: Maps,
    window: Size,
    strides: Size | None = None,
    padding: Size = 0,
    *,
    ceil_mode: bool = False,
    count_padding: bool = True,
) -> Pooled:
    """Mean of each window.

    Args:
        maps: [n *space c].
        window: side of the window in pixels, or one per axis.
        strides: pixels between windows; None is the window itself.
        padding: zeros added on both sides, in pixels; at most half the window.
        ceil_mode: keep a last window that hangs over the edge; what hangs over is not counted.
        count_padding: whether the zeros of the padding count as pixels.

    Returns:
        [n *pooled c].

    Raises:
        ConfigError: the window does not fit the padded map.
    """
    windows = Windows.over(maps.shape[1:-1], window, strides, padding, ceil_mode=ceil_mode)
    if windows.is_tiling:
        return windows.tiles(maps).mean(windows.within)
    counted = jnp.asarray(windows.pixels(count_padding=count_padding), jnp.float32)
    return (_window_sum(maps, windows) / counted).astype(maps.dtype)


@as_layer
def lp_pool(maps: Maps, window: Size, strides: Size | None = None, *, power: float = 2.0) -> Pooled:
    """The L_p norm of each window, between the sum of magnitudes (1) and their maximum (infinity).

    Args:
        maps: [n *space c].
        window: side of the window in pixels, or one per axis.
        strides: pixels between windows; None is the window itself.
        power: p, finite and at least 1.

    Returns:
        [n *pooled c]; the gradient of a window of zeros is zero.

    Raises:
        ConfigError: `power` is below 1 or not finite, or the window does not fit the map.
    """
    if not 1 <= power < math.inf:
        raise ConfigError(
            f"The power of lp_pool must be at least 1 and finite; found {power}. Its limit at "
            "infinity is max_pool of the magnitudes."
        )
    windows = Windows.over(maps.shape[1:-1], window, strides, 0, ceil_mode=False)
    totals = _window_sum(jnp.abs(maps.astype(jnp.float32)) ** power, windows)
    positive = totals > 0
    norms = jnp.where(positive, jnp.where(positive, totals, 1) ** (1 / power), 0)
    return norms.astype(maps.dtype)


@as_layer
def stochastic_pool(maps: Maps, window: Size, key: jax.Array | None = None) -> Pooled:
    """One value of each window, drawn in proportion to its size (Zeiler & Fergus 2013,
    arXiv:1301.3557).

    Args:
        maps: [n *space c], not negative.
        window: side of the window and stride, or one per axis.
        key: draws in training; None takes the expected value, as in evaluation.

    Returns:
        [n *pooled c]; zero for a window of zeros.
    """  # noqa: D205 - a citation
    windows = Windows.over(maps.shape[1:-1], window, None, 0, ceil_mode=False)
    tiles = jnp.moveaxis(windows.tiles(maps), windows.within, range(-len(windows.within), 0))
    tiles = tiles.reshape(*tiles.shape[: -len(windows.within)], -1)
    totals = tiles.sum(-1, keepdims=True)
    shares = tiles / jnp.where(totals > 0, totals, 1)
    if key is None:
        return (shares * tiles).sum(-1)
    drawn = jax.random.categorical(key, jnp.log(jnp.where(totals > 0, shares, 1)))
    return jnp.take_along_axis(tiles, drawn[..., None], -1)[..., 0]


@as_layer
def adaptive_average_pool(maps: Maps, size: Size) -> Pooled:
    """Means of a fixed number of windows that cover the map, whatever its size.

    Window i of an axis of length L begins at floor(i L / size) and ends at ceil((i + 1) L / size),
    so windows may overlap, and repeat pixels where the map is smaller than `size`.

    Args:
        maps: [n *space c].
        size: windows per axis.

    Returns:
        [n *size c].
    """
    for axis, number in enumerate(per_axis(size, maps.ndim - 2, "size"), start=1):
        length = maps.shape[axis]
        if length == number:
            continue
        if length % number == 0:
            shape = (*maps.shape[:axis], number, length // number, *maps.shape[axis + 1 :])
            maps = maps.reshape(shape).mean(axis + 1)
            continue
        weights = np.zeros((number, length), np.float32)
        for i in range(number):
            start, end = i * length // number, -(-(i + 1) * length // number)
            weights[i, start:end] = 1 / (end - start)
        means = jnp.tensordot(maps.astype(jnp.float32), weights, axes=((axis,), (1,)))
        maps = jnp.moveaxis(means.astype(maps.dtype), -1, axis)
    return maps


@as_layer
def global_average_pool(maps: Maps) -> Float[Array, "n c"]:
    """Mean of each whole map: [n *space c] to [n c] (Lin, Chen, Yan 2013, arXiv:1312.4400)."""
    return maps.mean(range(1, maps.ndim - 1))


@as_layer
def global_max_pool(maps: Maps) -> Float[Array, "n c"]:
    """Maximum of each whole map: [n *space c] to [n c].

    The gradient goes to the maximum, the first one in reading order on ties.
    """
    pixels = maps.reshape(maps.shape[0], -1, maps.shape[-1])
    winner = pixels.argmax(1, keepdims=True)  # `max` would share the gradient among equals
    return jnp.take_along_axis(pixels, winner, 1)[:, 0]


def _window_sum(maps: jax.Array, windows: Windows) -> jax.Array:
    if windows.is_tiling:
        return windows.tiles(maps).sum(windows.within, dtype=jnp.float32)
    return lax.reduce_window(
        maps.astype(jnp.float32),
        0.0,
        lax.add,
        (1, *windows.sides, 1),
        (1, *windows.strides, 1),
        ((0, 0), *windows.pads, (0, 0)),
    )


@jax.custom_vjp
def _tile_max(tiles: jax.Array) -> jax.Array:
    return tiles.max(_within(tiles))


def _tile_max_forward(tiles):
    winners = tiles.max(_within(tiles))
    return winners, (tiles, winners)


def _tile_max_backward(residuals, gradient):
    tiles, winners = residuals
    sides = [tiles.shape[axis] for axis in _within(tiles)]
    place = jnp.full(winners.shape, math.prod(sides) - 1, jnp.int32)
    for candidate in reversed(range(math.prod(sides) - 1)):
        at = np.unravel_index(candidate, sides)
        chosen = tiles[(slice(None), *(part for i in at for part in (slice(None), int(i))))]
        place = jnp.where(chosen == winners, candidate, place)
    index = np.arange(math.prod(sides), dtype=np.int32).reshape(
        1, *(s for side in sides for s in (1, side)), 1
    )
    spread = _within(tiles)
    won = jnp.expand_dims(place, spread) == index
    return (jnp.where(won, jnp.expand_dims(gradient, spread), jnp.zeros((), gradient.dtype)),)


_tile_max.defvjp(_tile_max_forward, _tile_max_backward)


def _within(tiles: jax.Array) -> tuple[int, ...]:
    return tuple(range(2, tiles.ndim - 1, 2))
