"""Pooling over windows and over whole maps.

Maps are [n *space c] with one, two or three axes of space. Windows that do not overlap are computed
by reshaping: on CPU a windowed reduction costs several times more, in both directions. Sums over
windows are float32 inside, whatever the dtype of the maps.

Pools of windows share their arguments. `window` is a side in pixels and `strides` the pixels from
one window to the next (None: the window itself), one number or one per axis. `padding` are pixels
on both sides, at most half the window. In `ceil_mode` a last window may hang over the far edge. The
result has floor((size + 2 padding - window) / stride) + 1 pixels per axis, or ceil. A window that
does not fit the padded map is a `ConfigError`.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from cnn_lab.core.errors import ConfigError
from cnn_lab.layers.scopes import as_layer
from cnn_lab.layers.windows import Size, Windows, per_axis

Maps = Float[Array, "n *space c"]
Pooled = Float[Array, "n *pooled c"]
LARGEST_TILE = 16  # pixels; the gradient compares them one by one


@as_layer
def max_pool(
    maps: Maps,
    window: Size,
    strides: Size | None = None,
    padding: Size = 0,
    *,
    ceil_mode: bool = False,
) -> Pooled:
    """Maximum of each window, in which padding never wins.

    The gradient goes to the maximum, the first one in reading order on ties.
    """
    windows = Windows.over(maps.shape[1:-1], window, strides, padding, ceil_mode=ceil_mode)
    if windows.is_tiling and math.prod(windows.sides) <= LARGEST_TILE:
        return _tile_max(*windows.tiles(maps))
    return _reduce_windows(maps, windows, -jnp.inf, lax.max)


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

    Zeros of the padding count as pixels, unless `count_padding` is false; what hangs over the edge
    never does.
    """
    windows = Windows.over(maps.shape[1:-1], window, strides, padding, ceil_mode=ceil_mode)
    if windows.is_tiling:
        tiles, within = windows.tiles(maps)
        return tiles.mean(within)
    counted = jnp.asarray(windows.pixels(count_padding=count_padding), jnp.float32)
    totals = _reduce_windows(maps.astype(jnp.float32), windows, 0.0, lax.add)
    return (totals / counted).astype(maps.dtype)


@as_layer
def lp_pool(maps: Maps, window: Size, strides: Size | None = None, *, power: float = 2.0) -> Pooled:
    """The L_p norm of each window, between the sum of magnitudes (1) and their maximum (infinity).

    The gradient of a window of zeros is zero. A power below 1 or not finite is a `ConfigError`.
    """
    if not 1 <= power < math.inf:
        raise ConfigError(
            where="The power of lp_pool",
            found=power,
            allowed="at least 1 and finite",
            advice="its limit at infinity is max_pool of the magnitudes",
        )
    windows = Windows.over(maps.shape[1:-1], window, strides, 0, ceil_mode=False)
    terms = jnp.abs(maps.astype(jnp.float32)) ** power
    if windows.is_tiling:
        tiles, within = windows.tiles(terms)
        totals = tiles.sum(within)
    else:
        totals = _reduce_windows(terms, windows, 0.0, lax.add)
    positive = totals > 0
    norms = jnp.where(positive, jnp.where(positive, totals, 1) ** (1 / power), 0)
    return norms.astype(maps.dtype)


@as_layer
def stochastic_pool(maps: Maps, window: Size, key: jax.Array | None = None) -> Pooled:
    """One value of each window, drawn in proportion to its size (Zeiler & Fergus 2013,
    arXiv:1301.3557); zero for a window of zeros.

    Maps are not negative, and windows lie side by side. Without `key`, the expected value takes the
    place of a draw, as in evaluation.
    """  # noqa: D205 - a citation
    windows = Windows.over(maps.shape[1:-1], window, None, 0, ceil_mode=False)
    tiles, within = windows.tiles(maps)
    tiles = jnp.moveaxis(tiles, within, range(-len(within), 0))
    tiles = tiles.reshape(*tiles.shape[: -len(within)], -1)
    totals = tiles.sum(-1, keepdims=True)
    shares = tiles / jnp.where(totals > 0, totals, 1)
    if key is None:
        return (shares * tiles).sum(-1)
    drawn = jax.random.categorical(key, jnp.log(jnp.where(totals > 0, shares, 1)))
    return jnp.take_along_axis(tiles, drawn[..., None], -1)[..., 0]


@as_layer
def adaptive_average_pool(maps: Maps, size: Size) -> Pooled:
    """Means of `size` windows per axis that cover the map, whatever its size: [n *size c].

    Window i of an axis of length L begins at floor(i L / size) and ends at ceil((i + 1) L / size),
    so windows may overlap, and repeat pixels where the map is smaller than `size`.
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


def _reduce_windows(maps: jax.Array, windows: Windows, initial: float, reduce: Any) -> jax.Array:
    sides, strides = (1, *windows.sides, 1), (1, *windows.strides, 1)
    pads = ((0, 0), *windows.pads, (0, 0))
    return lax.reduce_window(maps, initial, reduce, sides, strides, pads)


def _tile_max_forward(tiles: jax.Array, within: tuple[int, ...]):
    winners = tiles.max(within)
    return winners, (tiles, winners)


def _tile_max_backward(within: tuple[int, ...], residuals, gradient):
    tiles, winners = residuals
    sides = [tiles.shape[axis] for axis in within]
    place = jnp.full(winners.shape, math.prod(sides) - 1, jnp.int32)
    for candidate in reversed(range(math.prod(sides) - 1)):
        at = np.unravel_index(candidate, sides)
        chosen = tiles[(slice(None), *(part for i in at for part in (slice(None), int(i))))]
        place = jnp.where(chosen == winners, candidate, place)
    index = np.arange(math.prod(sides), dtype=np.int32).reshape(
        1, *(s for side in sides for s in (1, side)), 1
    )
    won = jnp.expand_dims(place, within) == index
    return (jnp.where(won, jnp.expand_dims(gradient, within), jnp.zeros((), gradient.dtype)),)


_tile_max = jax.custom_vjp(lambda tiles, within: tiles.max(within), nondiff_argnums=(1,))
_tile_max.defvjp(_tile_max_forward, _tile_max_backward)
