"""What images a network can take."""

from cnn_lab.core.errors import ConfigError
from cnn_lab.core.shapes import Images


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
            f"data.image_size or data.pad{instead}."
        )
