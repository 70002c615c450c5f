"""Optimizers by name, each a function of the learning rate and its own options.

Weight decay is decoupled from the gradient (`lars`, whose paper has it otherwise, excepted) and
leaves biases, norms and other vectors alone unless `decay_vectors` is set; an L2 penalty on the
loss is in `penalties`. Options stand at the values of the paper or of PyTorch, and where the two
define a method differently, at PyTorch's definition; each docstring says what is left of a
difference.
"""

from collections.abc import Callable

import optax

from cnn_lab.config.ranges import NonNegative, Positive, ProperFraction
from cnn_lab.optim.centred import scale_by_deviation
from cnn_lab.optim.kernels import decayed
from cnn_lab.optim.large_batch import lamb, lars
from cnn_lab.optim.muon import muon
from cnn_lab.optim.sam import sam
from cnn_lab.optim.schedule_free import schedule_free_adamw, schedule_free_sgd


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


def adagrad(learning_rate: optax.Schedule, eps: Positive = 1e-10) -> optax.GradientTransformation:
    """AdaGrad: rates fall with the sum of squared gradients (Duchi, Hazan & Singer 2011).

    The sum starts at 0, as in the paper. Usual rates are about 0.01.

    Args:
        learning_rate: step -> rate.
        eps: guards the root of the sum s of squared gradients, positive; the divisor is
            sqrt(s + eps^2), PyTorch's is sqrt(s) + eps: the same unless gradients are as small.
    """
    return optax.adagrad(learning_rate, initial_accumulator_value=0.0, eps=eps**2)


def adadelta(
    learning_rate: optax.Schedule, rho: ProperFraction = 0.9, eps: Positive = 1e-6
) -> optax.GradientTransformation:
    """AdaDelta: steps sized by the root mean square of earlier ones (Zeiler 2012, arXiv:1212.5701).

    The paper has no learning rate: a rate of 1 is its method. The first steps are of the size
    sqrt(eps), so it starts slowly.

    Args:
        learning_rate: step -> factor of the steps.
        rho: decay of both averages of squares, in [0, 1); the paper's experiments have 0.95 too.
        eps: added to the averages under their roots, positive.
    """
    return optax.adadelta(learning_rate, rho=rho, eps=eps)


def rmsprop(
    learning_rate: optax.Schedule,
    decay: ProperFraction = 0.9,
    eps: Positive = 1e-8,
    centered: bool = False,
    momentum: ProperFraction = 0.0,
) -> optax.GradientTransformation:
    """RMSProp: gradients over their root mean square (Tieleman & Hinton 2012, lecture 6.5).

    Args:
        learning_rate: step -> rate.
        decay: of the mean of squares, in [0, 1); 0.9 in the lecture, 0.99 in PyTorch.
        eps: added to the root, positive, as in PyTorch; optax's own default is under the root.
        centered: divide by the standard deviation instead (Graves 2013, arXiv:1308.0850). A weight
            whose gradient hardly varies has almost none, and takes steps of up to g / eps times
            the rate: raise `eps` to about 1e-2, the root of what Graves has under his.
        momentum: share of the last velocity that is kept, in [0, 1); the rate of a step multiplies
            the velocity, as in PyTorch, and does not enter it.
    """
    if centered:
        velocity = optax.trace(momentum) if momentum else optax.identity()
        scaled = optax.chain(scale_by_deviation(decay, eps), optax.scale(-1.0), velocity)
    else:
        scaled = optax.rmsprop(
            1.0, decay=decay, eps=eps, eps_in_sqrt=False, momentum=momentum or None
        )
    return optax.chain(scaled, optax.scale_by_learning_rate(learning_rate, flip_sign=False))


def adam(
    learning_rate: optax.Schedule,
    b1: ProperFraction = 0.9,
    b2: ProperFraction = 0.999,
    eps: Positive = 1e-8,
) -> optax.GradientTransformation:
    """Adam (Kingma & Ba 2014, arXiv:1412.6980).

    Args:
        learning_rate: step -> rate.
        b1: decay of the first moment, in [0, 1).
        b2: decay of the second moment, in [0, 1).
        eps: added to the root of the second moment, positive.
    """
    return optax.adam(learning_rate, b1=b1, b2=b2, eps=eps)


def adamw(
    learning_rate: optax.Schedule,
    weight_decay: NonNegative = 0.01,
    b1: ProperFraction = 0.9,
    b2: ProperFraction = 0.999,
    eps: Positive = 1e-8,
    decay_vectors: bool = False,
) -> optax.GradientTransformation:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2017, arXiv:1711.05101).

    Args:
        learning_rate: step -> rate; the decay of a step is rate * weight_decay.
        weight_decay: decay of kernels, at least 0; biases and other vectors are left alone.
        b1: decay of the first moment, in [0, 1).
        b2: decay of the second moment, in [0, 1).
        eps: added to the root of the second moment, positive.
        decay_vectors: let biases, gains and other vectors decay too.
    """
    return optax.adamw(
        learning_rate, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay, mask=decayed(decay_vectors)
    )


def nadam(
    learning_rate: optax.Schedule,
    b1: ProperFraction = 0.9,
    b2: ProperFraction = 0.999,
    eps: Positive = 1e-8,
    weight_decay: NonNegative = 0.0,
    decay_vectors: bool = False,
) -> optax.GradientTransformation:
    """Adam with Nesterov's momentum (Dozat 2016, ICLR workshop).

    Differs from the paper: b1 is constant. PyTorch's warms it up from b1/2 by default
    (`momentum_decay`), and agrees where that is switched off.

    Args:
        learning_rate: step -> rate; the decay of a step is rate * weight_decay.
        b1: decay of the first moment, in [0, 1).
        b2: decay of the second moment, in [0, 1).
        eps: added to the root of the second moment, positive.
        weight_decay: decay of kernels, at least 0; biases and other vectors are left alone.
        decay_vectors: let biases, gains and other vectors decay too.
    """
    return optax.nadamw(
        learning_rate, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay, mask=decayed(decay_vectors)
    )


def lion(
    learning_rate: optax.Schedule,
    b1: ProperFraction = 0.9,
    b2: ProperFraction = 0.99,
    weight_decay: NonNegative = 0.0,
    decay_vectors: bool = False,
) -> optax.GradientTransformation:
    """Lion: steps along the sign of a momentum (Chen et al. 2023, arXiv:2302.06675).

    Every weight moves by the rate itself, so the paper takes rates 3 to 10 times smaller than
    AdamW's and decays as many times larger.

    Args:
        learning_rate: step -> rate; the decay of a step is rate * weight_decay.
        b1: share of the momentum in the direction of a step, in [0, 1); the rest is the gradient.
        b2: decay of the momentum, in [0, 1).
        weight_decay: decay of kernels, at least 0; biases and other vectors are left alone.
        decay_vectors: let biases, gains and other vectors decay too.
    """
    return optax.lion(
        learning_rate, b1=b1, b2=b2, weight_decay=weight_decay, mask=decayed(decay_vectors)
    )


OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "adadelta": adadelta,
    "adagrad": adagrad,
    "adam": adam,
    "adamw": adamw,
    "lamb": lamb,
    "lars": lars,
    "lion": lion,
    "momentum": momentum,
    "muon": muon,
    "nadam": nadam,
    "rmsprop": rmsprop,
    "sam": sam,
    "schedule_free_adamw": schedule_free_adamw,
    "schedule_free_sgd": schedule_free_sgd,
    "sgd": sgd,
}
# Whose params are not the ones to evaluate: `schedule_free.evaluation_params` has those. They
# combine neither with a rate that is reduced from outside nor with constraints.
SCHEDULE_FREE = frozenset({"schedule_free_adamw", "schedule_free_sgd"})
