"""From what a config says of augmentation to amplitudes."""

import dataclasses

from cnn_lab.config import DataConfig
from cnn_lab.config.options import check_options
from cnn_lab.core.errors import lookup
from cnn_lab.data.augment.recipes import RECIPES, Augmentation
from cnn_lab.data.datasets.descriptions import DATASETS

PATH = "config.data.augment"
USUAL = "photos"


def choose_augmentation(data: DataConfig) -> Augmentation:
    """The recipe of the config, or of its data, at the config's strength, options replaced.

    Raises:
        ConfigError: an unknown recipe or option, or a value that does not fit.
    """
    augment = data.augment
    recipe = lookup(RECIPES, augment.recipe or usual_recipe(data.name), "augmentation")
    options = check_options(Augmentation, augment.options, f"{PATH}.options", f"{PATH}.recipe")
    return dataclasses.replace(recipe[augment.strength], **options)


def usual_recipe(name: str) -> str:
    """The recipe of a data set's kind of image."""
    return DATASETS[name].recipe if name in DATASETS else USUAL
