"""Convolution kernels known by name, and images filtered with them.

Filtering is correlation, as everywhere in neural networks: kernels are not flipped.
"""

from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32

from cnn_lab.core.arrays import Images, Maps
from cnn_lab.core.errors import ConfigError, lookup
from cnn_lab.layers.convolution import NHWC

Kernel = Float32[np.ndarray, "height width"]


def _kernel(*rows: Sequence[int], over: int = 1) -> Kernel:
    return np.asarray(rows, np.float32) / np.float32(over)


KERNELS: dict[str, Kernel] = {
    "box_blur": _kernel((1, 1, 1), (1, 1, 1), (1, 1, 1), over=9),
    "edge": _kernel((-1, -1, -1), (-1, 8, -1), (-1, -1, -1)),
    "emboss": _kernel((-2, -1, 0), (-1, 1, 1), (0, 1, 2)),
    "gaussian_blur": _kernel((1, 2, 1), (2, 4, 2), (1, 2, 1), over=16),
    "identity": _kernel((0, 0, 0), (0, 1, 0), (0, 0, 0)),
    "line_45": _kernel((-1, -1, 2), (-1, 2, -1), (2, -1, -1)),
    "line_135": _kernel((2, -1, -1), (-1, 2, -1), (-1, -1, 2)),
    "line_horizontal": _kernel((-1, -1, -1), (2, 2, 2), (-1, -1, -1)),
    "line_vertical": _kernel((-1, 2, -1), (-1, 2, -1), (-1, 2, -1)),
    "sharpen": _kernel((0, -1, 0), (-1, 5, -1), (0, -1, 0)),
    "sobel_horizontal": _kernel((-1, -2, -1), (0, 0, 0), (1, 2, 1)),  # horizontal edges
    "sobel_vertical": _kernel((-1, 0, 1), (-2, 0, 2), (-1, 0, 1)),  # vertical edges
}


def filter_images(
    images: Images,
    kernel: str | Float[np.ndarray, "height width"] | Float[Array, "height width"],
    padding: Literal["VALID", "SAME"] = "SAME",
) -> Maps:
    """Correlates every channel of every image with one kernel, given or of that name.

    `SAME` takes zeros beyond the edge; `VALID` keeps whole windows only, and a kernel larger than
    the image is a `ConfigError`.
    """
    weights = jnp.asarray(lookup(KERNELS, kernel, "kernel") if isinstance(kernel, str) else kernel)
    height, width = images.shape[1:3]
    if padding == "VALID" and (weights.shape[0] > height or weights.shape[1] > width):
        raise ConfigError(
            f"A kernel of {weights.shape[0]}x{weights.shape[1]} does not fit an image of "
            f"{height}x{width}; use padding='SAME' or a larger image.",
            where="kernel",
            found=weights.shape,
        )
    channels = images.shape[-1]
    return jax.lax.conv_general_dilated(
        images,
        jnp.tile(weights.astype(images.dtype)[:, :, None, None], (1, 1, 1, channels)),
        (1, 1),
        padding,
        dimension_numbers=NHWC,
        feature_group_count=channels,
    )
