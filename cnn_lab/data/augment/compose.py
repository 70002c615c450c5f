"""An augmentation as one pure function of a batch."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, Int, Int64, Shaped, UInt8

from cnn_lab.core.arrays import Images, Key, Labels, RawImages
from cnn_lab.core.errors import ConfigError
from cnn_lab.data.augment import colour, geometry, mixing, randaugment
from cnn_lab.data.augment.draws import Draws, draw
from cnn_lab.data.augment.erasing import Pixels, erase
from cnn_lab.data.augment.extra import AUGMENTATIONS, FIELD
from cnn_lab.data.augment.recipes import Augmentation
from cnn_lab.data.subsets import Subset

OPTIONS = "config.data.augment.options"
ELASTIC_STREAM = 1
EXTRA_STREAM = 2  # of the first extra augmentation; the others have those that follow

# (key, images [n h w c], labels [n]) -> (images [n h w c], labels [n] or [n k])
Augment = Callable[[Key, RawImages, Labels], tuple[Pixels, Labels | Float32[Array, "n k"]]]


def make_augment(
    augmentation: Augmentation, image_shape: tuple[int, int, int], num_classes: int
) -> Augment:
    """Makes the function that augments a batch, to be called inside a compiled step.

    It is pure: equal keys give equal bits, on any number of devices. Images stay uint8 unless
    values between whole numbers are possible, else become float32 in 0..255; labels become shares
    of the classes where images are mixed. With all amplitudes at 0 the arguments are returned.

    Args:
        augmentation: amplitudes.
        image_shape: (h, w, c) of stored images. Saturation, hue and grayscale are left out where c
            is not 3.
        num_classes: length of soft labels; 0 where labels are no classes.

    Raises:
        ConfigError: see `check_fits`; where the function is traced, an extra augmentation that
            returns images of another shape.
    """
    check_fits(augmentation, image_shape)
    if augmentation.mixes and not num_classes:
        problem = f"{OPTIONS}: mixup and CutMix mix classes, but the data have none; set both to 0."
        raise ConfigError(problem, where=OPTIONS)
    if image_shape[2] != 3:
        augmentation = dataclasses.replace(augmentation, saturation=0.0, hue=0.0, grayscale=0.0)
    extra = [
        functools.partial(_apply_extra, each.name, dict(each.options))
        for each in augmentation.extra
    ]
    whole = not (augmentation.interpolates or augmentation.jitters)
    moves = augmentation.flip or augmentation.shift
    if whole and not (moves or augmentation.erasing or augmentation.mixes or extra):
        return lambda _, images, labels: (images, labels)

    def augment(
        key: Key, images: RawImages, labels: Labels
    ) -> tuple[Pixels, Labels | Float32[Array, "n k"]]:
        draws = draw(key, len(images), augmentation.randaugment_ops)
        changed: Pixels = images
        if moves and not augmentation.interpolates:  # by whole pixels, exactly
            sign = jnp.where(draws["flip"] < augmentation.flip, -1, 1)
            shifts = geometry.random_shifts(augmentation, draws)
            x, y = (shift.astype(jnp.int32) for shift in shifts)
            changed = geometry.shift_pixels(images, sign, x, y, augmentation.fill)
        if not whole:
            changed = geometry.to_images(_interpolate_and_tone(augmentation, key, draws, changed))
        if augmentation.erasing:
            changed = erase(augmentation, draws, changed)
        for stream, apply in enumerate(extra, start=EXTRA_STREAM):
            changed = apply(jax.random.fold_in(key, stream), changed)
        if augmentation.mixes:
            return mixing.mix(augmentation, draws, changed, labels, num_classes)
        return changed, labels

    return augment


def check_fits(augmentation: Augmentation, image_shape: tuple[int, int, int]) -> None:
    """Raises a `ConfigError` for shifts beyond images of that size, or a range upside down."""
    height, width, _ = image_shape
    for name in ("shift", "translate"):
        pixels, side = getattr(augmentation, name), min(height, width)
        if pixels >= side:
            allowed = f"below {side}, for something to be left of {height} x {width} pixels"
            raise ConfigError(where=f"{OPTIONS}.{name}", found=pixels, allowed=allowed)
    for name in ("crop_area", "crop_aspect", "erasing_area", "erasing_aspect"):
        low, high = getattr(augmentation, name)
        if low > high:
            allowed = f"the smaller value, then the larger ({high},{low})"
            raise ConfigError(where=f"{OPTIONS}.{name}", found=(low, high), allowed=allowed)


def _apply_extra(name: str, options: dict[str, Any], key: Key, images: Pixels) -> Images:
    """The images that a registered function makes of a batch, float32; their shape is checked."""
    changed = AUGMENTATIONS[name](key, images.astype(jnp.float32), **options)
    if jnp.shape(changed) != images.shape:
        raise ConfigError(
            where=f"The shape of what the augmentation {name!r} of {FIELD} returns",
            found=jnp.shape(changed),
            allowed=f"that of the images, {images.shape}",
        )
    return changed.astype(jnp.float32)


def _interpolate_and_tone(
    augmentation: Augmentation, key: Key, draws: Draws, images: RawImages
) -> geometry.Planes:
    """All that yields values between whole numbers: one interpolation, then tones and colours."""
    num_examples, height, width, num_channels = images.shape
    operations = randaugment.operations(augmentation, draws, num_channels)
    magnitude = augmentation.randaugment_magnitude
    planes = geometry.to_planes(images)
    if augmentation.interpolates:
        to_old = geometry.random_map(augmentation, draws, height, width)
        for operation in operations:
            to_old = geometry.chain(
                to_old, randaugment.operation_map(operation, magnitude, height, width)
            )
        if augmentation.shift:
            to_old = geometry.chain(
                to_old, geometry.translate(*geometry.random_shifts(augmentation, draws))
            )
        displacement = None
        if augmentation.elastic_alpha:
            stream, shape = jax.random.fold_in(key, ELASTIC_STREAM), (num_examples, height, width)
            displacement = geometry.elastic_field(
                stream, shape, augmentation.elastic_alpha, augmentation.elastic_sigma
            )
        planes = geometry.interpolate(images, to_old, displacement, augmentation.fill)
    for operation in operations:
        planes = randaugment.apply_tones(operation, magnitude, planes)
    if augmentation.jitters and augmentation.interpolates:
        planes = geometry.planes_computed_once(planes)
    if augmentation.jitters:
        planes = colour.jitter(augmentation, draws, planes)
    return planes


def augmented_versions(
    train: Subset, augmentation: Augmentation, *, num_images: int, num_versions: int, seed: int
) -> tuple[
    UInt8[np.ndarray, "n versions h w c"],
    Shaped[np.ndarray, "n ..."],
    Shaped[np.ndarray, "n _ ..."],
]:
    """Augments some training images, equally many of each class if there are any, several times.

    Returns:
        The images, the original of each first; their labels; and the targets of the augmented
        versions: labels, or shares of the classes where images are mixed.
    """
    num_classes = train.source.info.num_classes
    augment = jax.jit(make_augment(augmentation, train.source.fixed_shape, num_classes))
    batch = train.source.read(train.indices[_one_a_class(train.strata, num_images, seed)])
    images, labels = jnp.asarray(batch["image"]), jnp.asarray(batch["label"])
    versions, targets = [batch["image"]], []
    for version in range(num_versions):
        key = jax.random.fold_in(jax.random.key(seed), version)
        # Images are mixed with their neighbours, which are others at every step of a training.
        order = np.random.default_rng((seed, version)).permutation(len(labels))
        back = np.argsort(order)
        augmented, new_targets = augment(key, images[order], labels[order])
        pixels = np.clip(np.rint(np.asarray(augmented)[back]), 0, 255).astype(np.uint8)
        versions.append(pixels)
        targets.append(np.asarray(new_targets)[back])
    return np.stack(versions, axis=1), batch["label"], np.stack(targets, axis=1)


def _one_a_class(
    labels: Int[np.ndarray, " n"], num_images: int, seed: int
) -> Int64[np.ndarray, " m"]:
    """Positions of examples, one of each class, then a second of each and so on."""
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    counts = np.bincount(labels)
    rank = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)  # in its class
    chosen = np.sort(by_class[np.lexsort((labels[by_class], rank))[:num_images]])
    return chosen[np.argsort(labels[chosen], kind="stable")]
