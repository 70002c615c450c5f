"""Schedule-free optimizers: an average of the weights takes the place of a falling rate.

Defazio et al. 2024, "The road less scheduled" (arXiv:2405.15682). The params of the training are
y, between the sequence z that takes the steps and its average x; x is what to evaluate, and
`evaluation_params` works it out. Give them a constant rate, after a warm-up. The batch statistics
of a training are those of y: the authors gather them anew at x before they evaluate.
"""

from typing import Annotated, Any

import jax
import optax

from cnn_lab.config.values import NonNegative, Positive, ProperFraction, Range
from cnn_lab.core.arrays import Tree
from cnn_lab.optim.kernels import decay_mask
from cnn_lab.optim.optimizers import OPTIMIZERS

# The average is worked out from y by a division by it.
Interpolation = Annotated[float, Range(above=0, below=1)]


@OPTIMIZERS.register(keeps_average=True)
def schedule_free_sgd(
    learning_rate: optax.Schedule,
    b1: Interpolation = 0.9,
    weight_decay: NonNegative = 0.0,
    decay_vectors: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Schedule-free SGD: averaging for a falling rate (Defazio et al. 2024, arXiv:2405.15682).

    Args:
        b1: where gradients are taken, between the steps' sequence (0) and its average (1), both
            excluded; takes the place of momentum.
        weight_decay: decay of kernels at y, at least 0; biases and other vectors are left alone.
        decay_vectors: let biases, gains and other vectors decay too.
    """
    return _schedule_free(optax.identity(), learning_rate, b1, weight_decay, decay_vectors)


@OPTIMIZERS.register(keeps_average=True)
def schedule_free_adamw(
    learning_rate: optax.Schedule,
    b1: Interpolation = 0.9,
    b2: ProperFraction = 0.999,
    eps: Positive = 1e-8,
    weight_decay: NonNegative = 0.0,
    decay_vectors: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Schedule-free AdamW: averaging for a falling rate (Defazio et al. 2024, arXiv:2405.15682).

    The authors' code has a rate of 0.0025.

    Args:
        b1: where gradients are taken, between the steps' sequence (0) and its average (1), both
            excluded; takes the place of momentum.
        b2: decay of the second moment, in [0, 1).
        eps: added to the root of the second moment, positive.
        weight_decay: decay of kernels at y, at least 0; biases and other vectors are left alone.
        decay_vectors: let biases, gains and other vectors decay too.
    """
    # Adam without momentum, and without the memory for it.
    scaled = optax.scale_by_rms(decay=b2, eps=eps, eps_in_sqrt=False, bias_correction=True)
    return _schedule_free(scaled, learning_rate, b1, weight_decay, decay_vectors)


def evaluation_params(opt_state: Tree, params: Tree) -> Tree:
    """The averaged weights x, which a schedule-free training is evaluated with.

    The state of a schedule-free optimizer may lie in `opt_state` at any depth, or those of several
    for different parameters; parameters of none of them are returned as they are.

    Raises:
        ValueError: no such state.
    """
    states = [state for state in jax.tree.leaves(opt_state, is_leaf=_is_state) if _is_state(state)]
    if not states:
        raise ValueError(
            "The optimizer is not schedule-free, so there are no averaged weights; evaluate the "
            "params themselves."
        )

    def is_masked(node: Any) -> bool:
        return isinstance(node, optax.MaskedNode)

    for state in states:
        mine = jax.tree.map(
            lambda z, y: z if is_masked(z) else y, state.z, params, is_leaf=is_masked
        )
        average = optax.contrib.schedule_free_eval_params(state, mine)
        params = jax.tree.map(
            lambda x, y: y if is_masked(x) else x.astype(y.dtype),
            average,
            params,
            is_leaf=is_masked,
        )
    return params


def has_averages(opt_state: Tree) -> bool:
    """Whether `evaluation_params` finds averaged weights in there."""
    return any(map(_is_state, jax.tree.leaves(opt_state, is_leaf=_is_state)))


def _is_state(node: Any) -> bool:
    return isinstance(node, optax.contrib.ScheduleFreeState)


def _schedule_free(
    scaled: optax.GradientTransformation,
    learning_rate: optax.Schedule,
    b1: float,
    decay: float,
    decay_vectors: bool,
) -> optax.GradientTransformationExtraArgs:
    stepped = optax.chain(
        scaled,
        optax.add_decayed_weights(decay, mask=decay_mask(decay_vectors)),
        optax.scale_by_learning_rate(learning_rate),
    )

    def weighing_rate(count: Any) -> Any:
        # The average's weights are those of the rates that made the steps; optax counts from 1.
        return learning_rate(count - 1)

    # optax takes a schedule here too, and is annotated for a number.
    return optax.contrib.schedule_free(stepped, learning_rate=weighing_rate, b1=b1)
