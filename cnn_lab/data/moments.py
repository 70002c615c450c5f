"""Per-channel mean and deviation of the training images, kept beside the data.

Measuring streamed photographs decodes up to 100,000 of them; a run that starts or resumes need not
do it again. The name of the file tells exactly which examples were measured, its folder which
pixels they have, so that anything that changes either leads to another file.
"""

import contextlib
import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from cnn_lab.core.files import write_json
from cnn_lab.data.preprocess import measure, measured_examples
from cnn_lab.data.source import Source

Moments = tuple[tuple[float, ...], tuple[float, ...]]


def moments_of(source: Source, indices: Int[np.ndarray, " n"], *, in_memory: bool) -> Moments:
    """Mean and standard deviation of the examples at `indices`: read where kept, else measured.

    Args:
        source: images of one size.
        indices: the training examples; nothing else is looked at.
        in_memory: read the split as a whole, as a in-memory loader does anyway.

    Returns:
        (mean, std) of pixels in [0, 1], one value per channel.
    """
    height, width, num_channels = source.info.image_shape
    assert height is not None
    assert width is not None
    chosen = np.ascontiguousarray(measured_examples(indices, height, width), "<i8")
    digest = hashlib.sha256(chosen.tobytes()).hexdigest()[:16]
    file = source.pixel_cache / f"moments-{source.split}-{digest}.json"
    kept = _load(file, num_channels)
    if kept is not None:
        return kept
    if in_memory:
        images, _ = source.read_all()
        mean, std = measure(lambda at: images[at], indices)
    else:
        mean, std = measure(lambda at: source.gather(at)["image"], indices)
    with contextlib.suppress(OSError):  # then the next run measures again
        source.remove_outdated_caches()
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, {"mean": mean, "std": std})
    return mean, std


def _load(file: Path, num_channels: int) -> Moments | None:
    """What was kept, None where it is absent or cannot be used."""
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
