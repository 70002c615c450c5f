"""Brightness, contrast, saturation, hue and grey, as torchvision defines them for PIL images.

Each is a blend with something plain, cut to 0..255: brightness with black, contrast with the
image's mean grey, saturation with each pixel's own grey. Differs from torchvision: the order is
fixed (brightness, contrast, saturation, hue, grey), and nothing is rounded to whole values.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float32

from cnn_lab.data.augment.draws import Draws, computed_once, within
from cnn_lab.data.augment.recipes import Augmentation
from cnn_lab.data.augment.resample import Plane, Planes

GREY = (0.299, 0.587, 0.114)  # ITU-R 601-2, as PIL converts to "L"
Factor = Float32[Array, " n"]


def jittered(augmentation: Augmentation, draws: Draws, planes: Planes) -> Planes:
    """Draws and applies what the augmentation asks for."""
    factors = {}
    for name in ("brightness", "contrast", "saturation"):
        if most := getattr(augmentation, name):
            factors[name] = within(draws[name], max(0.0, 1 - most), 1 + most)
    if augmentation.hue:
        factors["hue"] = within(draws["hue"], -augmentation.hue, augmentation.hue)
    if augmentation.grayscale:
        factors["grey"] = (draws["grayscale"] < augmentation.grayscale).astype(jnp.float32)
    rows = computed_once(jnp.stack(list(factors.values())))
    for (name, _), factor in zip(factors.items(), rows, strict=True):
        planes = CHANGES[name](planes, factor)
    return planes


def brightened(planes: Planes, factor: Factor) -> Planes:
    """Times `factor`."""
    return tuple(blended(plane, 0.0, factor) for plane in planes)


def contrasted(planes: Planes, factor: Factor) -> Planes:
    """Distances from the image's mean grey times `factor`."""
    mean = grey(planes).mean((1, 2))[:, None, None]
    return tuple(blended(plane, mean, factor) for plane in planes)


def saturated(planes: Planes, factor: Factor) -> Planes:
    """Distances from each pixel's grey times `factor`."""
    plain = grey(planes)
    return tuple(blended(plane, plain, factor) for plane in planes)


def recoloured(planes: Planes, turn: Factor) -> Planes:
    """Hues turned by a share of the colour circle, saturation and value being kept (HSV)."""
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


def greyed(planes: Planes, share: Factor) -> Planes:
    """Without colour where `share` is 1, as before where it is 0."""
    return saturated(planes, 1 - share)


def blended(plane: Plane, plain: Array | float, factor: Factor) -> Plane:
    """Planes `factor` times as far from the plain ones, in 0..255."""
    factor = factor[:, None, None]
    return jnp.clip(factor * plane + (1 - factor) * plain, 0, 255)


def grey(planes: Planes) -> Plane:
    """How bright a pixel looks; the mean of the channels where there are not three."""
    if len(planes) == 1:
        return planes[0]
    shares = GREY if len(planes) == 3 else [1 / len(planes)] * len(planes)
    return sum((share * p for share, p in zip(shares, planes, strict=True)), jnp.zeros(()))


CHANGES = {
    "brightness": brightened,
    "contrast": contrasted,
    "saturation": saturated,
    "hue": recoloured,
    "grey": greyed,
}
