"""New images from the pixels of old ones: whole pixels exactly, or one bilinear interpolation."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Int, UInt8, UInt32

from cnn_lab.core.arrays import RawImages
from cnn_lab.data.augment.affine import Map
from cnn_lab.data.augment.draws import computed_once
from cnn_lab.data.augment.recipes import Fill

Plane = Float32[Array, "n h w"]
Planes = tuple[Plane, ...]  # one per channel
Places = Float[Array, "n #h #w"]


def whole_pixels(
    images: RawImages, sign: Int[Array, " n"], x: Int[Array, " n"], y: Int[Array, " n"], fill: Fill
) -> RawImages:
    """Mirrors images whose `sign` is -1, then moves them `x` pixels right and `y` down."""
    _, height, width, _ = images.shape
    rows = jnp.arange(height)[None, :] - y[:, None]
    columns = jnp.arange(width)[None, :] - x[:, None]
    columns = jnp.where(sign[:, None] < 0, width - 1 - columns, columns)
    known_rows, known_columns = _known(rows, height, fill), _known(columns, width, fill)
    places = known_rows[:, :, None] * width + known_columns[:, None, :]
    found = _take(images.reshape(len(images), height * width, -1), places)
    if fill != "black":
        return found
    inside = (known_rows == rows)[:, :, None] & (known_columns == columns)[:, None, :]
    return jnp.where(inside[..., None], found, jnp.uint8(0))


def between_pixels(
    images: RawImages, to_old: Map, wander: tuple[Plane, Plane] | None, fill: Fill
) -> Planes:
    """What lies at places between pixels, each a mean of the four nearest.

    Args:
        images: stored pixels.
        to_old: where each new pixel lies in the old image.
        wander: pixels added to those places, (x, y); None adds none.
        fill: what lies outside. The image ends half a pixel beyond the centres of its border
            pixels, as in PIL, and is even there.

    Returns:
        For each channel float32 [n h w], in 0..255.
    """
    num_examples, height, width, num_channels = images.shape
    numbers = jnp.stack([jnp.broadcast_to(number, (num_examples,)) for number in to_old])
    xx, xy, x1, yx, yy, y1 = (row[:, None, None] for row in computed_once(numbers))
    column = (jnp.arange(width, dtype=jnp.float32) - (width - 1) / 2)[None, None, :]
    row = (jnp.arange(height, dtype=jnp.float32) - (height - 1) / 2)[None, :, None]
    x = xx * column + xy * row + x1 + (width - 1) / 2
    y = yx * column + yy * row + y1 + (height - 1) / 2
    if wander is not None:
        x, y = x + wander[0], y + wander[1]
    inside = (x >= -0.5) & (x < width - 0.5) & (y >= -0.5) & (y < height - 0.5)
    x, y = _known(x, width, fill), _known(y, height, fill)
    left, top = jnp.floor(x), jnp.floor(y)
    to_right, down = x - left, y - top
    places = computed_once(top.astype(jnp.int32) * width + left.astype(jnp.int32))

    def channel(number: int) -> Plane:
        words = _take(_neighbours(images[..., number]), places)
        above = _between(_byte(words, 0), _byte(words, 1), to_right)
        below = _between(_byte(words, 2), _byte(words, 3), to_right)
        found = _between(above, below, down)
        return jnp.where(inside, found, jnp.float32(0)) if fill == "black" else found

    return tuple(channel(number) for number in range(num_channels))


def settled(planes: Planes) -> Planes:
    """The channels, computed once before a stage that reads them many times.

    Stages that the compiler merges could also round differently on another number of devices.
    """
    return tuple(computed_once(jnp.stack(planes)))


def planes_of(images: RawImages) -> Planes:
    """The channels of stored images as float32."""
    return tuple(images[..., c].astype(jnp.float32) for c in range(images.shape[-1]))


def images_of(planes: Planes) -> Float32[Array, "n h w c"]:
    """Channels put together again; by choice, since XLA's CPU compiler interleaves slowly."""
    shape = (*planes[0].shape, len(planes))
    number = jax.lax.broadcasted_iota(jnp.int32, shape, 3)
    found = jnp.broadcast_to(planes[-1][..., None], shape)
    for channel in range(len(planes) - 1):
        found = jnp.where(number == channel, planes[channel][..., None], found)
    return found


def _known(places: Array, length: int, fill: Fill) -> Array:
    """The places inside [0, length - 1] that stand for places anywhere."""
    if fill == "reflect" and length > 1:
        period = 2 * (length - 1)
        # Not `%`, which costs a call of the C library for every place between pixels.
        places = places - period * jnp.floor(places / period).astype(places.dtype)
        places = jnp.minimum(places, period - places)
    return jnp.clip(places, 0, length - 1)


def _take(values: Array, places: Int[Array, "n h w"]) -> Array:
    """values[i, places[i]] for each image i, whose places are inside."""

    def one(own: Array, places: Array) -> Array:
        return own.at[places].get(mode="promise_in_bounds", wrap_negative_indices=False)

    return jax.vmap(one)(values, places)


def _neighbours(channel: UInt8[Array, "n h w"]) -> UInt32[Array, "n h*w"]:
    """Each pixel with those to the right, below and both, in one word, so that one look-up gets
    all four. Beyond the border lies anything: there the weights are 0.
    """  # noqa: D205
    num_examples, height, width = channel.shape
    pixels = channel.reshape(num_examples, height * width).astype(jnp.uint32)
    pairs = pixels | (_later(pixels, 1) << jnp.uint32(8))
    return pairs | (_later(pairs, width) << jnp.uint32(16))


def _later(values: UInt32[Array, "n hw"], places: int) -> UInt32[Array, "n hw"]:
    return jax.lax.pad(values, jnp.uint32(0), ((0, 0, 0), (-places, places, 0)))


def _byte(words: UInt32[Array, "n h w"], number: int) -> Plane:
    return ((words >> jnp.uint32(8 * number)) & jnp.uint32(255)).astype(jnp.float32)


def _between(first: Plane, second: Plane, share: Plane) -> Plane:
    return first + share * (second - first)
