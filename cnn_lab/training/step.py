"""One training step as a pure function."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from cnn_lab.core.arrays import Scalar, Tree
from cnn_lab.tasks.metrics import Pair
from cnn_lab.tasks.task import Task
from cnn_lab.training.averaging import NO_AVERAGE, Average
from cnn_lab.training.gradient import Gradient, GradientResult, make_gradient
from cnn_lab.training.state import TrainState, step_key, where_finite

Step = Callable[[TrainState, Tree], tuple[TrainState, dict[str, Pair]]]


def make_train_step(
    model: nn.Module,
    task: Task,
    optimizer: optax.GradientTransformation,
    penalty: Callable[[Tree, Tree], Scalar] = lambda *_: jnp.zeros(()),
    average: Average = NO_AVERAGE,
    gradient: Gradient | None = None,
) -> Step:
    """Returns step(state, batch) -> (state, metrics), not jitted.

    The batch holds `image` [n h w c], `label` [n] (or [n k]) and `weight` [n]. A step whose loss,
    gradient or new weights are not finite leaves the state, its step number included, as it was,
    and its metrics are not finite. Summed gradients are divided once by the summed weight, so that
    padding and device count do not matter and devices exchange gradients and metrics in one
    all-reduce.

    Args:
        model: the network.
        task: its losses and metrics.
        optimizer: gets the gradient at other weights as `grad_fn`, if it asks for that.
        penalty: (params, anchor) -> value added to the mean loss.
        average: of the weights, kept in the state.
        gradient: of the summed loss; by default of the whole batch at once.
    """
    summed_gradient = gradient or make_gradient(model, task)
    update = optax.with_extra_args_support(optimizer).update

    def mean_gradient(params: Tree, state: TrainState, batch: Tree) -> GradientResult:
        sums, metrics, collections = summed_gradient(
            params, state.collections, state.frozen, batch, step_key(state)
        )
        of_penalty, count = jax.grad(penalty)(params, state.anchor), metrics["loss"][1]
        gradients = jax.tree.map(lambda g, p: g / count + p, sums, of_penalty)
        return GradientResult(gradients, metrics, collections)

    def step(state: TrainState, batch: Tree) -> tuple[TrainState, dict[str, Pair]]:
        def gradient_at(params: Tree, *_: Any) -> Tree:
            return mean_gradient(params, state, batch).gradients

        gradients, metrics, collections = mean_gradient(state.params, state, batch)
        updates, opt_state = update(gradients, state.opt_state, state.params, grad_fn=gradient_at)
        params = optax.apply_updates(state.params, updates)
        new = state.replace(
            step=state.step + 1, params=params, collections=collections, opt_state=opt_state
        )
        new = new.replace(averaged=average.update(new))
        norm = optax.tree.norm(gradients)
        # Not of the gradients alone: a second gradient, or an update that overflows, may not be.
        new, finite = where_finite((metrics["loss"], norm, params), new, state)
        shown_norm = jnp.where(finite, norm, jnp.nan)
        return new, {**metrics, "gradient_norm": (shown_norm, jnp.ones(()))}

    return step
