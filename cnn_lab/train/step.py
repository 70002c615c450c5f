"""One training step as a pure function."""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from cnn_lab.core.shapes import PerExample, Scalar, Tree
from cnn_lab.metrics import Pair, weighted_pairs
from cnn_lab.train.state import TrainState

Step = Callable[[TrainState, Tree], tuple[TrainState, dict[str, Pair]]]


@runtime_checkable
class Task(Protocol):
    """What the step and the evaluation need of a task."""

    def losses(self, outputs: Any, batch: Any) -> PerExample:
        """Per-example losses [n]."""
        ...

    def metrics(self, outputs: Any, batch: Any) -> dict[str, PerExample]:
        """Per-example values [n] by name, `loss` among them."""
        ...


def no_penalty(params: Tree) -> Scalar:  # noqa: ARG001 - a penalty is a function of the params
    """The penalty of a run without one."""
    return jnp.zeros(())


def make_train_step(
    model: nn.Module,
    task: Task,
    optimizer: optax.GradientTransformation,
    penalty: Callable[[Tree], Scalar] = no_penalty,
) -> Step:
    """Returns step(state, batch) -> (state, metrics), not jitted.

    The batch holds `image` [n h w c], `label` [n] and `weight` [n]. The gradient is that of the
    weighted mean loss, taken as a sum and divided once by the summed weight, so that padding and
    device count do not matter and devices exchange gradients and metrics in one all-reduce. A step
    whose loss or gradient is not finite leaves the state, its step number included, as it was.
    """

    def step(state: TrainState, batch: Tree) -> tuple[TrainState, dict[str, Pair]]:
        rngs = {"dropout": jax.random.fold_in(state.key, state.step)}

        def total_loss(params: Tree):
            logits, collections = model.apply(
                {"params": params, **state.collections},
                batch["image"],
                train=True,
                rngs=rngs,
                mutable=list(state.collections),
            )
            pairs = weighted_pairs(task.metrics(logits, batch), batch["weight"])
            return pairs["loss"][0], (pairs, collections)

        gradient_of = jax.value_and_grad(total_loss, has_aux=True)
        (loss_sum, (pairs, collections)), gradients = gradient_of(state.params)
        count = pairs["loss"][1]
        gradients = jax.tree.map(
            lambda g, p: g / count + p, gradients, jax.grad(penalty)(state.params)
        )
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        norm = optax.tree.norm(gradients)
        finite = jnp.isfinite(loss_sum) & jnp.isfinite(norm)
        new = (state.step + 1, params, collections, opt_state)
        old = (state.step, state.params, state.collections, state.opt_state)
        kept = jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)
        state = TrainState(*kept, key=state.key)
        return state, {**pairs, "gradient_norm": (norm, jnp.ones(()))}

    return step
