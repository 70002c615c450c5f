"""Random resized crops: a part of each image, enlarged to the size asked for.

Szegedy et al. 2015 (arXiv 1409.4842, section 6): a uniform share of the area; a ratio of
width to height, uniform on a logarithmic scale; and one of the places where that fits.

Differs from torchvision: a side longer than the image is cut to it instead of drawn again, and
edges may be between pixels.
"""

import dataclasses
from typing import Any, NamedTuple

import numpy as np

Box = tuple[float, float, float, float]  # left, top, right and bottom, in pixels

# Keys of this stream are also keys of the order of examples: it starts elsewhere in the sequence.
_START = (0, 0, 0, 1)


class Crop(NamedTuple):
    """The part of an image to keep, whatever the image's size."""

    area: float  # share of the image's
    aspect: float  # width by height, in pixels
    y: float  # place among those where it fits, from 0 (top) to 1
    x: float  # the same from left to right

    def box(self, width: int, height: int) -> Box:
        """The crop's edges in an image of that size."""
        crop_width, crop_height = crop_size(np, self.area, self.aspect, height, width)
        left, top = self.x * (width - crop_width), self.y * (height - crop_height)
        return float(left), float(top), float(left + crop_width), float(top + crop_height)


@dataclasses.dataclass(frozen=True)
class RandomCrops:
    """The crops of each step's examples: a pure function of seed, step and place in the batch.

    Attributes:
        area: smallest and largest share of the image.
        aspect: smallest and largest ratio of width to height.
        seed: may be that of the order of examples.
    """

    area: tuple[float, float]
    aspect: tuple[float, float]
    seed: int

    def __call__(self, step: int, num_examples: int) -> list[Crop]:
        """One crop for each example of a step."""
        random = np.random.Generator(np.random.Philox(key=(self.seed, step), counter=_START))
        area, aspect, y, x = random.random((num_examples, 4)).T
        area = self.area[0] + area * (self.area[1] - self.area[0])
        low, high = np.log(self.aspect)
        aspect = np.exp(low + aspect * (high - low))
        return [Crop(*row) for row in np.stack([area, aspect, y, x], axis=1).tolist()]


def crop_size(xp: Any, area: Any, aspect: Any, height: int, width: int) -> tuple[Any, Any]:
    """Width and height of a crop of an image; a side longer than the image is cut to it.

    `xp` is numpy, or jax.numpy inside a compiled step.
    """
    num_pixels = area * height * width
    crop_width = xp.minimum(xp.sqrt(num_pixels * aspect), width)
    return crop_width, xp.minimum(xp.sqrt(num_pixels / aspect), height)
