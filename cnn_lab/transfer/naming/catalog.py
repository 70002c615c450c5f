"""The one table of models whose weights can come from elsewhere."""

import fnmatch
from collections.abc import Mapping

from cnn_lab.core.errors import ConfigError, suggest
from cnn_lab.models.registry import MODELS
from cnn_lab.transfer.naming import by_path, by_place
from cnn_lab.transfer.naming.rules import Naming

# Model -> library -> naming; the first library's names are those of an export.
NAMINGS: dict[str, Mapping[str, Naming]] = {
    "alexnet": by_place.ALEXNET,
    "convnext_tiny": by_path.CONVNEXT,
    "efficientnet_b0": by_place.EFFICIENTNET,
    "googlenet": by_path.GOOGLENET,
    "inception_v3": by_path.INCEPTION_V3,
    "mobilenet_v2": by_place.MOBILENET_V2,
    "squeezenet1_0": by_place.SQUEEZENET,
    "squeezenet1_1": by_place.SQUEEZENET,
    "wide_resnet50_2": by_path.RESNET,
    **dict.fromkeys(fnmatch.filter(MODELS, "densenet*"), by_path.DENSENET),
    **dict.fromkeys(fnmatch.filter(MODELS, "resne[tx]*"), by_path.RESNET),
    **dict.fromkeys(fnmatch.filter(MODELS, "vgg*"), by_place.VGG),
}
# Their published weights want pixels in [-1, 1]; torchvision brings its usual ones to that.
PLAIN_SCALE = frozenset({"googlenet", "inception_v3"})


def namings_of(model: str) -> Mapping[str, Naming]:
    """The namings of a model that is known.

    Raises:
        ConfigError: it has no counterpart elsewhere.
    """
    if model not in NAMINGS:
        raise ConfigError(
            f"{model} has no counterpart in torchvision or timm, so its weights have no names "
            f"there; {suggest(model, NAMINGS)}"
        )
    return NAMINGS[model]


def choose(namings: Mapping[str, Naming], name: str) -> Naming:
    """One of the namings of a model, by the library's name."""
    if name not in namings:
        raise ConfigError(f"--naming={name} does not fit; {suggest(name, namings)}")
    return namings[name]
