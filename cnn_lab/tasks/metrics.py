"""Metrics: per-example values, and their weighted (sum, count) pairs.

Pairs add up over steps, batches and devices, so a mean taken at the end does not depend on how the
examples were grouped.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from cnn_lab.core.arrays import Logits, PerExample, Scalar, Targets
from cnn_lab.core.errors import ConfigError

Pair = tuple[Scalar, Scalar]


def accuracy(logits: Logits, targets: Targets) -> PerExample:
    """1 where the largest logit is the label's, else 0 (the first one on ties).

    The label of mixed classes is that of the largest share.
    """
    labels = jnp.argmax(targets, axis=-1) if targets.ndim == 2 else targets
    return (jnp.argmax(logits, axis=-1) == labels).astype(jnp.float32)


def example_weights(batch: Mapping[str, Any]) -> PerExample:
    """The weights of a batch's examples [n]: its `weight`, or ones where it has none.

    Raises:
        ConfigError: they, or the labels, are not one an image.
    """
    for name in ("image", "label"):
        if name not in batch:
            problem = f"A batch must hold `image` and `label`; found {', '.join(sorted(batch))}."
            raise ConfigError(problem, where=name, found=sorted(batch), allowed="image and label")
    num_examples = len(batch["image"])
    if len(batch["label"]) != num_examples:
        raise ConfigError(
            where="The number of labels in a batch",
            found=len(batch["label"]),
            allowed=f"{num_examples}, one an image",
        )
    if "weight" not in batch:
        return jnp.ones(num_examples, jnp.float32)
    if jnp.shape(batch["weight"]) != (num_examples,):
        raise ConfigError(
            where="The shape of `weight` in a batch",
            found=jnp.shape(batch["weight"]),
            allowed=f"({num_examples},), one number an image",
        )
    return batch["weight"]


def weighted_pairs(values: Mapping[str, PerExample], weights: PerExample) -> dict[str, Pair]:
    """Sums per-example values into (weighted sum, sum of weights).

    Examples of weight 0 are left out even where their value is not finite.
    """
    kept = [jnp.where(weights > 0, value * weights, 0.0) for value in values.values()]
    # One sum of all, so that devices exchange one small array instead of one scalar a metric.
    *sums, count = jnp.sum(jnp.stack([*kept, weights]), axis=1)
    return {name: (total, count) for name, total in zip(values, sums, strict=True)}
