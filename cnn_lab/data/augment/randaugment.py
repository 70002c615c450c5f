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

from cnn_lab.data.augment import geometry
from cnn_lab.data.augment.colour import grey
from cnn_lab.data.augment.draws import Draws, computed_once
from cnn_lab.data.augment.geometry import Map, Plane, Planes, planes_computed_once
from cnn_lab.data.augment.recipes import Augmentation

MAX_MAGNITUDE = 30.0
GEOMETRIC = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
TONES = ("autocontrast", "brightness", "contrast", "sharpness", "posterize", "solarize")
COLOUR = ("saturation",)


class Operation:
    """One operation for every image, drawn from the names in `members`."""

    def __init__(self, draws: Draws, slot: int, members: tuple[str, ...]):
        self._member = jnp.floor(draws[f"member{slot}"] * len(members))
        self.members = members
        self.sign = jnp.where(draws[f"sign{slot}"] < 0.5, -1.0, 1.0)

    def __call__(self, name: str) -> Bool[Array, " n"]:
        """Which images drew the operation of that name."""
        if name not in self.members:
            return jnp.zeros(self._member.shape, bool)
        return self._member == self.members.index(name)


def operations(augmentation: Augmentation, draws: Draws, num_channels: int) -> list[Operation]:
    """The operations of every image, in order."""
    members = ("identity", *GEOMETRIC, *TONES, *(COLOUR if num_channels == 3 else ()))
    return [Operation(draws, slot, members) for slot in range(augmentation.randaugment_ops)]


def operation_map(operation: Operation, magnitude: float, height: int, width: int) -> Map:
    """The map of an operation that moves pixels; the identity for all others."""
    amount = operation.sign * (magnitude / MAX_MAGNITUDE)

    def by(name: str, maximum: float) -> Float32[Array, " n"]:
        return jnp.where(operation(name), amount * maximum, 0.0)

    rotation = geometry.rotate(jnp.deg2rad(by("rotate", 30.0)))
    shear = geometry.shear(by("shear_x", 0.3), by("shear_y", 0.3))
    share = 150 / 331
    shift = geometry.translate(by("translate_x", share * width), by("translate_y", share * height))
    return geometry.chain(geometry.chain(rotation, shear), shift)


def apply_tones(operation: Operation, magnitude: float, planes: Planes) -> Planes:
    """Applies an operation that changes values; images whose operation moves pixels stay."""
    strength = magnitude / MAX_MAGNITUDE
    lost_bits = round(4 * strength)
    planes = planes_computed_once(planes)
    light = grey(planes)
    blends = ("brightness", "contrast", "sharpness", "saturation")
    changes = jnp.stack([operation(name) for name in blends]).any(0)
    rows = {
        "factor": jnp.where(changes, 1 + operation.sign * 0.9 * strength, 1.0),
        "constant": jnp.where(operation("contrast"), light.mean((1, 2)), 0.0),
        "smooth": operation("sharpness").astype(jnp.float32),
        "grey": operation("saturation").astype(jnp.float32),
        "step": jnp.where(operation("posterize"), float(2**lost_bits), 1.0),
        "threshold": jnp.where(operation("solarize"), 255 * (1 - strength), 256.0),
    }
    for channel, plane in enumerate(planes):
        low, high = plane.min((1, 2)), plane.max((1, 2))
        stretched = operation("autocontrast") & (high > low)
        rows[f"low{channel}"] = jnp.where(stretched, low, 0.0)
        rows[f"scale{channel}"] = jnp.where(
            stretched, 255 / jnp.maximum(high - low, jnp.float32(1e-6)), 1.0
        )
    once = computed_once(jnp.stack(list(rows.values())))
    row = {name: value[:, None, None] for name, value in zip(rows, once, strict=True)}

    def changed(number: int, plane: Plane) -> Plane:
        x = (plane - row[f"low{number}"]) * row[f"scale{number}"]
        plain = row["constant"] + row["grey"] * light + row["smooth"] * smooth(plane)
        x = jnp.clip(row["factor"] * x + (1 - row["factor"]) * plain, 0, 255)
        step = row["step"]
        x = jnp.where(step > 1, jnp.floor(x / step) * step, x)
        return jnp.where(x >= row["threshold"], 255 - x, x)

    return tuple(changed(number, plane) for number, plane in enumerate(planes))


def smooth(plane: Plane) -> Plane:
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
