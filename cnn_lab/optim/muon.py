"""Muon: momentum whose matrices are made orthogonal."""

import math

import jax
import optax

from cnn_lab.config.values import NonNegative, Positive, ProperFraction
from cnn_lab.core.arrays import Tree
from cnn_lab.core.errors import ConfigError, suggest
from cnn_lab.core.trees import flatten
from cnn_lab.optim.kernels import decay_mask, incoming_axes, kernels_only
from cnn_lab.optim.optimizers import OPTIMIZERS

LAST_LAYER = "output"  # every head's last layer has this name


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
        learning_rate: step -> rate of Muon; the decay of a step is rate * weight_decay.
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
    orthogonalised = optax.chain(
        optax.contrib.scale_by_muon(
            beta=momentum, nesterov=nesterov, weight_dimension_numbers=_as_matrices
        ),
        optax.stateless(lambda kernels, _: jax.tree.map(_scale_to_width, kernels)),
        optax.add_decayed_weights(weight_decay),
        optax.scale_by_learning_rate(learning_rate),
    )
    further = adam_layers or ()
    adam = optax.adamw(
        lambda step: adam_fraction * learning_rate(step),
        b1=b1,
        b2=b2,
        eps=eps,
        weight_decay=weight_decay,
        mask=decay_mask(decay_vectors),
    )

    def labels(params: Tree) -> Tree:
        _require_layers(further, params)
        by_adam = {LAST_LAYER, *further}
        kernels = jax.tree.leaves(kernels_only(params))
        chosen = [
            "muon" if is_kernel and not by_adam.intersection(path.split("/")) else "adam"
            for path, is_kernel in zip(flatten(params), kernels, strict=True)
        ]
        return jax.tree.unflatten(jax.tree.structure(params), chosen)

    return optax.partition({"muon": orthogonalised, "adam": adam}, labels)


def _as_matrices(kernels: Tree) -> Tree:
    return jax.tree.map(
        lambda kernel: optax.contrib.MuonDimensionNumbers(
            reduction_axis=incoming_axes(kernel), output_axis=-1
        ),
        kernels,
    )


def _scale_to_width(kernel: jax.Array) -> jax.Array:
    units = kernel.shape[-1]
    return kernel * math.sqrt(max(1.0, units * units / kernel.size))


def _require_layers(names: tuple[str, ...], params: Tree) -> None:
    known = {part for path in flatten(params) for part in path.split("/")[:-1]}
    for name in names:
        if name not in known:
            raise ConfigError(
                f"config.optim.options.adam_layers has {name!r}, but no layer that is trained has "
                f"that name; {suggest(name, known)}"
            )
