"""The learning-rate finder: one short training in which the rate rises from step to step.

The range test of Smith 2015, "Cyclical learning rates for training neural networks"
(arXiv:1506.01186), section 3.3, with an exponential rise.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np

from cnn_lab.analysis.lr_range import SMOOTHING, LrRange, analyse
from cnn_lab.config import ExperimentConfig
from cnn_lab.config.node import from_dict, to_dict
from cnn_lab.core.arrays import Tree
from cnn_lab.core.errors import ConfigError, TrainingError
from cnn_lab.data.datasets.catalog import Dataset
from cnn_lab.experiment.build import build_experiment
from cnn_lab.experiment.components import make_components
from cnn_lab.experiment.experiment import Experiment
from cnn_lab.training.stepper import StepsPerCall, compile_train

RISE = 0.5  # as a share of the lowest loss; the loss must be above the first one too
MIN_STEPS = 20


def find_rate(
    config: ExperimentConfig,
    open_data: Callable[..., Dataset],
    log: Callable[[str], None],
    *,
    lowest: float = 1e-6,
    highest: float = 10.0,
    num_steps: int = 200,
) -> LrRange:
    """Trains `num_steps` steps of a config, at rates from `lowest` to `highest`.

    It stops once the loss has risen far above its earlier values, or is no longer finite. The
    config's own learning rate and schedule do not matter, nor do averages of the weights.
    `open_data` gives the data set of (name, data_dir).

    Raises:
        ConfigError: limits that cannot be.
        TrainingError: the loss was not finite from the start, or never fell.
    """
    if not 0 < lowest < highest < np.inf:
        raise ConfigError(
            where="--lowest and --highest",
            found=(lowest, highest),
            allowed="positive, the second one larger",
        )
    if num_steps < MIN_STEPS:
        raise ConfigError(where="--num_steps", found=num_steps, allowed=f"at least {MIN_STEPS}")
    if config.transfer is not None and config.transfer.strategy == "logistic":
        problem = (
            "config.transfer.strategy=logistic has no learning rate to look for; take another one."
        )
        raise ConfigError(problem, where="config.transfer.strategy", found="logistic")
    rates = np.geomspace(lowest, highest, num_steps)
    experiment = _build(config, rates, open_data)
    try:
        losses = _train(experiment, config.seed, num_steps, log)
    finally:
        for loader in experiment.loaders():
            loader.close()
    if len(losses) < MIN_STEPS // 2:
        problem = (
            f"The loss rose or was not finite after {len(losses)} steps, at a rate of "
            f"{rates[len(losses)]:.3g}; give a lower --lowest, or look at the data and the model."
        )
        raise TrainingError(problem, where="--lowest", found=lowest)
    return analyse(rates[: len(losses)], losses)


def _build(
    config: ExperimentConfig, rates: np.ndarray, open_data: Callable[..., Dataset]
) -> Experiment:
    config = from_dict(ExperimentConfig, to_dict(config))
    config.average = None
    table = jnp.asarray(rates, jnp.float32)
    components = make_components(config)
    rising = dataclasses.replace(components, make_schedule=lambda *_: lambda step: table[step])
    experiment = build_experiment(config, open_data, components=rising)
    epochs = -(-len(rates) // experiment.steps_per_epoch)
    if epochs <= config.train.num_epochs:
        return experiment
    # A streaming loader ends with the run's last epoch.
    config.train.num_epochs = epochs
    return build_experiment(config, open_data, components=rising)


def _train(
    experiment: Experiment, seed: int, num_steps: int, log: Callable[[str], None]
) -> np.ndarray:
    state = experiment.init_state(seed)
    experiment.load_features(state, log)
    mesh, loader = experiment.mesh, experiment.train_loader
    program = compile_train(
        experiment.phases[0].step,
        loader.prepare,
        mesh,
        state,
        loader.device_arrays,
        loader.raw_shapes(),
    )
    log(f"Compiled in {program.compile_seconds:.1f} s; up to {num_steps} steps.")
    losses: list[float] = []
    steps_per_call, rise = StepsPerCall(loader.max_steps), LossRise(num_steps)
    while len(losses) < num_steps:
        first, start = len(losses), time.perf_counter()
        number = min(steps_per_call.num_steps, num_steps - first)
        raw_batches: Tree = mesh.put(loader.load(first, number), mesh.batches)
        scalars = mesh.put((np.int32(first), np.int32(number)))
        state, history, _ = program.call(state, loader.device_arrays, raw_batches, *scalars, {})
        sums, counts = jax.device_get(history["loss"])
        done = int(jax.device_get(state.step)) - first  # up to a step that was not finite
        steps_per_call.measure(number, start, time.perf_counter())
        losses += rise.until_risen((sums[:done] / counts[:done]).astype(float).tolist())
        if done < number or rise.has_risen:
            break
    log(f"Stopped after {len(losses)} of {num_steps} steps.")
    return np.asarray(losses)


class LossRise:
    """The step at which the loss has risen far above its earlier values.

    The loss is averaged over the steps so far, the last ones weighing most, so that the answer does
    not depend on how many steps are shown at once. `num_steps` are those of the whole test.
    """

    def __init__(self, num_steps: int):
        self.has_risen = False
        self._decay = math.exp(-1 / max(1.0, SMOOTHING * num_steps))
        self._sum = self._weight = 0.0
        self._first: float | None = None
        self._lowest = math.inf

    def until_risen(self, losses: Iterable[float]) -> list[float]:
        """The losses of the next steps, up to the step at which the loss has risen."""
        seen: list[float] = []
        for loss in losses:
            if self.has_risen:
                break
            seen.append(loss)
            self._sum = self._decay * self._sum + loss
            self._weight = self._decay * self._weight + 1
            mean = self._sum / self._weight
            self._first = mean if self._first is None else self._first
            self._lowest = min(self._lowest, mean)
            self.has_risen = mean > max(self._first, (1 + RISE) * self._lowest)
        return seen
