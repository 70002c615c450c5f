"""Padding and normalisation inside the compiled step, and the statistics that it needs.

Mean and deviation of the training images are cached beside the data. Measuring streamed photographs
decodes up to 100,000 of them; a run that starts or resumes need not do it again. The file's name
holds a digest of the examples, its folder's name the decoder and the size of the images, so that a
change of either makes another file.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int, Int64, UInt8

from cnn_lab.core.arrays import Images, RawImages, Tree
from cnn_lab.data.parallel import map_in_order
from cnn_lab.data.source import Source
from cnn_lab.data.storage.array_cache import load_array, store_arrays

# Above either, mean and deviation come from evenly spaced examples.
MAX_MEASURED_EXAMPLES = 100_000
MAX_MEASURED_PIXELS = 2**29
PIXELS_AT_ONCE = 2**22

Statistics = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation of pixels in [0, 1], one value per channel."""


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
        """The mean to subtract from pixels in [0, 255], and the scale to multiply them by."""
        mean, std = (np.asarray(values, np.float32) * 255 for values in (self.mean, self.std))
        return {"mean": mean[None, None, None], "scale": (1 / std)[None, None, None]}

    def __call__(
        self, images: RawImages | Images, constants: Tree | None = None
    ) -> Float[Array, "n padded_h padded_w c"]:
        """Pads images in [0, 255] and brings them to zero mean and unit deviation.

        Args:
            images: whole numbers or not.
            constants: the attribute of that name, as arguments of a compiled program, which then
                serves whatever their values are; written into it where None.
        """
        pad = (self.pad, self.pad)
        padded = jnp.pad(images, ((0, 0), pad, pad, (0, 0)))
        values = constants or self.constants
        return (padded.astype(jnp.float32) - values["mean"]) * values["scale"]

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Preprocess":
        """The one whose `dataclasses.asdict` was written as JSON."""
        return cls(tuple(values["mean"]), tuple(values["std"]), values["pad"])


def padded_shape(image_shape: tuple[int, int, int], pad: int) -> tuple[int, int, int]:
    """(h, w, c) of an image with `pad` pixels more on every side."""
    height, width, channels = image_shape
    return (height + 2 * pad, width + 2 * pad, channels)


def channel_statistics(
    source: Source, indices: Int[np.ndarray, " n"], *, in_memory: bool
) -> Statistics:
    """Mean and standard deviation of the examples at `indices`: cached, or measured now.

    Args:
        source: images of one size.
        indices: the training examples; nothing else is looked at.
        in_memory: read the split as a whole, as an in-memory loader does anyway.
    """
    digest = hashlib.sha256(np.ascontiguousarray(indices, "<i8").tobytes()).hexdigest()[:16]
    name, shape = f"moments-{source.split}-{digest}", (2, source.fixed_shape[2])
    cached = load_array(source.pixel_cache, name, shape)
    if cached is not None:
        mean, std = cached.tolist()
        return tuple(mean), tuple(std)
    if in_memory:
        images, _ = source.read_all()
        measured = measure(lambda positions: images[positions], indices)
    else:
        measured = measure(lambda positions: source.read(positions)["image"], indices)
    source.remove_outdated_caches()
    store_arrays(source.pixel_cache, {name: np.asarray(measured)})
    return measured


def measure(
    read: Callable[[Int[np.ndarray, " n"]], UInt8[np.ndarray, "n h w c"]],
    indices: Int[np.ndarray, " n"],
) -> Statistics:
    """Mean and standard deviation of channels, from exact sums; a constant one gets deviation 1.

    Args:
        read: positions -> images of one size; called in threads.
        indices: the training examples; where they are many, evenly spaced ones are looked at.
    """
    height, width = read(indices[:1]).shape[1:3]
    max_examples = max(1, min(MAX_MEASURED_EXAMPLES, MAX_MEASURED_PIXELS // (height * width)))
    chosen = np.sort(indices)[:: -(-len(indices) // max_examples)]
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


def _sums(
    images: UInt8[np.ndarray, "n h w c"],
) -> tuple[Int64[np.ndarray, " c"], Int64[np.ndarray, " c"]]:
    """Sums of pixels and of their squares, per channel."""
    squares = np.square(images, dtype=np.uint16).sum((0, 1, 2), dtype=np.int64)
    return images.sum((0, 1, 2), dtype=np.int64), squares
