"""What images a network can take."""

from cnn_lab.core.arrays import Images
from cnn_lab.core.errors import ConfigError


def require_size(images: Images, least: int, model: str, instead: str = "") -> None:
    """Raises a `ConfigError` when images [n h w c] have a side below `least`.

    Args:
        images: what the model was given.
        least: the smallest side that leaves a pixel in every map.
        model: its name.
        instead: an option that lets it take smaller ones, as a clause.
    """
    height, width = images.shape[1:3]
    if min(height, width) < least:
        raise ConfigError(
            f"{model} takes images of at least {least}x{least} pixels; found {height}x{width}; set "
            f"data.image_size, data.pad or --input{instead}."
        )


def require_multiple(images: Images, divisor: int, model: str) -> None:
    """Raises a `ConfigError` when a side of images [n h w c] is not a multiple of `divisor`.

    Args:
        images: what the model was given.
        divisor: the pixels that become one in the coarsest map.
        model: its name.
    """
    height, width = images.shape[1:3]
    if height % divisor or width % divisor:
        larger = "x".join(str(-(-side // divisor) * divisor) for side in (height, width))
        smaller = "x".join(str(side // divisor * divisor) for side in (height, width))
        sizes = larger if min(height, width) < divisor else f"{smaller} or {larger}"
        raise ConfigError(
            f"{model} takes images whose sides are multiples of {divisor}; found {height}x{width}; "
            f"bring them to {sizes} by data.image_size, data.pad or --input."
        )
