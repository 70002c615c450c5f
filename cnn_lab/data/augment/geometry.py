"""Pixels moved: flips, shifts, crops, rotations and the like as one map, and elastic distortion.

A map takes the pixels of the new image to places in the old one, one map per image. It holds six
numbers (xx, xy, x1, yx, yy, y1), each [n] or one for all: the new pixel (x, y) shows the old image
at (xx x + xy y + x1, yx x + yy y + y1). Both count in pixels from the image's centre, x to the
right and y down. Whole pixels are moved exactly; all other maps share one bilinear interpolation.

Elastic distortion: a smooth random field displaces the pixels. Simard et al. 2003, "Best practices
for convolutional neural networks applied to visual document analysis", section 2: even noise from
-1 to 1 for each pixel and axis, smoothed by a Gaussian of standard deviation sigma and multiplied
by alpha.

Differs from the paper: noise is drawn on a grid as coarse as sigma, scaled to the same deviation.
The field's covariance is the same to 4 digits, for a sixteenth of the draws at sigma 4. The grid
goes beyond the image, so that the deviation does not fall off at its border. It is never finer than
pixels and may be half way between them, where a Gaussian of a small part of a pixel has ended: so
sigma is at least half a pixel, which hardly smooths any more.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int, UInt8, UInt32

from cnn_lab.core.arrays import Key, RawImages
from cnn_lab.core.random import random_bits
from cnn_lab.data.augment.crops import crop_size
from cnn_lab.data.augment.draws import Draws, computed_once, log_uniform_in, uniform_in
from cnn_lab.data.augment.recipes import Augmentation, Fill

Number = Float[Array, "..."] | float
Map = tuple[Number, Number, Number, Number, Number, Number]
Plane = Float32[Array, "n h w"]
Planes = tuple[Plane, ...]  # one per channel

IDENTITY: Map = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
GAUSSIAN_END = 3  # standard deviations after which a Gaussian counts as 0


def chain(first: Map, second: Map) -> Map:
    """The map of changing an image by `first` and the outcome by `second`."""
    xx, xy, x1, yx, yy, y1 = second
    a, b, c, d, e, f = first
    return (
        a * xx + b * yx,
        a * xy + b * yy,
        a * x1 + b * y1 + c,
        d * xx + e * yx,
        d * xy + e * yy,
        d * x1 + e * y1 + f,
    )


def flip(sign: Number) -> Map:
    """Left and right exchanged where `sign` is -1."""
    return (sign, 0.0, 0.0, 0.0, 1.0, 0.0)


def translate(x: Number, y: Number) -> Map:
    """Moved `x` pixels to the right and `y` down."""
    return (1.0, 0.0, -x, 0.0, 1.0, -y)


def scale(x: Number, y: Number) -> Map:
    """Enlarged by these factors about the centre."""
    return (1 / x, 0.0, 0.0, 0.0, 1 / y, 0.0)


def shear(x: Number, y: Number = 0.0) -> Map:
    """Rows moved by `x` and columns by `y` pixels per pixel of distance from the centre."""
    return (1.0, x, 0.0, y, 1.0, 0.0)


def rotate(radians: Number) -> Map:
    """Turned about the centre, anticlockwise where positive."""
    cos, sin = jnp.cos(radians), jnp.sin(radians)
    return (cos, -sin, 0.0, sin, cos, 0.0)


def random_map(augmentation: Augmentation, draws: Draws, height: int, width: int) -> Map:
    """The map of flip, crop, scale, stretch, shear, rotation and translation, in that order."""
    found = IDENTITY
    if augmentation.flip:
        found = chain(found, flip(jnp.where(draws["flip"] < augmentation.flip, -1.0, 1.0)))
    if augmentation.crops:
        area = uniform_in(draws["crop_area"], *augmentation.crop_area)
        aspect = log_uniform_in(draws["crop_aspect"], *augmentation.crop_aspect)
        crop_width, crop_height = crop_size(jnp, area, aspect, height, width)
        x1 = (draws["crop_x"] - 0.5) * (width - crop_width)
        y1 = (draws["crop_y"] - 0.5) * (height - crop_height)
        found = chain(found, (crop_width / width, 0.0, x1, 0.0, crop_height / height, y1))
    if augmentation.scale or augmentation.stretch:
        limit = 1 + augmentation.scale
        factor = log_uniform_in(draws["scale"], 1 / limit, limit)
        limit = (1 + augmentation.stretch) ** 0.5
        stretch = log_uniform_in(draws["stretch"], 1 / limit, limit)
        found = chain(found, scale(factor * stretch, factor / stretch))
    if augmentation.shear:
        angle = jnp.deg2rad(uniform_in(draws["shear"], -augmentation.shear, augmentation.shear))
        found = chain(found, shear(jnp.tan(angle)))
    if augmentation.rotation:
        limit = augmentation.rotation
        found = chain(found, rotate(jnp.deg2rad(uniform_in(draws["rotation"], -limit, limit))))
    if augmentation.translate:
        limit = augmentation.translate
        x, y = (uniform_in(draws[f"translate_{axis}"], -limit, limit) for axis in "xy")
        found = chain(found, translate(x, y))
    return found


def random_shifts(
    augmentation: Augmentation, draws: Draws
) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
    """Pixels to the right and down, whole numbers as floats."""
    limit = augmentation.shift
    x, y = (jnp.floor(uniform_in(draws[f"shift_{axis}"], -limit, limit + 1)) for axis in "xy")
    return x, y


def elastic_field(
    key: Key, shape: tuple[int, int, int], alpha: float, sigma: float
) -> tuple[Plane, Plane]:
    """Displacements [n h w] of the pixels, along x and along y, in pixels.

    Args:
        key: randomness.
        shape: (n, h, w).
        alpha: factor of the smoothed noise, in pixels.
        sigma: standard deviation of the Gaussian, in pixels, at least 0.5.
    """
    num_examples, height, width = shape
    down, across = smoothing(height, sigma), smoothing(width, sigma)
    words = computed_once(random_bits(key, (num_examples, down.shape[1], across.shape[1])))
    halves = jnp.stack([words >> jnp.uint32(16), words & jnp.uint32(0xFFFF)], axis=1)
    noise = (halves.astype(jnp.float32) + 0.5) * jnp.float32(2**-15) - 1
    rows = jnp.einsum("nkgs,ws->nkgw", noise, (across * alpha).astype(np.float32))
    both = jnp.einsum("hg,nkgw->nkhw", down.astype(np.float32), rows)
    return both[:, 0], both[:, 1]


def smoothing(length: int, sigma: float) -> np.ndarray:
    """Weights [length, grid] of the noise's grid points along one axis.

    Their root of sums of squares is, at every pixel, that of a Gaussian filter over pixels.
    """
    spacing = max(1.0, sigma)
    reach = GAUSSIAN_END * sigma
    num_points = int(np.ceil((length - 1 + 2 * reach) / spacing)) + 1
    points = (length - 1) / 2 + (np.arange(num_points) - (num_points - 1) / 2) * spacing
    distances = np.arange(length)[:, None] - points[None, :]
    pixels = np.arange(-np.ceil(reach), np.ceil(reach) + 1)
    weights, dense = (np.exp(-0.5 * (x / sigma) ** 2) for x in (distances, pixels))
    norm = np.linalg.norm(dense) / dense.sum()
    return weights / np.linalg.norm(weights, axis=1, keepdims=True) * norm


def shift_pixels(
    images: RawImages, sign: Int[Array, " n"], x: Int[Array, " n"], y: Int[Array, " n"], fill: Fill
) -> RawImages:
    """Flips images whose `sign` is -1, then moves them `x` whole pixels right and `y` down."""
    _, height, width, _ = images.shape
    rows = jnp.arange(height)[None, :] - y[:, None]
    columns = jnp.arange(width)[None, :] - x[:, None]
    columns = jnp.where(sign[:, None] < 0, width - 1 - columns, columns)
    known_rows, known_columns = _inside(rows, height, fill), _inside(columns, width, fill)
    places = known_rows[:, :, None] * width + known_columns[:, None, :]
    found = _gather(images.reshape(len(images), height * width, -1), places)
    if fill != "black":
        return found
    known = (known_rows == rows)[:, :, None] & (known_columns == columns)[:, None, :]
    return jnp.where(known[..., None], found, jnp.uint8(0))


def interpolate(
    images: RawImages, to_old: Map, displacement: tuple[Plane, Plane] | None, fill: Fill
) -> Planes:
    """Values of the images, in 0..255, at places between pixels: means of the four nearest.

    Args:
        images: stored pixels.
        to_old: map of each new pixel to a place in the old image.
        displacement: pixels added to those places, (x, y); None adds none.
        fill: the surroundings. The image ends half a pixel beyond the centres of its border
            pixels, as in PIL, and is even there.
    """
    num_examples, height, width, num_channels = images.shape
    numbers = jnp.stack([jnp.broadcast_to(number, (num_examples,)) for number in to_old])
    xx, xy, x1, yx, yy, y1 = (row[:, None, None] for row in computed_once(numbers))
    column = (jnp.arange(width, dtype=jnp.float32) - (width - 1) / 2)[None, None, :]
    row = (jnp.arange(height, dtype=jnp.float32) - (height - 1) / 2)[None, :, None]
    x = xx * column + xy * row + x1 + (width - 1) / 2
    y = yx * column + yy * row + y1 + (height - 1) / 2
    if displacement is not None:
        x, y = x + displacement[0], y + displacement[1]
    known = (x >= -0.5) & (x < width - 0.5) & (y >= -0.5) & (y < height - 0.5)
    x, y = _inside(x, width, fill), _inside(y, height, fill)
    left, top = jnp.floor(x), jnp.floor(y)
    to_right, down = x - left, y - top
    places = computed_once(top.astype(jnp.int32) * width + left.astype(jnp.int32))

    def channel(number: int) -> Plane:
        words = _gather(_neighbours(images[..., number]), places)
        above = _between(_byte(words, 0), _byte(words, 1), to_right)
        below = _between(_byte(words, 2), _byte(words, 3), to_right)
        found = _between(above, below, down)
        return jnp.where(known, found, jnp.float32(0)) if fill == "black" else found

    return tuple(channel(number) for number in range(num_channels))


def planes_computed_once(planes: Planes) -> Planes:
    """The channels, computed once before a stage that reads them many times.

    Stages that the compiler merges could also round differently on another number of devices.
    """
    return tuple(computed_once(jnp.stack(planes)))


def to_planes(images: RawImages) -> Planes:
    """The channels of stored images as float32."""
    return tuple(images[..., c].astype(jnp.float32) for c in range(images.shape[-1]))


def to_images(planes: Planes) -> Float32[Array, "n h w c"]:
    """Channels put together again; by choice, since XLA's CPU compiler interleaves slowly."""
    shape = (*planes[0].shape, len(planes))
    number = jax.lax.broadcasted_iota(jnp.int32, shape, 3)
    found = jnp.broadcast_to(planes[-1][..., None], shape)
    for channel in range(len(planes) - 1):
        found = jnp.where(number == channel, planes[channel][..., None], found)
    return found


def _inside(places: Array, length: int, fill: Fill) -> Array:
    """The places inside [0, length - 1] whose values fill in for places anywhere."""
    if fill == "reflect" and length > 1:
        period = 2 * (length - 1)
        # Not `%`, which costs a call of the C library for every place between pixels.
        places = places - period * jnp.floor(places / period).astype(places.dtype)
        places = jnp.minimum(places, period - places)
    return jnp.clip(places, 0, length - 1)


def _gather(values: Array, places: Int[Array, "n h w"]) -> Array:
    """values[i, places[i]] for each image i, whose places are inside."""

    def one(own: Array, places: Array) -> Array:
        return own.at[places].get(mode="promise_in_bounds", wrap_negative_indices=False)

    return jax.vmap(one)(values, places)


def _neighbours(channel: UInt8[Array, "n h w"]) -> UInt32[Array, "n h*w"]:
    """Each pixel packed into one word with those to the right, below and both.

    So one look-up reads all four. Beyond the border the bytes are arbitrary: there the weights
    are 0.
    """
    num_examples, height, width = channel.shape
    pixels = channel.reshape(num_examples, height * width).astype(jnp.uint32)
    pairs = pixels | (_shifted_back(pixels, 1) << jnp.uint32(8))
    return pairs | (_shifted_back(pairs, width) << jnp.uint32(16))


def _shifted_back(values: UInt32[Array, "n hw"], places: int) -> UInt32[Array, "n hw"]:
    return jax.lax.pad(values, jnp.uint32(0), ((0, 0, 0), (-places, places, 0)))


def _byte(words: UInt32[Array, "n h w"], number: int) -> Plane:
    return ((words >> jnp.uint32(8 * number)) & jnp.uint32(255)).astype(jnp.float32)


def _between(first: Plane, second: Plane, share: Plane) -> Plane:
    return first + share * (second - first)
