"""Brightness, contrast, saturation, hue and grey, as torchvision defines them for PIL images.

Each is a blend with something plain, cut to 0..255: brightness with black, contrast with the
image's mean grey, saturation with each pixel's own grey. Differs from torchvision: the order is
fixed (brightness, contrast, saturation, hue, grey), and nothing is rounded to whole values.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float32

from cnn_lab.data.augment.draws import Draws, computed_once, uniform_in
from cnn_lab.data.augment.geometry import Plane, Planes
from cnn_lab.data.augment.recipes import Augmentation

GREY = (0.299, 0.587, 0.114)  # ITU-R 601-2, as PIL converts to "L"
Factor = Float32[Array, " n"]


def jitter(augmentation: Augmentation, draws: Draws, planes: Planes) -> Planes:
    """Changes brightness and colours by random factors, as far as the augmentation allows."""
    factors = {}
    for name in ("brightness", "contrast", "saturation"):
        if limit := getattr(augmentation, name):
            factors[name] = uniform_in(draws[name], max(0.0, 1 - limit), 1 + limit)
    if augmentation.hue:
        factors["hue"] = uniform_in(draws["hue"], -augmentation.hue, augmentation.hue)
    if augmentation.grayscale:
        factors["grey"] = (draws["grayscale"] < augmentation.grayscale).astype(jnp.float32)
    rows = computed_once(jnp.stack(list(factors.values())))
    for (name, _), factor in zip(factors.items(), rows, strict=True):
        planes = CHANGES[name](planes, factor)
    return planes


def brightness(planes: Planes, factor: Factor) -> Planes:
    """Pixels times `factor`."""
    return tuple(blend(plane, 0.0, factor) for plane in planes)


def contrast(planes: Planes, factor: Factor) -> Planes:
    """Distances from the image's mean grey times `factor`."""
    mean = grey(planes).mean((1, 2))[:, None, None]
    return tuple(blend(plane, mean, factor) for plane in planes)


def saturation(planes: Planes, factor: Factor) -> Planes:
    """Distances from each pixel's grey times `factor`."""
    plain = grey(planes)
    return tuple(blend(plane, plain, factor) for plane in planes)


def hue(planes: Planes, turn: Factor) -> Planes:
    """Hues turned by a share of the colour circle, at the same saturation and value (HSV)."""
    red, green, blue = planes
    value = jnp.maximum(jnp.maximum(red, green), blue)
    chroma = value - jnp.minimum(jnp.minimum(red, green), blue)
    per = 1 / jnp.where(chroma > 0, chroma, 1)
    sixths = jnp.where(
        value == red,
        (green - blue) * per,
        jnp.where(value == green, 2 + (blue - red) * per, 4 + (red - green) * per),
    )
    sixths += 6 * turn[:, None, None]

    def channel(offset: int) -> Plane:
        place = sixths + offset
        place -= 6 * jnp.floor(place / 6)
        return value - chroma * jnp.clip(jnp.minimum(place, 4 - place), 0, 1)

    changed = (channel(5), channel(3), channel(1))
    moved = (turn != 0)[:, None, None]  # a way there and back would round
    return tuple(jnp.where(moved, new, old) for new, old in zip(changed, planes, strict=True))


def blend(plane: Plane, plain: Array | float, factor: Factor) -> Plane:
    """Planes `factor` times as far from the plain ones, in 0..255."""
    factor = factor[:, None, None]
    return jnp.clip(factor * plane + (1 - factor) * plain, 0, 255)


def grey(planes: Planes) -> Plane:
    """Luminance of the pixels; the mean of the channels where there are not three."""
    if len(planes) == 1:
        return planes[0]
    shares = GREY if len(planes) == 3 else [1 / len(planes)] * len(planes)
    return sum((share * p for share, p in zip(shares, planes, strict=True)), jnp.zeros(()))


CHANGES = {
    "brightness": brightness,
    "contrast": contrast,
    "saturation": saturation,
    "hue": hue,
    "grey": lambda planes, share: saturation(planes, 1 - share),  # all colour lost at 1
}
