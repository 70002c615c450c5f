"""Optimizers put together: constraints after the step, a rate scaled from outside, groups."""

import dataclasses
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cnn_lab.core import trees
from cnn_lab.core.arrays import Scalar, Tree
from cnn_lab.core.errors import ConfigError
from cnn_lab.optim.schedule_free import has_averages


class AdjustableState(NamedTuple):
    """State of an optimizer whose rate is scaled from outside.

    Attributes:
        rate_scale: factor of the learning rate, a float32 scalar.
        inner: state of the chain.
    """

    rate_scale: Any
    inner: Tree


def assemble(
    base: optax.GradientTransformation,
    *,
    after: Sequence[optax.GradientTransformation] = (),
    adjustable: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """A chain of an optimizer, the scale of its rate, and constraints.

    The further arguments of an update reach those parts of the chain that take them.

    Args:
        base: an optimizer.
        after: constraints on the weights, in order.
        adjustable: keep a factor of the learning rate in the state, 1 at first, which
            `with_rate_scale` sets; the constraints get it as the argument `rate_scale`.

    Raises:
        ConfigError: at `init`, a schedule-free optimizer with `after` or `adjustable`.
    """
    base = optax.with_extra_args_support(base)
    parts = [base, *([_scale_rate()] if adjustable else []), *after]
    chain = parts[0] if len(parts) == 1 else optax.chain(*parts)
    chain = optax.with_extra_args_support(chain)

    def init(params: Tree) -> Tree:
        state = chain.init(params)
        if has_averages(state) and (after or adjustable):
            what = "a rate that is reduced on a plateau"
            remedy = "another config.optim.schedule.name"
            if after:
                what = "constraints on the weights"
                remedy = "leave out config.optim.max_norm and l1_method=proximal"
            raise ConfigError(
                f"config.optim.name is a schedule-free optimizer, which cannot have {what}: the "
                f"averaged weights would not follow; take another optimizer, or {remedy}."
            )
        return AdjustableState(jnp.ones((), jnp.float32), state) if adjustable else state

    def update(
        updates: Tree, state: Tree, params: Tree | None = None, **extra: Any
    ) -> tuple[Tree, Tree]:
        if not adjustable:
            return chain.update(updates, state, params, **extra)
        extra["rate_scale"] = state.rate_scale
        updates, inner = chain.update(updates, state.inner, params, **extra)
        return updates, AdjustableState(state.rate_scale, inner)

    return optax.GradientTransformationExtraArgs(init, update)


def rate_scale_of(opt_state: Tree) -> Scalar:
    """The factor of the learning rate that an adjustable optimizer's state holds, at any depth.

    Raises:
        ValueError: the optimizer was not assembled as adjustable.
    """
    for node in jax.tree.leaves(opt_state, is_leaf=_is_adjustable):
        if _is_adjustable(node):
            return node.rate_scale
    raise ValueError("The optimizer's rate cannot be scaled: it was not assembled as adjustable.")


def with_rate_scale(opt_state: Tree, value: float) -> Tree:
    """The same state with another factor of the learning rate.

    Args:
        opt_state: of an adjustable optimizer, at any depth.
        value: factor of the schedule's rate, at least 0.

    Raises:
        ValueError: the optimizer was not assembled as adjustable.
    """
    rate_scale_of(opt_state)

    def replace(node: Any) -> Any:
        if not _is_adjustable(node):
            return node
        # Like the old one in type and placement, so that no step is compiled anew.
        return node._replace(rate_scale=jnp.full_like(node.rate_scale, value))

    return jax.tree.map(replace, opt_state, is_leaf=_is_adjustable)


def _is_adjustable(node: Any) -> bool:
    return isinstance(node, AdjustableState)


def _scale_rate() -> optax.GradientTransformationExtraArgs:
    def update(
        updates: Tree, state: Tree, params: Tree | None = None, *, rate_scale: Any = 1.0, **_: Any
    ) -> tuple[Tree, Tree]:
        del params
        return jax.tree.map(lambda u: (rate_scale * u).astype(u.dtype), updates), state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)


@dataclasses.dataclass(frozen=True)
class LrMultiplier:
    """The learning rate of a group of parameters, and the step at which their training begins.

    Attributes:
        factor: of the learning rate.
        first_step: steps of the training before the group's first one.
    """

    factor: float = 1.0
    first_step: int = 0


def grouped(
    make: Callable[[optax.Schedule], optax.GradientTransformationExtraArgs],
    learning_rate: optax.Schedule,
    lr_multipliers: Mapping[str, LrMultiplier],
) -> optax.GradientTransformationExtraArgs:
    """One optimizer for each learning-rate multiplier, over the parameters that have it.

    Each counts its own updates, so that a group that begins late begins like any other: Adam's
    moments are corrected for their bias, and the rate is that of the whole training's step.

    Args:
        make: learning rate -> optimizer.
        learning_rate: step -> rate.
        lr_multipliers: by the path of each parameter that there is.
    """
    names = {
        lr_multiplier: f"{lr_multiplier.factor!r} from {lr_multiplier.first_step}"
        for lr_multiplier in set(lr_multipliers.values())
    }

    def labels(params: Tree) -> Tree:
        flat = {path: names[lr_multipliers[path]] for path in trees.flatten(params)}
        return jax.tree.unflatten(jax.tree.structure(params), list(flat.values()))

    optimizers: dict[Hashable, optax.GradientTransformation] = {
        name: make(_at(learning_rate, lr_multiplier)) for lr_multiplier, name in names.items()
    }
    return optax.with_extra_args_support(optax.partition(optimizers, labels))


def _at(learning_rate: optax.Schedule, lr_multiplier: LrMultiplier) -> optax.Schedule:
    return lambda count: lr_multiplier.factor * learning_rate(count + lr_multiplier.first_step)
