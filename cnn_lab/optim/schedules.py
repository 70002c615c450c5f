"""Learning-rate schedules by name, each a function of the step.

A schedule's function takes (peak, num_steps) and its own options, and returns step -> rate. Linear
warm-up from 0 is put before any of them.
"""

from collections.abc import Callable
from typing import Any

import optax

from cnn_lab.core.errors import ConfigError, lookup
from cnn_lab.core.ranges import Fraction


def constant(peak: float, num_steps: int) -> optax.Schedule:  # noqa: ARG001 - one signature for all
    """The same rate throughout."""
    return optax.constant_schedule(peak)


def cosine(peak: float, num_steps: int, final_fraction: Fraction = 0.0) -> optax.Schedule:
    """Half a cosine from the peak to `final_fraction` of it (Loshchilov & Hutter 2016, no restart).

    Args:
        peak: rate at the start.
        num_steps: length of the fall, in steps.
        final_fraction: share of the peak that is left at the end, in [0, 1].
    """
    return optax.cosine_decay_schedule(peak, num_steps, alpha=final_fraction)


SCHEDULES: dict[str, Callable[..., optax.Schedule]] = {"constant": constant, "cosine": cosine}


def make_schedule(
    name: str, *, peak: float, num_steps: int, warmup_steps: int = 0, **options: Any
) -> optax.Schedule:
    """Builds step -> learning rate.

    Args:
        name: a key of `SCHEDULES`.
        peak: highest rate, reached after the warm-up.
        num_steps: steps of the whole run, warm-up included.
        warmup_steps: steps of linear rise from 0.
        **options: what the schedule's function declares.

    Raises:
        ConfigError: unknown name, or a warm-up that does not fit the run.
    """
    schedule = lookup(SCHEDULES, name, "schedule")
    if warmup_steps >= num_steps:
        raise ConfigError(
            f"config.optim.schedule.warmup_steps is {warmup_steps}, but the whole run has only "
            f"{num_steps} steps; lower it or train longer."
        )
    after = schedule(peak, num_steps - warmup_steps, **options)
    if not warmup_steps:
        return after
    warmup = optax.linear_schedule(0.0, peak, warmup_steps)
    return optax.join_schedules([warmup, after], [warmup_steps])
