"""Learning-rate schedules by name, each a function of the step.

A schedule's function takes a `Span` and its own options, and returns step -> rate, counted from
the end of the warm-up. Linear warm-up from 0 is put before any of them.
"""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Annotated, Any

import jax.numpy as jnp
import optax

from cnn_lab.config.values import Count, Fraction, NonNegative, Positive, Range
from cnn_lab.core.errors import ConfigError
from cnn_lab.core.registry import Registry
from cnn_lab.core.text import counted

OPTIONS = "config.optim.schedule.options"
InnerFraction = Annotated[float, Range(above=0, below=1)]
PositiveFraction = Annotated[float, Range(above=0, max=1)]

SCHEDULES: Registry[Callable[..., optax.Schedule]] = Registry("schedule", "cnn_lab.optim")


@dataclasses.dataclass(frozen=True)
class Span:
    """The part of a run that follows the warm-up.

    Attributes:
        peak: highest rate.
        num_steps: its length, at least 1.
        warmup_steps: steps of the run before it, which `warmup_field` of the config sets.
    """

    peak: float
    num_steps: int
    steps_per_epoch: int
    warmup_steps: int
    warmup_field: str = "warmup_steps"


@SCHEDULES.register()
def constant(span: Span) -> optax.Schedule:
    """The same rate throughout."""
    return optax.constant_schedule(span.peak)


@SCHEDULES.register()
def step(
    span: Span, factor: InnerFraction = 0.1, milestones_epochs: tuple[Positive, ...] | None = None
) -> optax.Schedule:
    """Falls to `factor` of itself at each milestone (He et al. 2015, arXiv:1512.03385, section 4).

    Args:
        factor: share of the rate that a milestone leaves, in (0, 1).
        milestones_epochs: epochs of the whole run, rising, after which the rate falls; None means
            at 1/2 and 3/4 of what follows the warm-up.

    Raises:
        ConfigError: a milestone within the warm-up or not before the end, or out of order.
    """
    if milestones_epochs is None:
        halfway, later = -(-span.num_steps // 2), -(-3 * span.num_steps // 4)
        return optax.piecewise_constant_schedule(span.peak, {halfway: factor, later: factor})
    field = f"{OPTIONS}.milestones_epochs"
    if any(a >= b for a, b in itertools.pairwise(milestones_epochs)):
        raise ConfigError(where=field, found=milestones_epochs, allowed="rising")
    falls = {}
    for milestone in milestones_epochs:
        fall = round(milestone * span.steps_per_epoch) - span.warmup_steps
        if not 0 < fall < span.num_steps:
            warm = span.warmup_steps / span.steps_per_epoch
            end = warm + span.num_steps / span.steps_per_epoch
            raise ConfigError(
                where=field,
                found=milestone,
                allowed=f"after the warm-up and before the end of the run: between {warm:g} and "
                f"{end:g} epochs",
            )
        falls[fall] = falls.get(fall, 1.0) * factor
    return optax.piecewise_constant_schedule(span.peak, falls)


@SCHEDULES.register()
def exponential(span: Span, final_fraction: PositiveFraction = 0.01) -> optax.Schedule:
    """Falls by the same factor at every step, to `final_fraction` of the peak at the end.

    Args:
        final_fraction: share of the peak that is left at the end, in (0, 1]; for a factor f at
            each epoch it is f ** num_epochs.
    """
    return optax.exponential_decay(
        span.peak, span.num_steps, decay_rate=final_fraction, end_value=span.peak * final_fraction
    )


@SCHEDULES.register()
def cosine(span: Span, final_fraction: Fraction = 0.0) -> optax.Schedule:
    """Half a cosine from the peak to `final_fraction` of it (Loshchilov & Hutter 2016, no restart).

    Args:
        final_fraction: share of the peak that is left at the end, in [0, 1].
    """
    return optax.cosine_decay_schedule(span.peak, span.num_steps, alpha=final_fraction)


@SCHEDULES.register()
def polynomial(span: Span, power: Positive = 1.0, final_fraction: Fraction = 0.0) -> optax.Schedule:
    """Falls like a power of the share of steps that are left: a straight line for a power of 1.

    Args:
        power: exponent, positive; 0.9 in DeepLab (Chen et al. 2016, arXiv:1606.00915).
        final_fraction: share of the peak that is left at the end, in [0, 1].
    """
    final = span.peak * final_fraction

    def rate(step: Any) -> Any:
        # A fused product may leave a little less than nothing, of which a power is no number.
        left = jnp.maximum(1 - jnp.clip(step, 0, span.num_steps) / span.num_steps, 0.0)
        return (span.peak - final) * left**power + final

    return rate


@SCHEDULES.register()
def one_cycle(
    span: Span,
    rise_share: InnerFraction = 0.3,
    initial_fraction: PositiveFraction = 1 / 25,
    final_fraction: Fraction = 1 / 25e4,
) -> optax.Schedule:
    """Rises to the peak and falls to almost nothing (Smith & Topin 2017, arXiv:1708.07120).

    Differs from the paper: both ways are half cosines, as in PyTorch's OneCycleLR, whose defaults
    these are; the last step has the lowest rate, and the momentum stays as it is. Fewer than three
    steps have the peak throughout.

    Args:
        rise_share: share of the steps that rise, in (0, 1).
        initial_fraction: share of the peak to start from, in (0, 1].
        final_fraction: share of the peak that is left at the last step, in [0, 1].

    Raises:
        ConfigError: a warm-up before the rise.
    """
    if span.warmup_steps:
        raise ConfigError(
            f"config.optim.schedule.{span.warmup_field} is set, but one_cycle warms up by itself; "
            f"set it to 0, and {OPTIONS}.rise_share to the share of steps that rise.",
            where=f"config.optim.schedule.{span.warmup_field}",
            found=span.warmup_steps,
        )
    last = span.num_steps - 1
    if last < 2:
        return optax.constant_schedule(span.peak)
    top = min(max(round(rise_share * span.num_steps) - 1, 1), last - 1)
    return optax.piecewise_interpolate_schedule(
        "cosine", span.peak * initial_fraction, {top: 1 / initial_fraction, last: final_fraction}
    )


@SCHEDULES.register()
def plateau(
    span: Span,
    factor: InnerFraction = 0.1,  # noqa: ARG001 - all four are for what reduces the rate
    patience: Count = 5,  # noqa: ARG001
    min_delta: NonNegative = 1e-4,  # noqa: ARG001
    min_fraction: Fraction = 1e-3,  # noqa: ARG001
) -> optax.Schedule:
    """The same rate until the validation metric stops improving; then `factor` of it, and so on.

    The reductions depend on evaluations, so they are made between steps, from outside: the schedule
    itself is constant.

    Args:
        factor: share of the rate that a reduction leaves, in (0, 1).
        patience: evaluations in a row without improvement after which the rate is reduced, at
            least 1.
        min_delta: smallest change of the metric that counts as an improvement, at least 0.
        min_fraction: share of the peak below which the rate is not reduced, in [0, 1].
    """
    return optax.constant_schedule(span.peak)


def make_schedule(
    name: str,
    *,
    peak: float,
    num_steps: int,
    steps_per_epoch: int = 1,
    warmup_steps: int = 0,
    warmup_field: str = "warmup_steps",
    **options: Any,
) -> optax.Schedule:
    """Builds step -> learning rate: a linear rise from 0 to the peak, then the schedule of a name.

    Args:
        num_steps: steps of the whole run, warm-up included.
        steps_per_epoch: for options that count epochs.
        warmup_field: field of the config that sets `warmup_steps`, for messages.
        **options: what the schedule's function declares.

    Raises:
        ConfigError: unknown name, or a warm-up or an option that does not fit the run.
    """
    schedule = SCHEDULES.lookup(name, "config.optim.schedule.name")
    if warmup_steps >= num_steps:
        raise ConfigError(
            f"config.optim.schedule.{warmup_field} asks for {counted(warmup_steps, 'step')} of "
            f"warm-up, but the whole run has only {num_steps}; lower it or train longer.",
            where=f"config.optim.schedule.{warmup_field}",
            found=warmup_steps,
        )
    span = Span(peak, num_steps - warmup_steps, steps_per_epoch, warmup_steps, warmup_field)
    after = schedule(span, **options)
    if not warmup_steps:
        return after
    warmup = optax.linear_schedule(0.0, peak, warmup_steps)
    return optax.join_schedules([warmup, after], [warmup_steps])
