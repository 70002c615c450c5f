"""Maps from the pixels of the new image to places in the old one, one per image.

A map holds six numbers (xx, xy, x1, yx, yy, y1), each [n] or one for all: the new pixel (x, y)
shows what lies at (xx x + xy y + x1, yx x + yy y + y1). Both count in pixels from the image's
centre, x to the right and y down.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from cnn_lab.data.augment.crops import sides
from cnn_lab.data.augment.draws import Draws, within, within_ratio
from cnn_lab.data.augment.recipes import Augmentation

Number = Float[Array, "..."] | float
Map = tuple[Number, Number, Number, Number, Number, Number]
UNCHANGED: Map = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def then(first: Map, second: Map) -> Map:
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


def mirrored(sign: Number) -> Map:
    """Left and right exchanged where `sign` is -1."""
    return (sign, 0.0, 0.0, 0.0, 1.0, 0.0)


def moved(x: Number, y: Number) -> Map:
    """Moved `x` pixels to the right and `y` down."""
    return (1.0, 0.0, -x, 0.0, 1.0, -y)


def scaled(x: Number, y: Number) -> Map:
    """Enlarged by these factors about the centre."""
    return (1 / x, 0.0, 0.0, 0.0, 1 / y, 0.0)


def slanted(x: Number, y: Number = 0.0) -> Map:
    """Rows moved by `x` and columns by `y` pixels per pixel of distance from the centre."""
    return (1.0, x, 0.0, y, 1.0, 0.0)


def turned(radians: Number) -> Map:
    """Turned about the centre, anticlockwise where positive."""
    cos, sin = jnp.cos(radians), jnp.sin(radians)
    return (cos, -sin, 0.0, sin, cos, 0.0)


def drawn(augmentation: Augmentation, draws: Draws, height: int, width: int) -> Map:
    """The map of flip, crop, scale, stretch, shear, rotation and translation, in that order."""
    found = UNCHANGED
    if augmentation.flip:
        found = then(found, mirrored(jnp.where(draws["flip"] < augmentation.flip, -1.0, 1.0)))
    if augmentation.crops:
        found = then(found, _cropped(augmentation, draws, height, width))
    if augmentation.scale or augmentation.stretch:
        most = 1 + augmentation.scale
        scale = within_ratio(draws["scale"], 1 / most, most)
        most = (1 + augmentation.stretch) ** 0.5
        stretch = within_ratio(draws["stretch"], 1 / most, most)
        found = then(found, scaled(scale * stretch, scale / stretch))
    if augmentation.shear:
        angle = jnp.deg2rad(within(draws["shear"], -augmentation.shear, augmentation.shear))
        found = then(found, slanted(jnp.tan(angle)))
    if augmentation.rotation:
        most = augmentation.rotation
        found = then(found, turned(jnp.deg2rad(within(draws["rotation"], -most, most))))
    if augmentation.translate:
        most = augmentation.translate
        x, y = (within(draws[f"translate_{axis}"], -most, most) for axis in "xy")
        found = then(found, moved(x, y))
    return found


def whole_shifts(
    augmentation: Augmentation, draws: Draws
) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
    """Pixels to the right and down, whole numbers as floats."""
    most = augmentation.shift
    x, y = (jnp.floor(within(draws[f"shift_{axis}"], -most, most + 1)) for axis in "xy")
    return x, y


def _cropped(augmentation: Augmentation, draws: Draws, height: int, width: int) -> Map:
    """A random part of the image, enlarged to its size."""
    share = within(draws["crop_area"], *augmentation.crop_area)
    aspect = within_ratio(draws["crop_aspect"], *augmentation.crop_aspect)
    x_size, y_size = sides(jnp, share, aspect, height, width)
    x1 = (draws["crop_x"] - 0.5) * (width - x_size)
    y1 = (draws["crop_y"] - 0.5) * (height - y_size)
    return (x_size / width, 0.0, x1, 0.0, y_size / height, y1)
