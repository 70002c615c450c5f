"""Augmentations beside the amplitudes of a recipe: functions of a batch, from modules of one's own.

    @AUGMENTATIONS.register()
    def blackout(key: Key, images: Images, share: Fraction = 0.25) -> Images:
        '''Blackens a share of the pixels.'''
        return images * jax.random.bernoulli(key, 1 - share, images.shape[:3])[..., None]

They are called inside the compiled step, on float32 images [n h w c] in 0..255, and return images
of the same shape. Each function has a key of its own, another one at every step.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from cnn_lab.config import AugmentConfig
from cnn_lab.config.values import check_options
from cnn_lab.core.errors import ConfigError
from cnn_lab.core.registry import Registry

FIELD, OPTIONS = "config.data.augment.extra", "config.data.augment.options"

# (key, images, **options) -> images
AUGMENTATIONS: Registry[Callable[..., Any]] = Registry("extra augmentation", "cnn_lab.data.augment")


@dataclasses.dataclass(frozen=True)
class ExtraAugmentation:
    """A function in `AUGMENTATIONS`, and the options that it is called with."""

    name: str
    options: tuple[tuple[str, Any], ...] = ()


def choose_extra(augment: AugmentConfig) -> tuple[ExtraAugmentation, ...]:
    """The extra augmentations of a config; the option `o` of the augmentation `a` is called `a.o`.

    Raises:
        ConfigError: an unknown name or option, or an option of one that is not asked for.
    """
    given: dict[str, dict[str, Any]] = {name: {} for name in augment.extra}
    for option, value in augment.options.items():
        name, dot, own = option.partition(".")
        if dot and name not in given:
            problem = f"{OPTIONS}.{option} is set, but {FIELD} does not name {name}; add it there."
            raise ConfigError(problem, where=FIELD, found=name)
        if dot:
            given[name][own] = value
    chosen = []
    for name in augment.extra:
        function = AUGMENTATIONS.lookup(name, FIELD)
        options = check_options(function, given[name], f"{OPTIONS}.{name}", FIELD)
        chosen.append(ExtraAugmentation(name, tuple(options.items())))
    return tuple(chosen)
