"""A linear probe: the output layer fitted to its optimum on the features of a frozen backbone.

scikit-learn fits it at one strength of the penalty after the other, a step each; every fit is
evaluated on the validation split, and saved if it is the best so far.
"""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from cnn_lab.core.arrays import Tree
from cnn_lab.experiment.experiment import Experiment
from cnn_lab.train.averaging import evaluated_variables
from cnn_lab.train.evaluate import EvaluationInterrupted
from cnn_lab.train.loop import Outcome
from cnn_lab.train.monitor import Monitor
from cnn_lab.train.progress import Checkpointer, Progress
from cnn_lab.train.state import TrainState
from cnn_lab.transfer.logistic import STRENGTHS, Output, fit_output
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

    Args:
        experiment: with features in place of images, loaded.
        state: before the first fit that is left.
        progress: where to continue.
        evaluate: validation metrics of a state, or `EvaluationInterrupted`.
        checkpoints: where states are saved.
        training_log: takes the rows.
        stop_requested: whether someone asked to stop; what was fitted is saved then.
    """
    monitor, metadata = Monitor(experiment.components.selection), experiment.network.metadata()
    labels = np.asarray(jax.device_get(experiment.train_loader.in_memory["label"]))
    inputs: Float[np.ndarray, "n d"] | None = None

    def save(amend: bool = False) -> None:
        record = {"progress": dataclasses.asdict(progress), "metadata": metadata}
        best_step = progress.selection.best_step
        if amend:
            checkpoints.amend(progress.step, record, best_step=best_step)
        else:
            checkpoints.save(state, record, best_step=best_step)

    def validate() -> bool:
        """Whether the evaluation was not interrupted; an interrupted one is left pending."""
        progress.eval_pending = True
        try:
            metrics = evaluate(state)
        except EvaluationInterrupted:
            return False
        progress.eval_pending = False
        training_log.validation_row(progress.step, metrics)
        monitor.update(progress, metrics, progress.step)
        return True

    if progress.eval_pending and validate():
        save(amend=True)
    while progress.step < len(STRENGTHS) and not (progress.eval_pending or stop_requested()):
        started = time.perf_counter()
        strength = STRENGTHS[progress.step]
        if inputs is None:
            inputs = _read_inputs(experiment, state)
        output = fit_output(
            inputs,
            labels,
            len(experiment.network.class_names),
            strength,
            experiment.network.class_weights,
        )
        if not output.converged:
            training_log.log(f"At C={strength:g} the fit had not fully converged.")
        state = _with_output(state, output)
        progress.step += 1
        metrics = _training_metrics(experiment, inputs @ output.kernel + output.bias, labels)
        training_log.advance(progress.step, len(labels), metrics)
        progress.seconds += time.perf_counter() - started
        row = {**metrics, "inverse_l2": strength, "learning_rate": 0.0}
        training_log.training_row(progress.step, row)
        with training_log.paused():
            validate()
            save()
    interrupted = progress.eval_pending or progress.step < len(STRENGTHS)
    if interrupted:
        save()
    checkpoints.wait()
    if interrupted:
        return Outcome("interrupted", state, progress)
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
    def inputs(variables: Tree, features: jax.Array) -> jax.Array:
        found.clear()
        with nn.intercept_methods(catch):
            experiment.module.apply(variables, features, train=False)
        return found[0].astype(np.float32)

    variables = evaluated_variables(state)
    features = experiment.train_loader.in_memory["image"]
    chunks = np.array_split(np.arange(len(features)), -(-len(features) // MAX_EXAMPLES_AT_ONCE))
    parts = [inputs(variables, features[rows[0] : rows[-1] + 1]) for rows in chunks]
    return np.concatenate(jax.device_get(parts))


def _with_output(state: TrainState, output: Output) -> TrainState:
    """The state one step later, with the fitted output layer."""
    old = state.params["head"]["output"]
    new = {"kernel": output.kernel, "bias": output.bias}
    placed = {name: jax.device_put(new[name], old[name].sharding) for name in old}
    step = jax.device_get(state.step) + np.int32(1)
    return state.replace(
        params={**state.params, "head": {**state.params["head"], "output": placed}},
        step=jax.device_put(step, state.step.sharding),
    )


def _training_metrics(
    experiment: Experiment, logits: Float[np.ndarray, "n k"], labels: np.ndarray
) -> dict[str, float]:
    """Means of the task's metrics over the training examples."""
    batch = {"label": jnp.asarray(labels)}
    values = experiment.network.task.metrics(jnp.asarray(logits), batch)
    return {name: float(jnp.sum(each)) / len(labels) for name, each in values.items()}
