"""Losses: one value per example, so that weights, padding and accumulation stay exact."""

from collections.abc import Callable

import jax.numpy as jnp
import optax

from cnn_lab.core.shapes import Labels, Logits, PerExample

Loss = Callable[[Logits, Labels], PerExample]


def cross_entropy(logits: Logits, labels: Labels) -> PerExample:
    """Softmax cross-entropy, in nats.

    Args:
        logits: [n k], unbounded.
        labels: [n], in [0, k).

    Returns:
        [n], at least 0; log k for uniform logits.
    """
    return optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), labels)


def squared_error(outputs: Logits, labels: Labels) -> PerExample:
    """Half the squared distance to the one-hot label, summed over classes.

    Args:
        outputs: [n k].
        labels: [n], in [0, k).

    Returns:
        [n], at least 0.
    """
    targets = (labels[:, None] == jnp.arange(outputs.shape[-1])[None]).astype(jnp.float32)
    return 0.5 * jnp.sum(jnp.square(outputs.astype(jnp.float32) - targets), axis=-1)


LOSSES: dict[str, Loss] = {"cross_entropy": cross_entropy, "squared_error": squared_error}
