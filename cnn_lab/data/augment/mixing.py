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

from cnn_lab.core.arrays import Labels
from cnn_lab.data.augment.draws import Draws, computed_once
from cnn_lab.data.augment.erasing import Pixels, Rectangle, rectangle_mask
from cnn_lab.data.augment.recipes import Augmentation

TABLE_STEPS = 2048


def mix(
    augmentation: Augmentation, draws: Draws, images: Pixels, labels: Labels, num_classes: int
) -> tuple[Pixels, Float32[Array, "n k"]]:
    """Images mixed with their neighbours, and each class's share of them."""
    num_examples, height, width, _ = images.shape
    if images.dtype != jnp.uint8:  # fractions, computed once and not again for their partners
        images = computed_once(images)
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
        rectangle = cutmix_rectangle(draws, share, height, width)
        rectangle = jnp.where((chosen & cut)[None], rectangle, 0)
        hidden = rectangle_mask(rectangle, height, width)
        images = jnp.where(hidden, others.astype(images.dtype), images)
        top, bottom, left, right = rectangle
        area = (bottom - top) * (right - left)
        own = jnp.where(cut, 1 - area / (height * width), own)
    classes = jax.nn.one_hot(labels, num_classes)
    return images, own[:, None] * classes + (1 - own[:, None]) * neighbour(classes)


def neighbour(values: Array) -> Array:
    """For each example its partner's values: pairs exchange, or all move on in an odd batch."""
    if len(values) % 2:
        return jnp.roll(values, 1, axis=0)
    pairs = values.reshape(len(values) // 2, 2, *values.shape[1:])
    return pairs[:, ::-1].reshape(values.shape)


def cutmix_rectangle(draws: Draws, share: Float[Array, " n"], height: int, width: int) -> Rectangle:
    """Rectangles of sides sqrt(1 - share) about an even centre, cut off at the image's border."""
    ratio = jnp.sqrt(1 - share)
    edges = []
    for axis, length in (("y", height), ("x", width)):
        half = jnp.floor(ratio * length) / 2
        centre = jnp.floor(draws[f"mix_{axis}"] * length)
        edges += [jnp.clip(jnp.floor(centre + end), 0, length) for end in (-half, half)]
    return jnp.stack(edges).astype(jnp.int32)


def beta(draws: Float32[Array, " n"], alpha: float) -> Float32[Array, " n"]:
    """Turns uniform draws from [0, 1) into Beta(alpha, alpha), by a table of its quantiles.

    The entries' probabilities are fourth powers: towards 0 closer than any two draws, so that the
    tail of a large alpha is whole. Between entries it interpolates linearly, for alpha below 1 in
    the quantile's alpha-th power, which is almost straight near 0.
    """
    from scipy.special import betaincinv  # a quarter of a second, for mixup alone

    power = min(float(alpha), 1.0)
    probabilities = np.linspace(0, 1, TABLE_STEPS + 1) ** 4 / 2
    quantiles = betaincinv(alpha, alpha, probabilities)
    table = jnp.asarray((quantiles**power).astype(np.float32))
    below = jnp.minimum(draws, 1 - draws)
    place = jnp.sqrt(jnp.sqrt(2 * below)) * TABLE_STEPS
    step = jnp.clip(place.astype(jnp.int32), 0, TABLE_STEPS - 1)
    start, end = _probability(step), _probability(step + 1)
    low, high = table[step], table[step + 1]
    # A place that was rounded up is just before its step.
    line = jnp.maximum(low + (below - start) / (end - start) * (high - low), 0)
    lower = line ** jnp.float32(1 / power)
    return jnp.where(draws < 0.5, lower, 1 - lower)


def _probability(step: Array) -> Array:
    return jnp.square(jnp.square(step.astype(jnp.float32) / TABLE_STEPS)) / 2
