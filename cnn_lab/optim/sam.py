"""Sharpness-aware minimisation: the gradient of the worst point nearby."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from cnn_lab.config.ranges import Positive, ProperFraction
from cnn_lab.core.arrays import Tree


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
        learning_rate: step -> rate of the descent.
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

    def update(updates: Tree, params: Tree | None = None) -> Tree:  # noqa: ARG001 - as optax asks
        norm = optax.tree.norm(jax.tree.map(lambda g: g.astype(jnp.float32), updates))
        inverse = jnp.where(norm > 0, 1 / norm, 0.0)
        return jax.tree.map(lambda g: (g * inverse).astype(g.dtype), updates)

    return optax.stateless(update)
