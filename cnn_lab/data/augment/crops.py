"""Random resized crops: the part of an image that is kept and brought to the size asked for.

Szegedy et al. 2015 (arXiv 1409.4842, section 6): a share of the area, drawn evenly; a ratio of
width to height, drawn evenly on a logarithmic scale; and one of the places where that fits.

Differs from torchvision: a side longer than the image is cut to it instead of drawn again, and
edges may lie between pixels.
"""

import dataclasses
from typing import Any, NamedTuple

import numpy as np

Box = tuple[float, float, float, float]  # left, top, right and bottom, in pixels

# Keys of this stream are also keys of the order of examples: it starts elsewhere in the sequence.
_START = (0, 0, 0, 1)


class Part(NamedTuple):
    """Which part of an image is kept, whatever its size.

    Attributes:
        share: of the image's area.
        aspect: width by height, in pixels.
        down: place among those where it fits, from 0 to 1.
        across: the same from left to right.
    """

    share: float
    aspect: float
    down: float
    across: float

    def box(self, width: int, height: int) -> Box:
        """Where that is in an image of so many pixels."""
        across, down = sides(np, self.share, self.aspect, height, width)
        left, top = self.across * (width - across), self.down * (height - down)
        return float(left), float(top), float(left + across), float(top + down)


@dataclasses.dataclass(frozen=True)
class RandomCrops:
    """What the examples of each step keep: a pure function of seed, step and place in the batch.

    Attributes:
        area: smallest and largest share of the image.
        aspect: smallest and largest ratio of width to height.
        seed: that of the order of examples will do.
    """

    area: tuple[float, float]
    aspect: tuple[float, float]
    seed: int

    def __call__(self, step: int, num_examples: int) -> list[Part]:
        """One part for each example of a step."""
        random = np.random.Generator(np.random.Philox(key=(self.seed, step), counter=_START))
        share, aspect, down, across = random.random((num_examples, 4)).T
        share = self.area[0] + share * (self.area[1] - self.area[0])
        least, most = np.log(self.aspect)
        aspect = np.exp(least + aspect * (most - least))
        return [Part(*row) for row in np.stack([share, aspect, down, across], axis=1).tolist()]


def sides(xp: Any, share: Any, aspect: Any, height: int, width: int) -> tuple[Any, Any]:
    """Width and height of a part in pixels; what is longer than the image is cut to it.

    Args:
        xp: numpy, or jax.numpy inside a compiled step.
        share: of the image's area.
        aspect: width by height.
        height: of the image.
        width: of the image.
    """
    area = share * height * width
    across = xp.minimum(xp.sqrt(area * aspect), width)
    return across, xp.minimum(xp.sqrt(area / aspect), height)
