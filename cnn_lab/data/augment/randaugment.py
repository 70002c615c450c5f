"""RandAugment: a few changes per image, drawn from a list, all of one strength.

Cubuk et al. 2019 (arXiv 1909.13719, section 3), with torchvision's strengths: at magnitude 30 a
slant of 0.3, a shift of 150/331 of the side, a turn of 30 degrees, factors of 0.1 and 1.9, 4 bits,
every value inverted.

Differs from the paper: the turns, slants and shifts of all operations come first and share one
interpolation; values between whole numbers stay; equalising histograms is left out, which needs a
sort or a count for each image.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32

from cnn_lab.data.augment import affine
from cnn_lab.data.augment.colour import grey
from cnn_lab.data.augment.draws import Draws, computed_once
from cnn_lab.data.augment.recipes import Augmentation
from cnn_lab.data.augment.resample import Plane, Planes, settled

STRONGEST = 30.0
GEOMETRIC = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
TONES = ("autocontrast", "brightness", "contrast", "sharpness", "posterize", "solarize")
COLOUR = ("saturation",)


class Drawn:
    """What one operation of every image is."""

    def __init__(self, draws: Draws, slot: int, members: tuple[str, ...]):
        self._member = jnp.floor(draws[f"member{slot}"] * len(members))
        self.members = members
        self.sign = jnp.where(draws[f"sign{slot}"] < 0.5, -1.0, 1.0)

    def __call__(self, name: str) -> Bool[Array, " n"]:
        """Which images drew the operation of that name."""
        if name not in self.members:
            return jnp.zeros(self._member.shape, bool)
        return self._member == self.members.index(name)


def operations(augmentation: Augmentation, draws: Draws, num_channels: int) -> list[Drawn]:
    """The operations of every image, in order."""
    members = ("identity", *GEOMETRIC, *TONES, *(COLOUR if num_channels == 3 else ()))
    return [Drawn(draws, slot, members) for slot in range(augmentation.randaugment_ops)]


def moved(drawn: Drawn, magnitude: float, height: int, width: int) -> affine.Map:
    """The map of an operation that moves pixels; unchanged for all others."""
    amount = drawn.sign * (magnitude / STRONGEST)

    def by(name: str, most: float) -> Float32[Array, " n"]:
        return jnp.where(drawn(name), amount * most, 0.0)

    turned = affine.turned(jnp.deg2rad(by("rotate", 30.0)))
    slanted = affine.slanted(by("shear_x", 0.3), by("shear_y", 0.3))
    most = 150 / 331
    shifted = affine.moved(by("translate_x", most * width), by("translate_y", most * height))
    return affine.then(affine.then(turned, slanted), shifted)


def toned(drawn: Drawn, magnitude: float, planes: Planes) -> Planes:
    """An operation that changes values; the same images again for all others."""
    strength = magnitude / STRONGEST
    lost_bits = round(4 * strength)
    planes = settled(planes)
    light = grey(planes)
    blends = ("brightness", "contrast", "sharpness", "saturation")
    changes = jnp.stack([drawn(name) for name in blends]).any(0)
    rows = {
        "factor": jnp.where(changes, 1 + drawn.sign * 0.9 * strength, 1.0),
        "constant": jnp.where(drawn("contrast"), light.mean((1, 2)), 0.0),
        "smooth": drawn("sharpness").astype(jnp.float32),
        "grey": drawn("saturation").astype(jnp.float32),
        "step": jnp.where(drawn("posterize"), float(2**lost_bits), 1.0),
        "threshold": jnp.where(drawn("solarize"), 255 * (1 - strength), 256.0),
    }
    for channel, plane in enumerate(planes):
        least, most = plane.min((1, 2)), plane.max((1, 2))
        stretched = drawn("autocontrast") & (most > least)
        rows[f"least{channel}"] = jnp.where(stretched, least, 0.0)
        rows[f"scale{channel}"] = jnp.where(
            stretched, 255 / jnp.maximum(most - least, jnp.float32(1e-6)), 1.0
        )
    once = computed_once(jnp.stack(list(rows.values())))
    row = {name: value[:, None, None] for name, value in zip(rows, once, strict=True)}

    def changed(number: int, plane: Plane) -> Plane:
        x = (plane - row[f"least{number}"]) * row[f"scale{number}"]
        plain = row["constant"] + row["grey"] * light + row["smooth"] * smoothed(plane)
        x = jnp.clip(row["factor"] * x + (1 - row["factor"]) * plain, 0, 255)
        step = row["step"]
        x = jnp.where(step > 1, jnp.floor(x / step) * step, x)
        return jnp.where(x >= row["threshold"], 255 - x, x)

    return tuple(changed(number, plane) for number, plane in enumerate(planes))


def smoothed(plane: Plane) -> Plane:
    """PIL's SMOOTH: each pixel five times, its eight neighbours once; the border as it is."""
    _, height, width = plane.shape
    if min(height, width) < 3:
        return plane
    rows = plane[:, :-2] + plane[:, 1:-1] + plane[:, 2:]
    total = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]
    middle = jnp.pad((total + 4 * plane[:, 1:-1, 1:-1]) / 13, ((0, 0), (1, 1), (1, 1)))
    row, column = jnp.arange(height)[None, :, None], jnp.arange(width)[None, None, :]
    border = (row == 0) | (row == height - 1) | (column == 0) | (column == width - 1)
    return jnp.where(border, plane, middle)
