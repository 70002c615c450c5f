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
from cnn_lab.train.averaging import NO_AVERAGE, Average
from cnn_lab.train.gradient import Gradient, make_gradient
from cnn_lab.train.state import TrainState, step_key

NOTHING = {"key": (), "frozen": (), "source": ()}  # what no step changes
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

    The batch holds `image` [n h w c], `label` [n] (or [n k]) and `weight` [n]. The gradient is that
    of the weighted mean loss, taken as a sum and divided once by the summed weight, so that padding
    and device count do not matter and devices exchange gradients and metrics in one all-reduce. A
    step whose loss, gradient or new weights are not finite leaves the state, its step number
    included, as it was, and its metrics are not finite.

    Args:
        model: the network.
        task: its losses and metrics.
        optimizer: gets the gradient at other weights as `grad_fn`, if it asks for that.
        penalty: (params, source) -> what is added to the mean loss.
        average: of the weights, kept in the state.
        gradient: how the sums are taken; by default of the whole batch at once.
    """
    sums_of = gradient or make_gradient(model, task)
    update = optax.with_extra_args_support(optimizer).update

    def step(state: TrainState, batch: Tree) -> tuple[TrainState, dict[str, Pair]]:
        key = step_key(state)
        start = (state.collections, state.frozen, batch, key)
        sums, (pairs, collections) = sums_of(state.params, *start)
        loss_sum, count = pairs["loss"]

        def mean(sums: Tree, params: Tree) -> Tree:
            pull = jax.grad(penalty)(params, state.source)
            return jax.tree.map(lambda g, p: g / count + p, sums, pull)

        def gradient_at(params: Tree, *_: Any) -> Tree:
            return mean(sums_of(params, *start)[0], params)

        gradients = mean(sums, state.params)
        updates, opt_state = update(gradients, state.opt_state, state.params, grad_fn=gradient_at)
        norm = optax.tree.norm(gradients)
        new = state.replace(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            collections=collections,
            opt_state=opt_state,
        )
        # Of finite gradients too: a second gradient, or an update that overflows, may not be.
        weights = [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(new.params)]
        finite = jnp.isfinite(loss_sum) & jnp.isfinite(norm) & jnp.stack(weights).all()
        new = new.replace(averaged=average.update(new), **NOTHING)
        kept = jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, state.replace(**NOTHING))
        shown = jnp.where(finite, norm, jnp.nan)
        kept = kept.replace(key=state.key, frozen=state.frozen, source=state.source)
        return kept, {**pairs, "gradient_norm": (shown, jnp.ones(()))}

    return step
