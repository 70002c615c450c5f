"""Optimizers for large batches: the step of each layer is sized by the norm of its weights."""

import optax

from cnn_lab.config.ranges import NonNegative, Positive, ProperFraction
from cnn_lab.optim.kernels import decayed, kernels_only


def lars(
    learning_rate: optax.Schedule,
    momentum: ProperFraction = 0.9,
    nesterov: bool = False,
    weight_decay: NonNegative = 5e-4,
    trust_coefficient: Positive = 0.001,
    decay_vectors: bool = False,
) -> optax.GradientTransformation:
    """LARS: momentum with a rate per layer (You, Gitman & Ginsburg 2017, arXiv:1708.03888).

    A kernel's direction is u = g + weight_decay * w, scaled by trust_coefficient * |w| / |u|; the
    velocity v = m v + rate * u takes in the rate, as in the paper's algorithm 1. Biases, norms
    and other vectors have plain momentum. Usual rates are 1 and more.

    Differs from the paper: it divides by |g| + weight_decay * |w|, which |u| never exceeds, and
    treats biases like kernels.

    Args:
        learning_rate: step -> rate.
        momentum: share of the last velocity that is kept, in [0, 1).
        nesterov: look ahead along the velocity.
        weight_decay: share of a kernel that is added to its gradient, at least 0; it turns the
            direction and, not being decoupled, hardly changes the length of a step.
        trust_coefficient: length of a step over that of the kernel, for a rate of 1; positive.
        decay_vectors: add the share of biases, gains and other vectors to theirs too.
    """
    return optax.lars(
        learning_rate,
        weight_decay=weight_decay,
        weight_decay_mask=decayed(decay_vectors),
        trust_coefficient=trust_coefficient,
        trust_ratio_mask=kernels_only,
        momentum=momentum,
        nesterov=nesterov,
    )


def lamb(
    learning_rate: optax.Schedule,
    weight_decay: NonNegative = 0.01,
    b1: ProperFraction = 0.9,
    b2: ProperFraction = 0.999,
    eps: Positive = 1e-6,
    decay_vectors: bool = False,
) -> optax.GradientTransformation:
    """LAMB: AdamW whose steps have the length of their kernel (You et al. 2019, arXiv:1904.00962).

    A kernel's direction u is that of AdamW, the decay included; its step is rate * |w| / |u| * u.

    Differs from the paper: biases, norms and other vectors take Adam's steps, as in the code
    for BERT; algorithm 2 scales them too, by their own norm, which is often near 0.

    Args:
        learning_rate: step -> rate.
        weight_decay: share of a kernel that is added to its direction, at least 0.
        b1: decay of the first moment, in [0, 1).
        b2: decay of the second moment, in [0, 1).
        eps: added to the root of the second moment, positive.
        decay_vectors: let biases, gains and other vectors decay too.
    """
    return optax.chain(
        optax.scale_by_adam(b1=b1, b2=b2, eps=eps),
        optax.add_decayed_weights(weight_decay, mask=decayed(decay_vectors)),
        optax.masked(optax.scale_by_trust_ratio(), kernels_only),
        optax.scale_by_learning_rate(learning_rate),
    )
