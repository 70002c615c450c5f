"""Two images in one, with labels to match: mixup and CutMix.

Mixup (Zhang et al. 2017, arXiv 1710.09412) blends whole images; CutMix (Yun et al. 2019, arXiv
1905.04899) pastes a rectangle. The share of the first image is Beta(alpha, alpha) in both.

Differs from the papers: each image draws its own share instead of one for the batch, and its
partner is its neighbour in the batch, which is in random order already. So no image travels between
devices that hold an even number of examples each.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32

from cnn_lab.core.shapes import Labels
from cnn_lab.data.augment import boxes
from cnn_lab.data.augment.draws import Draws, computed_once
from cnn_lab.data.augment.erasing import Pixels
from cnn_lab.data.augment.recipes import Augmentation

TABLE_STEPS = 512


def mixed(
    augmentation: Augmentation, draws: Draws, images: Pixels, labels: Labels, num_classes: int
) -> tuple[Pixels, Float32[Array, "n k"]]:
    """Images mixed with their neighbours, and each class's share of them."""
    num_examples, height, width, _ = images.shape
    images = once_each(images)
    others = neighbour(images)
    chosen = draws["mix"] < augmentation.mix_probability
    cut = jnp.full((num_examples,), augmentation.cutmix > 0)
    if augmentation.mixup and augmentation.cutmix:
        cut = draws["mix_kind"] < 0.5
    own = jnp.ones((num_examples,), jnp.float32)
    if augmentation.mixup:
        blend = jnp.where(chosen & ~cut, beta(draws["mix_share"], augmentation.mixup), 1)
        share = computed_once(blend)[:, None, None, None]
        images = share * images + (1 - share) * others
        own = blend
    if augmentation.cutmix:
        share = beta(draws["mix_share"], augmentation.cutmix)
        box = jnp.where((chosen & cut)[None], cutmix_box(draws, share, height, width), 0)
        images = jnp.where(boxes.inside(box, height, width), others.astype(images.dtype), images)
        own = jnp.where(cut, 1 - boxes.area(box) / (height * width), own)
    classes = jax.nn.one_hot(labels, num_classes)
    return images, own[:, None] * classes + (1 - own[:, None]) * neighbour(classes)


def neighbour(values: Array) -> Array:
    """For each example its partner's values: pairs exchange, or all move on in an odd batch."""
    if len(values) % 2:
        return jnp.roll(values, 1, axis=0)
    pairs = values.reshape(len(values) // 2, 2, *values.shape[1:])
    return pairs[:, ::-1].reshape(values.shape)


def once_each(images: Pixels) -> Pixels:
    """Images with fractions, computed once and not again for their partners."""
    return images if images.dtype == jnp.uint8 else computed_once(images)


def cutmix_box(draws: Draws, share: Float[Array, " n"], height: int, width: int) -> boxes.Box:
    """Rectangles of sides sqrt(1 - share) about an even centre, cut off at the image's border."""
    ratio = jnp.sqrt(1 - share)
    edges = []
    for axis, length in (("y", height), ("x", width)):
        half = jnp.floor(ratio * length) / 2
        centre = jnp.floor(draws[f"mix_{axis}"] * length)
        edges += [jnp.clip(jnp.floor(centre + end), 0, length) for end in (-half, half)]
    return jnp.stack(edges).astype(jnp.int32)


def beta(draws: Float32[Array, " n"], alpha: float) -> Float32[Array, " n"]:
    """Turns even draws from [0, 1) into Beta(alpha, alpha), by a table of its quantiles."""
    place = jnp.minimum(draws, 1 - draws) * (2 * TABLE_STEPS)
    step = jnp.clip(place.astype(jnp.int32), 0, TABLE_STEPS - 1)
    table = jnp.asarray(_quantiles(alpha))
    low, high = table[step], table[step + 1]
    lower = (low + (place - step) * (high - low)) ** jnp.float32(1 / alpha)
    return jnp.where(draws < 0.5, lower, 1 - lower)


def _quantiles(alpha: float) -> np.ndarray:
    """x^alpha of the quantiles x at 0, ..., 1/2: almost straight, since x^alpha is even near 0."""
    powers = np.linspace(0, 0.5**alpha, 2**14)
    density = (1 - powers ** (1 / alpha)) ** (alpha - 1)
    total = np.concatenate([[0], np.cumsum((density[1:] + density[:-1]) / 2)])
    wanted = np.linspace(0, total[-1], TABLE_STEPS + 1)
    return np.interp(wanted, total, powers).astype(np.float32)
