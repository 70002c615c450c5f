"""Memory, energy and money that numbers of parameters and multiply-accumulates stand for.

Energies of arithmetic: Horowitz 2014, "Computing's energy problem (and what we can do about it)",
ISSCC, figure 1.1.9, in a 45 nm process: a multiplication and an addition in float32 take 3.7 + 0.9
pJ, in float16 1.1 + 0.4 pJ. Moving data comes on top, so the results are lower bounds.
"""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from cnn_lab.core import trees
from cnn_lab.core.arrays import Tree
from cnn_lab.core.errors import ConfigError

PICOJOULES_PER_MAC = {"float32": 4.6, "bfloat16": 1.5, "float16": 1.5}
TRAINING_PASSES = 3  # forward, and one pass each for the gradients of the maps and of the weights
JOULES_PER_KWH = 3.6e6


def storage_bytes(num_parameters: int, dtype: str = "float32") -> int:
    """Bytes of that many parameters.

    Args:
        num_parameters: not negative.
        dtype: of each of them, such as float32, bfloat16 or int8.
    """
    try:
        return num_parameters * jnp.dtype(dtype).itemsize
    except TypeError:
        raise ConfigError(
            f"There is no dtype {dtype!r}; use one such as float32, bfloat16, float16 or int8."
        ) from None


@dataclasses.dataclass(frozen=True)
class TrainingMemory:
    """Bytes that a training step holds.

    Attributes:
        parameters: the weights.
        gradients: one for each of them.
        statistics: variables that are not trained, such as those of batch normalisation.
        optimizer: by the optimizer's name.
        activations: outputs of the layers over the batch, kept for the backward pass.
    """

    parameters: int
    gradients: int
    statistics: int
    optimizer: dict[str, int]
    activations: int

    def total(self, optimizer: str) -> int:
        """All of it under that optimizer."""
        weights = self.parameters + self.gradients + self.statistics
        return weights + self.optimizer[optimizer] + self.activations


def training_memory(variables: Tree, activation_bytes: int, batch_size: int) -> TrainingMemory:
    """Memory of a training step, from shapes alone.

    Args:
        variables: shapes (`jax.eval_shape`) or arrays, with the collection `params`.
        activation_bytes: of one example.
        batch_size: examples per step and device.
    """
    parameters = trees.num_bytes(variables["params"])
    # Rates do not matter for what an optimizer stores.
    optimizers = {"SGD with momentum": optax.sgd(0.1, momentum=0.9), "Adam": optax.adam(0.1)}
    slots = {
        name: trees.num_bytes(jax.eval_shape(optimizer.init, variables["params"]))
        for name, optimizer in optimizers.items()
    }
    others = trees.num_bytes(variables) - parameters
    return TrainingMemory(parameters, parameters, others, slots, activation_bytes * batch_size)


def energy_kwh(macs: float, picojoules_per_mac: float) -> float:
    """Energy of that many multiply-accumulates, arithmetic alone."""
    return macs * picojoules_per_mac * 1e-12 / JOULES_PER_KWH
