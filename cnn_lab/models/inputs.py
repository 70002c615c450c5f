"""Images as networks take them: of sizes that they can take, or read as sequences; and depths."""

from typing import Literal

import jax
from jaxtyping import Array, Float

from cnn_lab.core.arrays import Images
from cnn_lab.core.errors import ConfigError

Stem = Literal["large", "small"]
Order = Literal["rows", "pixels"]
Sequences = Float[Array, "n t d"]
Steps = Float[Array, "n t e"]  # what becomes of sequences: as many steps, other values


def as_sequences(images: Images, order: Order) -> jax.Array:
    """Images [n h w c] as steps from the top left to the bottom right.

    `rows` makes every row a step, [n h w*c]; `pixels` every pixel, [n h*w c] (sequential MNIST; Le,
    Jaitly, Hinton 2015, arXiv:1504.00941).
    """
    n, height, width, channels = images.shape
    if order == "rows":
        return images.reshape(n, height, width * channels)
    return images.reshape(n, height * width, channels)


def require_size(images: Images, min_side: int, model: str, stem: Stem = "small") -> None:
    """Raises a `ConfigError` when images [n h w c] have a side below `min_side`.

    Where the stem is `large`, the `small` one is offered.
    """
    height, width = images.shape[1:3]
    if min(height, width) < min_side:
        smaller = ", or model.options.stem=small" if stem == "large" else ""
        allowed = f"at least {min_side}x{min_side} pixels"
        raise ConfigError(
            f"{model} takes images of {allowed}; found {height}x{width}; set data.image_size, "
            f"data.pad or --input{smaller}.",
            where="config.data.image_size",
            found=f"{height}x{width}",
            allowed=allowed,
        )


def require_multiple(images: Images, divisor: int, model: str) -> None:
    """Raises a `ConfigError` when a side of images [n h w c] is not a multiple of `divisor`."""
    height, width = images.shape[1:3]
    if height % divisor or width % divisor:
        larger = "x".join(str(-(-side // divisor) * divisor) for side in (height, width))
        smaller = "x".join(str(side // divisor * divisor) for side in (height, width))
        sizes = larger if min(height, width) < divisor else f"{smaller} or {larger}"
        raise ConfigError(
            f"{model} takes images whose sides are multiples of {divisor}; found {height}x{width}; "
            f"bring them to {sizes} by data.image_size, data.pad or --input.",
            where="config.data.image_size",
            found=f"{height}x{width}",
            allowed=sizes,
        )


def layers_per_stage(depth: int, each: int, model: str) -> int:
    """n, or a `ConfigError` where a net of three stages cannot have `each` n + 4 layers in all."""
    number, left = divmod(depth - 4, each)
    if left or number < 1:
        near = each * max(1, number) + 4
        raise ConfigError(
            where="config.model.options.depth",
            found=depth,
            allowed=f"{each} n + 4 in {model}, such as {near} or {near + each}",
        )
    return number
