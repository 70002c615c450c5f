"""A linear probe: the output layer fitted to its optimum on the features of a frozen backbone.

scikit-learn fits it at one strength of the penalty after the other, a step each; every fit is
evaluated on the validation split, and saved if it is the best so far.
"""

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from cnn_lab.core.arrays import Tree
from cnn_lab.core.errors import DivergedError
from cnn_lab.core.text import counted
from cnn_lab.experiment.experiment import Experiment
from cnn_lab.training.averaging import evaluated_variables
from cnn_lab.training.evaluate import EvaluationInterrupted
from cnn_lab.training.loop import Outcome
from cnn_lab.training.monitor import Monitor
from cnn_lab.training.progress import Checkpointer, Progress
from cnn_lab.training.state import TrainState
from cnn_lab.transfer.logistic import STRENGTHS, fit_output
from cnn_lab.workdir.training_log import TrainingLog

LAYER = ("head", "output")
MAX_EXAMPLES_AT_ONCE = 1024


def fit_linear_probe(
    experiment: Experiment,
    state: TrainState,
    progress: Progress,
    *,
    evaluate: Callable[[TrainState], dict[str, float]],
    checkpoints: Checkpointer,
    training_log: TrainingLog,
    stop_requested: Callable[[], bool],
) -> Outcome:
    """Fits the output layer at every strength of the penalty, from `progress` on.

    The experiment has features in place of images, which are loaded. `evaluate` gives validation
    metrics of a state, or raises `EvaluationInterrupted`.

    Raises:
        DivergedError: features, or the loss of a fit, are not finite.
    """
    network, monitor = experiment.network, Monitor(experiment.components.selection)
    labels = np.asarray(jax.device_get(experiment.train_loader.device_arrays["label"]))
    inputs: Float[np.ndarray, "n d"] | None = None

    def save(amend: bool = False) -> None:
        record = {"progress": dataclasses.asdict(progress), "metadata": network.metadata()}
        best_step = progress.selection.best_step
        if amend:
            checkpoints.amend(progress.step, record, best_step=best_step)
        else:
            checkpoints.save(state, record, best_step=best_step)

    def validate() -> None:
        progress.eval_pending = True  # also after an evaluation that is interrupted
        with contextlib.suppress(EvaluationInterrupted):
            metrics = evaluate(state)
            progress.eval_pending = False
            training_log.validation_row(progress.step, metrics)
            monitor.update(progress, metrics, progress.step)

    if progress.eval_pending:
        validate()
        if not progress.eval_pending:
            save(amend=True)
    while progress.step < len(STRENGTHS) and not (progress.eval_pending or stop_requested()):
        started, strength = time.perf_counter(), STRENGTHS[progress.step]
        if inputs is None:
            inputs = _read_inputs(experiment, state)
        with np.errstate(over="ignore", invalid="ignore"):  # checked below
            output = fit_output(
                inputs, labels, len(network.class_names), strength, network.class_weights
            )
            logits = jnp.asarray(inputs @ output.kernel + output.bias)
        values = network.task.metrics(logits, {"label": jnp.asarray(labels)})
        metrics = {name: float(jnp.sum(each)) / len(labels) for name, each in values.items()}
        if not all(map(math.isfinite, metrics.values())):
            raise DivergedError(
                f"The loss of the output layer that was fitted at C={strength:g} is not finite, as "
                "its inputs are too large or too small; take other weights. What was saved before "
                "is intact.",
                where="config.transfer.source",
            )
        if not output.converged:
            training_log.log(f"At C={strength:g} the fit had not fully converged.")
        old = state.params["head"]["output"]
        new = {"kernel": output.kernel, "bias": output.bias}
        placed = {name: jax.device_put(new[name], old[name].sharding) for name in old}
        step = jax.device_get(state.step) + np.int32(1)
        state = state.replace(
            params={**state.params, "head": {**state.params["head"], "output": placed}},
            step=jax.device_put(step, state.step.sharding),
        )
        progress.step += 1
        training_log.advance(progress.step, len(labels), metrics)
        progress.seconds += time.perf_counter() - started
        row = {**metrics, "inverse_l2": strength, "learning_rate": 0.0}
        training_log.training_row(progress.step, row)
        with training_log.paused():
            validate()
            save()
    if progress.eval_pending or progress.step < len(STRENGTHS):
        save()
        checkpoints.wait()
        return Outcome("interrupted", state, progress)
    checkpoints.wait()
    best = STRENGTHS[(progress.selection.best_step or 1) - 1]
    training_log.log(f"The best strength of the penalty is C={best:g}.")
    return Outcome("finished", state, progress)


def _read_inputs(experiment: Experiment, state: TrainState) -> Float[np.ndarray, "n d"]:
    """Inputs of the output layer, of every feature."""
    found: list[Any] = []

    def catch(call: Any, arguments: Any, options: Any, context: Any) -> Any:
        if context.module.path == LAYER and context.method_name == "__call__":
            found.append(arguments[0])
        return call(*arguments, **options)

    @jax.jit
    def inputs_of(variables: Tree, features: jax.Array) -> jax.Array:
        found.clear()
        with nn.intercept_methods(catch):
            experiment.module.apply(variables, features, train=False)
        return found[0].astype(np.float32)

    variables = evaluated_variables(state)
    features = experiment.train_loader.device_arrays["image"]
    chunks = np.array_split(np.arange(len(features)), -(-len(features) // MAX_EXAMPLES_AT_ONCE))
    parts = [inputs_of(variables, features[rows[0] : rows[-1] + 1]) for rows in chunks]
    inputs = np.concatenate(jax.device_get(parts))
    if bad := int((~np.isfinite(inputs)).any(1).sum()):
        raise DivergedError(
            f"The inputs of the output layer are not finite for {counted(bad, 'example')} of "
            f"{len(inputs):,}, so it cannot be fitted to them; take other weights.",
            where="config.transfer.source",
        )
    return inputs
