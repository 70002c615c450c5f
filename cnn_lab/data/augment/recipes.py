"""Augmentations and their amplitudes, by kind of image and strength.

Sources of the numbers: flip and shift of 4 pixels for CIFAR, He et al. 2015 (arXiv
1512.03385, section 4.2); areas and aspects of crops, Szegedy et al. 2015 (arXiv 1409.4842, section
6); RandAugment with mixup 0.2 and CutMix 1, Wightman et al. 2021 (arXiv 2110.00476, table 2), at
the magnitude that torchvision takes by default; erasing, Zhong et al. 2017 (arXiv 1708.04896,
section 4); angles and scales of handwriting, Cireşan et al. 2010 (arXiv 1003.0358, section 3);
elastic distortion, Simard et al. 2003 ("Best practices for convolutional neural networks applied
to visual document analysis", section 2).
"""

import dataclasses
from typing import Annotated, Literal

from cnn_lab.config import DataConfig
from cnn_lab.config.values import Fraction, Natural, NonNegative, Positive, Range, check_options
from cnn_lab.core.errors import lookup
from cnn_lab.data.augment.extra import ExtraAugmentation, choose_extra
from cnn_lab.data.datasets.published import DATASETS

Fill = Literal["black", "reflect", "edge"]
Share = Annotated[float, Range(above=0, max=1)]
Angle = Annotated[float, Range(min=0, max=180)]
Slant = Annotated[float, Range(min=0, max=60)]
Turn = Annotated[float, Range(min=0, max=0.5)]
Magnitude = Annotated[float, Range(min=0, max=30)]
Smoothing = Annotated[float, Range(min=0.5)]  # the minimum of `elastic_field`


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Amplitudes of random changes of images; the defaults change nothing.

    An image draws each of its values evenly from the range given, apart from all other images.

    Attributes:
        flip: probability of exchanging left and right.
        shift: largest shift along each axis, in whole pixels; exact, as padding and cropping is.
        fill: surroundings of an image: black, or the image mirrored at its border pixels, or
            those repeated.
        crop_area: smallest and largest share of the image that a crop keeps, which is then
            enlarged to the image's size.
        crop_aspect: smallest and largest ratio of width to height of a crop in pixels, on a
            logarithmic scale; a side longer than the image is cut to it. Streamed images are
            cropped before they are brought to their size, those in memory after.
        rotation: largest angle either way, in degrees.
        scale: largest enlargement: 0.2 draws factors from 1/1.2 to 1.2, on a logarithmic scale.
        stretch: the same for the ratio of width to height, at the same area.
        shear: largest slant of upright lines, in degrees.
        translate: largest shift along each axis, in pixels and fractions of them.
        elastic_alpha: factor of the elastic distortion's smoothed noise, in pixels: at sigma 4 and
            alpha 34, pixels wander by 1.4 (standard deviation).
        elastic_sigma: width of the noise's smoothing, in pixels (standard deviation), at least
            half a pixel, which is hardly any.
        brightness: 0.4 multiplies all pixels by a factor from 0.6 to 1.4.
        contrast: the same for distances from the image's mean grey.
        saturation: the same for distances from each pixel's grey; colour images only.
        hue: largest turn of the colour circle either way, as a share of it; colour images only.
        grayscale: probability of losing all colour; colour images only.
        erasing: probability of a rectangle of noise.
        erasing_area: smallest and largest share of the image that it covers.
        erasing_aspect: smallest and largest ratio of its width to its height, on a logarithmic
            scale.
        mixup: alpha of the Beta distribution of an image's share in a blend of two.
        cutmix: alpha of the Beta distribution of an image's share where a rectangle of another
            covers the rest. With mixup too, each image gets one of both.
        mix_probability: share of the images that mixup or CutMix change.
        randaugment_ops: changes per image that RandAugment draws.
        randaugment_magnitude: how strong they are; 30 is torchvision's strongest.
    """

    flip: Fraction = 0.0
    shift: Natural = 0
    fill: Fill = "black"
    crop_area: tuple[Share, Share] = (1.0, 1.0)
    crop_aspect: tuple[Positive, Positive] = (1.0, 1.0)
    rotation: Angle = 0.0
    scale: NonNegative = 0.0
    stretch: NonNegative = 0.0
    shear: Slant = 0.0
    translate: NonNegative = 0.0
    elastic_alpha: NonNegative = 0.0
    elastic_sigma: Smoothing = 4.0
    brightness: NonNegative = 0.0
    contrast: NonNegative = 0.0
    saturation: NonNegative = 0.0
    hue: Turn = 0.0
    grayscale: Fraction = 0.0
    erasing: Fraction = 0.0
    erasing_area: tuple[Share, Share] = (0.02, 0.4)
    erasing_aspect: tuple[Positive, Positive] = (0.3, 3.3)
    mixup: NonNegative = 0.0
    cutmix: NonNegative = 0.0
    mix_probability: Fraction = 1.0
    randaugment_ops: Natural = 0
    randaugment_magnitude: Magnitude = 9.0

    @property
    def extra(self) -> tuple[ExtraAugmentation, ...]:
        """Augmentations that follow, before images are mixed."""
        return ()

    @property
    def crops(self) -> bool:
        """Whether random resized crops are drawn."""
        return self.crop_area != (1.0, 1.0) or self.crop_aspect != (1.0, 1.0)

    def without_crops(self) -> "Augmentation":
        """This augmentation but for the random resized crops."""
        return dataclasses.replace(self, crop_area=(1.0, 1.0), crop_aspect=(1.0, 1.0))

    @property
    def interpolates(self) -> bool:
        """Whether images are sampled between pixels."""
        amplitudes = (self.rotation, self.scale, self.stretch, self.shear, self.translate)
        return self.crops or any((*amplitudes, self.elastic_alpha, self.randaugment_ops))

    @property
    def jitters(self) -> bool:
        """Whether brightness or colours change, RandAugment apart."""
        return any((self.brightness, self.contrast, self.saturation, self.hue, self.grayscale))

    @property
    def mixes(self) -> bool:
        """Whether labels become shares of the classes."""
        return bool(self.mix_probability and (self.mixup or self.cutmix))


@dataclasses.dataclass(frozen=True)
class ExtendedAugmentation(Augmentation):
    """An augmentation that functions of a user's own follow, which are no amplitudes of it."""

    functions: tuple[ExtraAugmentation, ...] = ()

    @property
    def extra(self) -> tuple[ExtraAugmentation, ...]:
        """Augmentations that follow, before images are mixed."""
        return self.functions


_PHOTOS_LIGHT = Augmentation(
    flip=0.5,
    fill="reflect",
    crop_area=(0.5, 1.0),
    crop_aspect=(3 / 4, 4 / 3),
    brightness=0.2,
    contrast=0.2,
    saturation=0.2,
)
_PHOTOS_HEAVY = Augmentation(
    flip=0.5,
    fill="reflect",
    crop_area=(0.25, 1.0),
    crop_aspect=(3 / 4, 4 / 3),
    rotation=10.0,
    randaugment_ops=2,
    erasing=0.25,
    mixup=0.2,
    cutmix=1.0,
)
_CIFAR_LIGHT = Augmentation(flip=0.5, shift=4)
_CIFAR_HEAVY = dataclasses.replace(_CIFAR_LIGHT, randaugment_ops=2, erasing=0.5, cutmix=1.0)
_STROKES_LIGHT = Augmentation(
    rotation=7.5, scale=0.1, stretch=0.1, shear=7.5, translate=1.0, elastic_alpha=15.0
)
_STROKES_HEAVY = Augmentation(
    rotation=15.0, scale=0.15, stretch=0.15, shear=15.0, translate=2.0, elastic_alpha=34.0
)

# Kind of image -> strength -> amplitudes; those in pixels fit images of 28 to 32 pixels.
RECIPES: dict[str, dict[str, Augmentation]] = {
    "photos": {"none": Augmentation(), "light": _PHOTOS_LIGHT, "heavy": _PHOTOS_HEAVY},
    "cifar": {"none": Augmentation(), "light": _CIFAR_LIGHT, "heavy": _CIFAR_HEAVY},
    "strokes": {"none": Augmentation(), "light": _STROKES_LIGHT, "heavy": _STROKES_HEAVY},
}


def choose_augmentation(data: DataConfig) -> Augmentation:
    """The recipe of the config, or of its data, at the config's strength, options replaced.

    Raises:
        ConfigError: an unknown recipe, extra augmentation or option.
    """
    augment, path = data.augment, "config.data.augment"
    name = augment.recipe or default_recipe(data.name)
    recipe = lookup(RECIPES, name, "augmentation", f"{path}.recipe")
    extra = choose_extra(augment)
    own = {option: value for option, value in augment.options.items() if "." not in option}
    options = check_options(Augmentation, own, f"{path}.options", f"{path}.recipe")
    augmentation = dataclasses.replace(recipe[augment.strength], **options)
    if not extra:
        return augmentation
    return ExtendedAugmentation(**dataclasses.asdict(augmentation), functions=extra)


def default_recipe(name: str) -> str:
    """The recipe of a data set's kind of image; `photos` where the data are a user's own."""
    return DATASETS[name].recipe if name in DATASETS else "photos"
