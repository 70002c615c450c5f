"""Optimizers by name, each a function of step -> learning rate and its own options.

Weight decay is decoupled from the gradient, rate * weight_decay a step (`lars`, whose paper has it
otherwise, excepted), and leaves biases, norms and other vectors alone unless `decay_vectors` is
set; an L2 penalty on the loss is in `penalties`. Options stand at the values of the paper or of
PyTorch, and where the two define a method differently, at PyTorch's definition; each docstring
says what is left of a difference.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cnn_lab.config.values import NonNegative, Positive, ProperFraction
from cnn_lab.core.arrays import Tree
from cnn_lab.core.errors import ConfigError
from cnn_lab.core.registry import Registry
from cnn_lab.core.trees import flatten
from cnn_lab.optim.kernels import decay_mask, incoming_axes, kernels_only


@dataclasses.dataclass(frozen=True)
class OptimizerEntry:
    """An optimizer that a config may name.

    Attributes:
        make: (step -> learning rate, **options) -> optimizer.
        keeps_average: whether its params are not the ones to evaluate, but the average that
            `schedule_free.evaluation_params` finds in its state; such an optimizer combines neither
            with a rate that is reduced from outside nor with constraints.
        single_group: whether it must train all parameters together, at one rate.
    """

    make: Callable[..., optax.GradientTransformation]
    keeps_average: bool = False
    single_group: bool = False


LAST_LAYER = "output"  # every head's last layer has this name
OPTIMIZERS = Registry("optimizer", "cnn_lab.optim", OptimizerEntry)


@OPTIMIZERS.register()
def sgd(learning_rate: optax.Schedule) -> optax.GradientTransformation:
    """Stochastic gradient descent: w -= rate * g (Robbins & Monro 1951)."""
    return optax.sgd(learning_rate)


@OPTIMIZERS.register()
def momentum(
    learning_rate: optax.Schedule, momentum: ProperFraction = 0.9, nesterov: bool = False
) -> optax.GradientTransformation:
    """Heavy-ball momentum: v = m v + g, w -= rate * v (Polyak 1964; Nesterov's form on request).

    Args:
        momentum: share of the last velocity that is kept, in [0, 1).
        nesterov: look ahead along the velocity (Sutskever et al. 2013).
    """
    return optax.sgd(learning_rate, momentum=momentum, nesterov=nesterov)


@OPTIMIZERS.register()
def adagrad(learning_rate: optax.Schedule, eps: Positive = 1e-10) -> optax.GradientTransformation:
    """AdaGrad: rates fall with the sum of squared gradients (Duchi, Hazan & Singer 2011).

    The sum starts at 0, as in the paper. Usual rates are about 0.01.

    Args:
        eps: guards the root of the sum s of squared gradients, positive; the divisor is
            sqrt(s + eps^2), PyTorch's is sqrt(s) + eps: the same unless gradients are as small.
    """
    return optax.adagrad(learning_rate, initial_accumulator_value=0.0, eps=eps**2)


@OPTIMIZERS.register()
def adadelta(
    learning_rate: optax.Schedule, rho: ProperFraction = 0.9, eps: Positive = 1e-6
) -> optax.GradientTransformation:
    """AdaDelta: steps sized by the root mean square of earlier ones (Zeiler 2012, arXiv:1212.5701).

    The paper has no learning rate: a rate of 1 is its method. The first steps are of the size
    sqrt(eps), so it starts slowly.

    Args:
        rho: decay of both averages of squares, in [0, 1); the paper's experiments have 0.95 too.
        eps: added to the averages under their roots, positive.
    """
    return optax.adadelta(learning_rate, rho=rho, eps=eps)


@OPTIMIZERS.register()
def rmsprop(
    learning_rate: optax.Schedule,
    decay: ProperFraction = 0.9,
    eps: Positive = 1e-8,
    centered: bool = False,
    momentum: ProperFraction = 0.0,
) -> optax.GradientTransformation:
    """RMSProp: gradients over their root mean square (Tieleman & Hinton 2012, lecture 6.5).

    Args:
        decay: decay of the mean of squares, in [0, 1); 0.9 in the lecture, 0.99 in PyTorch.
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


@OPTIMIZERS.register()
def adam(
    learning_rate: optax.Schedule,
    b1: ProperFraction = 0.9,
    b2: ProperFraction = 0.999,
    eps: Positive = 1e-8,
) -> optax.GradientTransformation:
    """Adam (Kingma & Ba 2014, arXiv:1412.6980).

    Args:
        b1: decay of the first moment, in [0, 1).
        b2: decay of the second moment, in [0, 1).
        eps: added to the root of the second moment, positive.
    """
    return optax.adam(learning_rate, b1=b1, b2=b2, eps=eps)


@OPTIMIZERS.register()
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
        weight_decay: decay of kernels, at least 0; biases and other vectors are left alone.
        b1: decay of the first moment, in [0, 1).
        b2: decay of the second moment, in [0, 1).
        eps: added to the root of the second moment, positive.
        decay_vectors: let biases, gains and other vectors decay too.
    """
    mask = decay_mask(decay_vectors)
    return optax.adamw(learning_rate, b1, b2, eps, weight_decay=weight_decay, mask=mask)


@OPTIMIZERS.register()
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
        b1: decay of the first moment, in [0, 1).
        b2: decay of the second moment, in [0, 1).
        eps: added to the root of the second moment, positive.
        weight_decay: decay of kernels, at least 0; biases and other vectors are left alone.
        decay_vectors: let biases, gains and other vectors decay too.
    """
    mask = decay_mask(decay_vectors)
    return optax.nadamw(learning_rate, b1, b2, eps, weight_decay=weight_decay, mask=mask)


@OPTIMIZERS.register()
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
        b1: share of the momentum in the direction of a step, in [0, 1); the rest is the gradient.
        b2: decay of the momentum, in [0, 1).
        weight_decay: decay of kernels, at least 0; biases and other vectors are left alone.
        decay_vectors: let biases, gains and other vectors decay too.
    """
    mask = decay_mask(decay_vectors)
    return optax.lion(learning_rate, b1, b2, weight_decay=weight_decay, mask=mask)


@OPTIMIZERS.register()
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
        weight_decay_mask=decay_mask(decay_vectors),
        trust_coefficient=trust_coefficient,
        trust_ratio_mask=kernels_only,
        momentum=momentum,
        nesterov=nesterov,
    )


@OPTIMIZERS.register()
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
        weight_decay: share of a kernel that is added to its direction, at least 0.
        b1: decay of the first moment, in [0, 1).
        b2: decay of the second moment, in [0, 1).
        eps: added to the root of the second moment, positive.
        decay_vectors: let biases, gains and other vectors decay too.
    """
    return optax.chain(
        optax.scale_by_adam(b1=b1, b2=b2, eps=eps),
        optax.add_decayed_weights(weight_decay, mask=decay_mask(decay_vectors)),
        optax.masked(optax.scale_by_trust_ratio(), kernels_only),
        optax.scale_by_learning_rate(learning_rate),
    )


@OPTIMIZERS.register()
def muon(
    learning_rate: optax.Schedule,
    momentum: ProperFraction = 0.95,
    nesterov: bool = True,
    weight_decay: NonNegative = 0.0,
    adam_fraction: Positive = 0.015,
    adam_layers: tuple[str, ...] | None = None,
    b1: ProperFraction = 0.9,
    b2: ProperFraction = 0.95,
    eps: Positive = 1e-10,
    decay_vectors: bool = False,
) -> optax.GradientTransformation:
    """Muon: orthogonalised momentum for kernels (Jordan et al. 2024, kellerjordan.github.io).

    A kernel's momentum, as a matrix of all its incoming weights by units, goes through five
    Newton-Schulz iterations, which bring its singular values near 1, and is scaled by
    sqrt(max(1, units / incoming)). Adam trains what the author's "Muon" page keeps from it: biases,
    gains and other vectors, and the last layer of a head. It keeps the input layer too, and
    speaks of embeddings; a convolution of pixels looks nothing up and is left to Muon here, unless
    `adam_layers` has its name. Usual rates are about 0.02, which is 3e-4 for Adam.

    Differs from the author's code: with `nesterov`, optax corrects the bias of the momentum and of
    the gradient each by itself before it adds them, and so weighs the gradient more at first: by
    46% in the second step, by 3% in the twentieth. In the first the two have one direction.

    Args:
        momentum: decay of the momentum, in [0, 1).
        nesterov: look ahead along the momentum.
        weight_decay: decay of kernels, at least 0 (Liu et al. 2025, arXiv:2502.16982, add it);
            biases and other vectors are left alone.
        adam_fraction: Adam's rate over Muon's, positive.
        adam_layers: names of further layers for Adam, such as the first.
        b1: decay of Adam's first moment, in [0, 1).
        b2: decay of Adam's second moment, in [0, 1).
        eps: added to the root of Adam's second moment, positive.
        decay_vectors: let biases, gains and other vectors decay too.
    """

    def as_matrix(kernel: jax.Array) -> optax.contrib.MuonDimensionNumbers:
        return optax.contrib.MuonDimensionNumbers(incoming_axes(kernel), output_axis=-1)

    def scale_to_width(kernel: jax.Array) -> jax.Array:
        units = kernel.shape[-1]
        return kernel * math.sqrt(max(1.0, units * units / kernel.size))

    orthogonalised = optax.chain(
        optax.contrib.scale_by_muon(
            beta=momentum,
            nesterov=nesterov,
            weight_dimension_numbers=lambda kernels: jax.tree.map(as_matrix, kernels),
        ),
        optax.stateless(lambda kernels, _: jax.tree.map(scale_to_width, kernels)),
        optax.add_decayed_weights(weight_decay),
        optax.scale_by_learning_rate(learning_rate),
    )
    adam_rate = lambda step: adam_fraction * learning_rate(step)  # noqa: E731
    mask = decay_mask(decay_vectors)
    adam = optax.adamw(adam_rate, b1, b2, eps, weight_decay=weight_decay, mask=mask)

    def labels(params: Tree) -> Tree:
        paths = [path.split("/") for path in flatten(params)]
        known = {part for *layers, _ in paths for part in layers}
        for name in adam_layers or ():
            if name not in known:
                raise ConfigError(
                    f"config.optim.options.adam_layers has {name!r}, but no layer that is trained "
                    "has that name",
                    where="config.optim.options.adam_layers",
                    found=name,
                    allowed=known,
                )
        by_adam = {LAST_LAYER, *(adam_layers or ())}
        kernels = jax.tree.leaves(kernels_only(params))
        chosen = [
            "muon" if is_kernel and not by_adam.intersection(path) else "adam"
            for path, is_kernel in zip(paths, kernels, strict=True)
        ]
        return jax.tree.unflatten(jax.tree.structure(params), chosen)

    return optax.partition({"muon": orthogonalised, "adam": adam}, labels)


@OPTIMIZERS.register(single_group=True)
def sam(
    learning_rate: optax.Schedule,
    rho: Positive = 0.05,
    momentum: ProperFraction = 0.9,
    nesterov: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """SAM over momentum: flat minima by two gradients a step (Foret et al. 2020, arXiv:2010.01412).

    The weights climb by `rho` along the gradient; momentum then descends, from where the weights
    were, along the gradient found there. A step costs two gradients. `update` takes the second
    from its argument `grad_fn`, a function from params to gradients on the same batch; batch
    statistics should be those of the first.

    Args:
        rho: length of the climb, over all parameters together, positive; 0.05 in the paper.
        momentum: share of the last velocity that is kept, in [0, 1).
        nesterov: look ahead along the velocity.
    """
    two_gradients = optax.contrib.sam(
        optax.sgd(learning_rate, momentum=momentum, nesterov=nesterov),
        optax.chain(_unit_length(), optax.sgd(rho)),
        opaque_mode=True,
    )

    def update(
        updates: Tree,
        state: Tree,
        params: Tree | None = None,
        *,
        grad_fn: Callable[[Tree], Tree] | None = None,
        **_: Any,
    ) -> tuple[Tree, Tree]:
        if grad_fn is None:
            raise ValueError(
                "The update of sam needs grad_fn, a function from params to gradients."
            )
        return two_gradients.update(
            updates, state, params, grad_fn=lambda climbed, _: grad_fn(climbed)
        )

    return optax.GradientTransformationExtraArgs(two_gradients.init, update)


def _unit_length() -> optax.GradientTransformation:
    """Scales gradients to a global norm of 1; `optax.contrib.normalize` makes NaN of zeros."""

    def update(updates: Tree, params: Tree | None = None) -> Tree:  # noqa: ARG001 - optax's signature
        norm = optax.tree.norm(jax.tree.map(lambda g: g.astype(jnp.float32), updates))
        inverse = jnp.where(norm > 0, 1 / norm, 0.0)
        return jax.tree.map(lambda g: (g * inverse).astype(g.dtype), updates)

    return optax.stateless(update)


class DeviationState(NamedTuple):
    """Running moments of the gradient, shaped as the params."""

    mean: Tree
    variance: Tree


def scale_by_deviation(decay: float, eps: float) -> optax.GradientTransformation:
    """Divides by sqrt(variance) + eps, of averages that start at 0 and decay by d in [0, 1).

    The paper's variance n - m^2 (n: mean of squares, m: mean) is the difference of two almost equal
    numbers where gradients hardly vary: in float32 nothing is right of a deviation below 3e-4 of
    the mean, and the variance may be negative. So it is kept in place of n: a gradient g makes of
    it d (variance + (1 - d) (g - m)^2), which is the same but for rounding, and never negative.
    """

    def init(params: Tree) -> DeviationState:
        return DeviationState(optax.tree.zeros_like(params), optax.tree.zeros_like(params))

    def update(updates: Tree, state: Any, params: Any = None) -> tuple[Tree, DeviationState]:  # noqa: ARG001
        away = jax.tree.map(jnp.subtract, updates, state.mean)
        mean = jax.tree.map(lambda m, a: m + (1 - decay) * a, state.mean, away)
        variance = jax.tree.map(
            lambda v, a: decay * (v + (1 - decay) * jnp.square(a)), state.variance, away
        )
        scaled = jax.tree.map(lambda g, v: g / (jnp.sqrt(v) + eps), updates, variance)
        return scaled, DeviationState(mean, variance)

    return optax.GradientTransformation(init, update)
