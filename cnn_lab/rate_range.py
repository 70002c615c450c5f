"""Which learning rate? One short training in which it rises from step to step.

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
from jaxtyping import Float64

from cnn_lab.build import build
from cnn_lab.config import ExperimentConfig
from cnn_lab.core.errors import ConfigError, TrainingError
from cnn_lab.core.shapes import Tree
from cnn_lab.core.typed import from_dict, to_dict
from cnn_lab.data.catalog import Dataset
from cnn_lab.experiment import Experiment
from cnn_lab.resolve import resolve_names
from cnn_lab.train.dispatch import Program, compile_train
from cnn_lab.train.pace import Pace
from cnn_lab.train.state import TrainState

RISEN = 0.5  # at least this share of the lowest loss above it, and above where it began
SMOOTHED_OVER = 0.02  # width of the weights, as a share of all steps
REACH = 5  # standard deviations after which a Gaussian counts as ended
CLEAR = 6.0  # standard errors that a fall must be, for chance makes some between two of many values
FEWEST_STEPS = 20


@dataclasses.dataclass(frozen=True)
class RateRange:
    """What a range test found.

    Attributes:
        rates: of each step that was made [s], rising.
        losses: mean training loss of each step [s].
        smoothed: the same, averaged over neighbouring steps [s].
        steepest: rate at which the smoothed loss fell fastest; the suggestion.
        lowest: rate of the lowest smoothed loss.
        still_falling: the lowest loss was at the end, so that higher rates may be good too.
    """

    rates: Float64[np.ndarray, " s"]
    losses: Float64[np.ndarray, " s"]
    smoothed: Float64[np.ndarray, " s"]
    steepest: float
    lowest: float
    still_falling: bool


def find_rate(
    config: ExperimentConfig,
    open_data: Callable[..., Dataset],
    say: Callable[[str], None],
    *,
    lowest: float = 1e-6,
    highest: float = 10.0,
    num_steps: int = 200,
) -> RateRange:
    """Trains `num_steps` steps of a config, at rates from `lowest` to `highest`.

    It stops once the loss has risen far above what it was, or is no longer finite. The config's own
    learning rate and schedule do not matter, nor do averages of the weights.

    Args:
        config: the experiment.
        open_data: as of `build`.
        say: takes lines for the user.
        lowest: first rate, positive.
        highest: last rate, above the first.
        num_steps: steps from one to the other, at least 20.

    Raises:
        ConfigError: limits that cannot be.
        TrainingError: the loss was not finite from the start, or never fell.
    """
    if not 0 < lowest < highest < np.inf:
        raise ConfigError(
            f"--lowest and --highest must be positive, the second one larger; found {lowest:g} and "
            f"{highest:g}."
        )
    if num_steps < FEWEST_STEPS:
        raise ConfigError(f"--num_steps must be at least {FEWEST_STEPS}; found {num_steps}.")
    if config.transfer is not None and config.transfer.strategy == "logistic":
        raise ConfigError(
            "config.transfer.strategy=logistic has no learning rate to look for; take another one."
        )
    rates = np.geomspace(lowest, highest, num_steps)
    experiment = _build(config, rates, open_data)
    try:
        losses = _train(experiment, config.seed, num_steps, say)
    finally:
        for pipeline in experiment.pipelines():
            pipeline.close()
    if len(losses) < FEWEST_STEPS // 2:
        raise TrainingError(
            f"The loss rose or was not finite after {len(losses)} steps, at a rate of "
            f"{rates[len(losses)]:.3g}; give a lower --lowest, or look at the data and the model."
        )
    return judged(rates[: len(losses)], losses)


def judged(rates: Float64[np.ndarray, " s"], losses: Float64[np.ndarray, " s"]) -> RateRange:
    """Where the loss fell fastest, and where it was lowest.

    Args:
        rates: rising by a constant factor.
        losses: of the steps at those rates, finite.

    Raises:
        TrainingError: the loss never fell by more than chance may let it.
    """
    smoothed = _smooth(losses)
    best = int(np.argmin(smoothed))
    slopes = np.gradient(smoothed)[: best + 1]
    steepest = int(np.argmin(slopes))
    fall = smoothed[: best + 1].max() - smoothed[best]
    # The standard error of a smoothed value: a Gaussian's weights are as good as so many even ones.
    num_even = max(1.0, 2 * np.sqrt(np.pi) * SMOOTHED_OVER * len(losses))
    noise = np.std((losses - smoothed)[: best + 1]) / np.sqrt(num_even)
    if slopes[steepest] >= 0 or fall < CLEAR * noise:
        raise TrainingError(
            f"The loss never clearly fell between rates of {rates[0]:.3g} and {rates[-1]:.3g}; "
            "widen --lowest and --highest, or look at the data and the model."
        )
    # The last values are averaged over neighbours on one side only.
    still_falling = best >= len(smoothed) - max(1, round(2 * SMOOTHED_OVER * len(smoothed)))
    found = float(rates[steepest]), float(rates[best])
    return RateRange(rates, losses, smoothed, *found, still_falling)


def _build(
    config: ExperimentConfig, rates: np.ndarray, open_data: Callable[..., Dataset]
) -> Experiment:
    config = from_dict(ExperimentConfig, to_dict(config))
    config.average = None
    table = jnp.asarray(rates, jnp.float32)
    named = resolve_names(config)
    rising = dataclasses.replace(named, make_schedule=lambda *_: lambda step: table[step])
    experiment = build(config, open_data, named=rising)
    epochs = -(-len(rates) // experiment.steps_per_epoch)
    if epochs <= config.train.num_epochs:
        return experiment
    # A streaming pipeline ends with the run's last epoch.
    config.train.num_epochs = epochs
    return build(config, open_data, named=rising)


def _train(
    experiment: Experiment, seed: int, num_steps: int, say: Callable[[str], None]
) -> np.ndarray:
    state = experiment.begin(seed)
    experiment = experiment.with_features(state, say)
    layout, pipeline = experiment.layout, experiment.train_pipeline
    program = compile_train(
        experiment.phases[0].step,
        pipeline.prepare,
        layout,
        state,
        pipeline.resident,
        pipeline.feed_shapes(),
    )
    say(f"Compiled in {program.compile_seconds:.1f} s; up to {num_steps} steps.")
    losses: list[float] = []
    pace, watch = Pace(pipeline.max_steps), Watch(num_steps)
    while len(losses) < num_steps:
        first, called = len(losses), time.perf_counter()
        number = min(pace.num_steps, num_steps - first)
        found, state = _advance(program, experiment, state, first, number)
        pace.measure(number, called, time.perf_counter())
        losses += watch.until_risen(found)
        if len(found) < number or watch.risen:
            break
    say(f"Stopped after {len(losses)} of {num_steps} steps.")
    return np.asarray(losses)


def _advance(
    program: Program, experiment: Experiment, state: TrainState, first: int, number: int
) -> tuple[list[float], TrainState]:
    """Finite losses of the next steps, fewer than asked for if one was not finite."""
    pipeline, layout = experiment.train_pipeline, experiment.layout
    feeds: Tree = layout.put_batches(pipeline.feed(first, number))
    scalars = layout.put_everywhere((np.int32(first), np.int32(number)))
    state, history, _ = program.call(state, pipeline.resident, feeds, *scalars, {})
    sums, counts = jax.device_get(history["loss"])
    done = int(jax.device_get(state.step)) - first
    return (sums[:done] / counts[:done]).astype(float).tolist(), state


class Watch:
    """Says at which step the loss has risen far above what it was.

    It looks at a mean over the steps so far, the last ones weighing most, so that the answer does
    not depend on how many steps are shown to it at once.

    Args:
        num_steps: that the test may have.

    Attributes:
        risen: whether it has.
    """

    def __init__(self, num_steps: int):
        self.risen = False
        self._kept = math.exp(-1 / max(1.0, SMOOTHED_OVER * num_steps))
        self._sum = self._weight = 0.0
        self._first: float | None = None
        self._lowest = math.inf

    def until_risen(self, losses: Iterable[float]) -> list[float]:
        """The next steps' losses, up to the step at which it had risen."""
        seen: list[float] = []
        for loss in losses:
            if self.risen:
                break
            seen.append(loss)
            self._sum = self._kept * self._sum + loss
            self._weight = self._kept * self._weight + 1
            mean = self._sum / self._weight
            self._first = mean if self._first is None else self._first
            self._lowest = min(self._lowest, mean)
            self.risen = mean > max(self._first, (1 + RISEN) * self._lowest)
        return seen


def _smooth(values: np.ndarray) -> np.ndarray:
    """Means over neighbours, weighted by a Gaussian, without delay."""
    width = max(1.0, SMOOTHED_OVER * len(values))
    reach = math.ceil(REACH * width)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / width) ** 2)
    sums, totals = (np.convolve(v, weights)[reach:-reach] for v in (values, np.ones(len(values))))
    return sums / totals
