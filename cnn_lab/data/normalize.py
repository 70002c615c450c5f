"""Padding and normalisation inside the compiled step, and the statistics that it needs.

Mean and deviation of the training images are cached beside the data. Measuring streamed photographs
decodes up to 100,000 of them; a run that starts or resumes need not do it again. The file's name
holds a digest of the examples that were measured, its folder's name the decoder and the size of the
images, so that a change of either leads to another file.
"""

import contextlib
import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int, Int64, UInt8

from cnn_lab.core.arrays import Images, RawImages, Tree
from cnn_lab.core.errors import ConfigError
from cnn_lab.core.files import write_json
from cnn_lab.data.parallel import map_in_order
from cnn_lab.data.source import Source

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
        """(h, w, c) of the model's input for stored images of `image_shape`."""
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


def check_channels(preprocess: Preprocess, num_channels: int) -> None:
    """Raises a `ConfigError` unless mean and std have one value per channel."""
    for name, values in (("mean", preprocess.mean), ("std", preprocess.std)):
        if len(values) != num_channels:
            raise ConfigError(
                f"config.data.{name} has {len(values)} value(s), but the images have "
                f"{num_channels} channel(s); give one value per channel, or none to measure it."
            )


def channel_statistics(
    source: Source, indices: Int[np.ndarray, " n"], *, in_memory: bool
) -> Statistics:
    """Mean and standard deviation of the examples at `indices`: cached, or measured now.

    Args:
        source: images of one size.
        indices: the training examples; nothing else is looked at.
        in_memory: read the split as a whole, as an in-memory loader does anyway.

    Returns:
        (mean, std) of pixels in [0, 1], one value per channel.
    """
    height, width, num_channels = source.fixed_shape
    chosen = np.ascontiguousarray(measured_examples(indices, height, width), "<i8")
    digest = hashlib.sha256(chosen.tobytes()).hexdigest()[:16]
    file = source.pixel_cache / f"moments-{source.split}-{digest}.json"
    cached = _load(file, num_channels)
    if cached is not None:
        return cached
    if in_memory:
        images, _ = source.read_all()
        mean, std = measure(lambda positions: images[positions], indices)
    else:
        mean, std = measure(lambda positions: source.read(positions)["image"], indices)
    with contextlib.suppress(OSError):  # then the next run measures again
        source.remove_outdated_caches()
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, {"mean": mean, "std": std})
    return mean, std


def measure(
    read: Callable[[Int[np.ndarray, " n"]], UInt8[np.ndarray, "n h w c"]],
    indices: Int[np.ndarray, " n"],
) -> Statistics:
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
    max_examples = max(1, min(MAX_MEASURED_EXAMPLES, MAX_MEASURED_PIXELS // (height * width)))
    return np.sort(indices)[:: -(-len(indices) // max_examples)]


def _sums(
    images: UInt8[np.ndarray, "n h w c"],
) -> tuple[Int64[np.ndarray, " c"], Int64[np.ndarray, " c"]]:
    """Sums of pixels and of their squares, per channel."""
    squares = np.square(images, dtype=np.uint16).sum((0, 1, 2), dtype=np.int64)
    return images.sum((0, 1, 2), dtype=np.int64), squares


def _load(file: Path, num_channels: int) -> Statistics | None:
    """Cached statistics; None where the file is absent or cannot be used."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        mean, std = tuple(values["mean"]), tuple(values["std"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if len(mean) != num_channels or len(std) != num_channels:
        return None
    usable = all(map(_is_number, (*mean, *std))) and all(value > 0 for value in std)
    return (mean, std) if usable else None


def _is_number(value: Any) -> bool:
    return isinstance(value, float) and math.isfinite(value)
