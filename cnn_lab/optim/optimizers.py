"""Optimizers by name, each a function of the learning rate and its own options."""

from collections.abc import Callable

import jax
import optax

from cnn_lab.core.ranges import NonNegative, Positive, ProperFraction
from cnn_lab.core.shapes import Tree


def sgd(learning_rate: optax.Schedule) -> optax.GradientTransformation:
    """Stochastic gradient descent: w -= rate * g (Robbins & Monro 1951)."""
    return optax.sgd(learning_rate)


def momentum(
    learning_rate: optax.Schedule, momentum: ProperFraction = 0.9, nesterov: bool = False
) -> optax.GradientTransformation:
    """Heavy-ball momentum: v = m v + g, w -= rate * v (Polyak 1964; Nesterov's form on request).

    Args:
        learning_rate: step -> rate.
        momentum: share of the last velocity that is kept, in [0, 1).
        nesterov: look ahead along the velocity (Sutskever et al. 2013).
    """
    return optax.sgd(learning_rate, momentum=momentum, nesterov=nesterov)


def adam(
    learning_rate: optax.Schedule,
    b1: ProperFraction = 0.9,
    b2: ProperFraction = 0.999,
    eps: Positive = 1e-8,
) -> optax.GradientTransformation:
    """Adam (Kingma & Ba 2014, arXiv:1412.6980)."""
    return optax.adam(learning_rate, b1=b1, b2=b2, eps=eps)


def adamw(
    learning_rate: optax.Schedule,
    weight_decay: NonNegative = 0.01,
    b1: ProperFraction = 0.9,
    b2: ProperFraction = 0.999,
    eps: Positive = 1e-8,
) -> optax.GradientTransformation:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2017, arXiv:1711.05101).

    Args:
        learning_rate: step -> rate; the decay of a step is rate * weight_decay.
        weight_decay: decay of kernels, at least 0; biases and other vectors are left alone.
        b1: decay of the first moment, in [0, 1).
        b2: decay of the second moment, in [0, 1).
        eps: added to the root of the second moment, positive.
    """
    return optax.adamw(
        learning_rate, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay, mask=kernels_only
    )


def kernels_only(params: Tree) -> Tree:
    """True for leaves of two or more axes: the ones that decay and penalties apply to."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "adam": adam,
    "adamw": adamw,
    "momentum": momentum,
    "sgd": sgd,
}
