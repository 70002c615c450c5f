"""From stored pixels to what a model takes, inside the compiled step."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int, Int64, UInt8

from cnn_lab.core.arrays import Images, RawImages, Tree
from cnn_lab.core.errors import ConfigError
from cnn_lab.data.parallel import map_in_order

# Above either, mean and deviation come from evenly spaced examples.
MOST_MEASURED = 100_000
MOST_PIXELS = 2**29
PIXELS_AT_ONCE = 2**22


@dataclasses.dataclass(frozen=True)
class Preprocess:
    """Padding and normalisation.

    Attributes:
        mean: per channel, of pixels in [0, 1].
        std: per channel, of pixels in [0, 1], positive.
        pad: black pixels added on every side.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    pad: int = 0

    @property
    def constants(self) -> dict[str, Float32[np.ndarray, "1 1 1 c"]]:
        """What pixels in [0, 255] are shifted and scaled by."""
        mean, std = (np.asarray(values, np.float32) * 255 for values in (self.mean, self.std))
        return {"mean": mean[None, None, None], "scale": (1 / std)[None, None, None]}

    def __call__(
        self, images: RawImages | Images, constants: Tree | None = None
    ) -> Float[Array, "n padded_h padded_w c"]:
        """Pads and normalises.

        Args:
            images: [n h w c], in [0, 255], whole numbers or not.
            constants: `constants`, as arguments of a compiled program, which then serves whatever
                their values are; written into it where None.

        Returns:
            float32 [n h+2pad w+2pad c] of zero mean and unit deviation.
        """
        pad = (self.pad, self.pad)
        padded = jnp.pad(images, ((0, 0), pad, pad, (0, 0)))
        values = constants or self.constants
        return (padded.astype(jnp.float32) - values["mean"]) * values["scale"]

    def output_shape(self, image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """(h, w, c) of what the model gets for stored images of `image_shape`."""
        return padded_shape(image_shape, self.pad)

    def to_json(self) -> dict[str, Any]:
        """The values as a plain dict."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Preprocess":
        """Reads back `to_json`."""
        return cls(tuple(values["mean"]), tuple(values["std"]), values["pad"])


def padded_shape(image_shape: tuple[int, int, int], pad: int) -> tuple[int, int, int]:
    """(h, w, c) of an image with `pad` pixels more on every side."""
    height, width, channels = image_shape
    return (height + 2 * pad, width + 2 * pad, channels)


def measure(
    read: Callable[[Int[np.ndarray, " n"]], UInt8[np.ndarray, "n h w c"]],
    indices: Int[np.ndarray, " n"],
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Per-channel mean and standard deviation of pixels in [0, 1], from exact sums.

    Args:
        read: positions -> images of one size; called in threads.
        indices: the training examples; nothing else may be looked at.

    Returns:
        (mean, std), one value per channel. A constant channel gets deviation 1.
    """
    height, width = read(indices[:1]).shape[1:3]
    chosen = measured_examples(indices, height, width)
    num_pixels = len(chosen) * height * width
    size = max(1, PIXELS_AT_ONCE // (height * width))
    chunks = (chosen[start : start + size] for start in range(0, len(chosen), size))
    total = squares = np.zeros((), np.int64)
    for part, part_squares in map_in_order(lambda chunk: _sums(read(chunk)), chunks):
        total, squares = total + part, squares + part_squares
    mean = total / num_pixels
    std = np.sqrt(np.maximum(squares / num_pixels - mean**2, 0.0))
    std = np.where(std > 0, std, 255.0)
    return tuple((mean / 255).tolist()), tuple((std / 255).tolist())


def measured_examples(
    indices: Int[np.ndarray, " n"], height: int, width: int
) -> Int[np.ndarray, " m"]:
    """Those of the examples that `measure` looks at, for images of that size."""
    most = max(1, min(MOST_MEASURED, MOST_PIXELS // (height * width)))
    return np.sort(indices)[:: -(-len(indices) // most)]


def _sums(
    images: UInt8[np.ndarray, "n h w c"],
) -> tuple[Int64[np.ndarray, " c"], Int64[np.ndarray, " c"]]:
    """Sums of pixels and of their squares, per channel."""
    squares = np.square(images, dtype=np.uint16).sum((0, 1, 2), dtype=np.int64)
    return images.sum((0, 1, 2), dtype=np.int64), squares


def check_channels(preprocess: Preprocess, num_channels: int) -> None:
    """Raises a `ConfigError` unless mean and std have one value per channel."""
    for name, values in (("mean", preprocess.mean), ("std", preprocess.std)):
        if len(values) != num_channels:
            raise ConfigError(
                f"config.data.{name} has {len(values)} value(s), but the images have "
                f"{num_channels} channel(s); give one value per channel, or none to measure it."
            )
