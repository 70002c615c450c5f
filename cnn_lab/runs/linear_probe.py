"""An output layer fitted to its optimum in place of a training in steps.

Each strength of the penalty is a step of the run: fitted, judged on the validation split, and saved
if it is the best so far.
"""

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
from cnn_lab.train.dispatch import Program
from cnn_lab.train.phases import Phase
from cnn_lab.train.state import TrainState
from cnn_lab.transfer.logistic import STRENGTHS, Output, fit_output

LAYER = ("head", "output")
AT_ONCE = 1024  # examples


class FittedOutput:
    """What takes the place of a `CompiledPhase` and its pipeline where the output layer is fitted.

    Attributes:
        phase: of one step a strength.
        program: its steps.
        loader: itself.
        in_memory: nothing, since the program has the features.
        max_steps: of a call.

    Args:
        experiment: with features in place of images.
        log: takes lines for the user.
    """

    max_steps = 1

    def __init__(self, experiment: Experiment, log: Callable[[str], None]):
        first = experiment.phases[0]
        self.phase = Phase(len(STRENGTHS), first.init, first.step, first.enter)
        self.program = Program(self._call, 0.0, 0)
        self.compile_seconds = 0.0
        self.loader = self
        self.in_memory: Tree = {}
        self._experiment, self._say = experiment, log
        self._inputs: Float[np.ndarray, "n d"] | None = None
        self._labels = np.asarray(jax.device_get(experiment.train_loader.in_memory["label"]))

    def load(self, first_step: int, num_steps: int) -> Tree:
        """Nothing: every step sees all features."""
        del first_step, num_steps
        return {}

    def learning_rate(self, step: int) -> float:
        """There is none."""
        del step
        return 0.0

    def enter(self, state: TrainState) -> TrainState:
        """There is no phase before."""
        return state

    def update_batch_stats(
        self, state: TrainState, heartbeat: Callable[[], None] = lambda: None
    ) -> TrainState:
        """Nothing is averaged."""
        del heartbeat
        return state

    def _call(self, state: TrainState, *_: Any) -> tuple[TrainState, Tree, Tree]:
        with jax.transfer_guard("allow"):  # scikit-learn works on the host
            return *self._fitted(state), {}

    def _fitted(self, state: TrainState) -> tuple[TrainState, Tree]:
        network, step = self._experiment.network, int(jax.device_get(state.step))
        if self._inputs is None:
            self._inputs = self._read_inputs(state)
        strength, weights = STRENGTHS[step], network.class_weights
        classes = len(network.class_names)
        output = fit_output(self._inputs, self._labels, classes, strength, weights)
        if not output.converged:
            self._say(f"At C={strength:g} the fit had not fully converged.")
        params = self._with_output(state.params, output)
        step_after = jax.device_put(np.int32(step + 1), state.step.sharding)
        logits = self._inputs @ output.kernel + output.bias
        return state.replace(params=params, step=step_after), self._judged(logits, strength)

    def _read_inputs(self, state: TrainState) -> Float[np.ndarray, "n d"]:
        """What the output layer reads, of every feature."""
        module, found = self._experiment.module, []

        def catch(call: Any, arguments: Any, options: Any, context: Any) -> Any:
            if context.module.path == LAYER and context.method_name == "__call__":
                found.append(arguments[0])
            return call(*arguments, **options)

        @jax.jit
        def inputs(variables: Tree, features: jax.Array) -> jax.Array:
            found.clear()
            with nn.intercept_methods(catch):
                module.apply(variables, features, train=False)
            return found[0].astype(np.float32)

        variables = evaluated_variables(state)
        features = self._experiment.train_loader.in_memory["image"]
        chunks = np.array_split(np.arange(len(features)), -(-len(features) // AT_ONCE))
        parts = [inputs(variables, features[rows[0] : rows[-1] + 1]) for rows in chunks]
        return np.concatenate(jax.device_get(parts))

    @staticmethod
    def _with_output(params: Tree, output: Output) -> Tree:
        old = params["head"]["output"]
        new = {"kernel": output.kernel, "bias": output.bias}
        placed = {name: jax.device_put(new[name], old[name].sharding) for name in old}
        return {**params, "head": {**params["head"], "output": placed}}

    def _judged(self, logits: Float[np.ndarray, "n k"], strength: float) -> Tree:
        """The metrics of the training examples, as a program gives them."""
        batch = {"label": jnp.asarray(self._labels)}
        values = self._experiment.network.task.metrics(jnp.asarray(logits), batch)
        count = float(len(self._labels))
        history = {name: (float(jnp.sum(each)), count) for name, each in values.items()}
        history["inverse_l2"] = (strength, 1.0)
        return {name: tuple(np.asarray([v]) for v in pair) for name, pair in history.items()}
