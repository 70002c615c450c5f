"""Training images beside augmented versions of them, as a training would see them."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32, Int, Int32, Int64, UInt8

from cnn_lab.data.augment.compose import make_augment
from cnn_lab.data.augment.recipes import Augmentation
from cnn_lab.data.subsets import Subset


def augmented_versions(
    train: Subset, augmentation: Augmentation, *, num_images: int, num_versions: int, seed: int
) -> tuple[
    UInt8[np.ndarray, "n versions h w c"],
    Int32[np.ndarray, " n"],
    Int32[np.ndarray, "n _"] | Float32[np.ndarray, "n _ k"],
]:
    """Augments some training images several times.

    Args:
        train: the training examples, of images of one size.
        augmentation: amplitudes.
        num_images: number of images, class after class as long as there are any.
        num_versions: number of augmented versions of each.
        seed: another seed gives other images and other versions.

    Returns:
        The images, the original of each first; their labels; and the targets of the augmented
        versions: labels, or shares of the classes where images are mixed.
    """
    num_classes = train.source.info.num_classes
    augment = jax.jit(make_augment(augmentation, train.source.fixed_shape, num_classes))
    batch = train.source.read(train.indices[_one_a_class(train.labels, num_images, seed)])
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
    random = np.random.default_rng(seed)
    shuffled = random.permutation(len(labels))
    shuffled_labels = labels[shuffled]
    # The rank of each example among those of its class.
    order = np.argsort(shuffled_labels, kind="stable")
    counts = np.bincount(shuffled_labels)
    starts = np.repeat(np.cumsum(counts) - counts, counts)
    rank = np.empty(len(labels), np.int64)
    rank[order] = np.arange(len(labels)) - starts
    chosen = np.sort(shuffled[np.lexsort((shuffled_labels, rank))[:num_images]])
    return chosen[np.argsort(labels[chosen], kind="stable")]
