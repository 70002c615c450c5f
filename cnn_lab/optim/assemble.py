"""An optimizer with what goes before and after it, and a rate that can be scaled from outside."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

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
    """Chains base, the scale of the rate, and what comes after.

    All get the update's further arguments, and those that do not know them are spared them.

    Args:
        base: an optimizer.
        after: constraints on the weights, in order.
        adjustable: keep a factor of the learning rate in the state, 1 at first, which
            `with_rate_scale` sets; `after` gets it as the argument `rate_scale`.

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


def clipped(
    clip: optax.GradientTransformation, base: optax.GradientTransformationExtraArgs
) -> optax.GradientTransformationExtraArgs:
    """An optimizer whose gradients are limited first.

    Those of `grad_fn`, where the update has it among its further arguments, are limited like the
    first.
    """

    def init(params: Tree) -> tuple[Tree, Tree]:
        return clip.init(params), base.init(params)

    def update(
        updates: Tree,
        state: Tree,
        params: Tree | None = None,
        *,
        grad_fn: Callable[[Tree], Tree] | None = None,
        **extra: Any,
    ) -> tuple[Tree, Tree]:
        def clipped_grad_fn(at: Tree) -> Tree:
            assert grad_fn is not None
            return clip.update(grad_fn(at), state[0], at)[0]

        if grad_fn is not None:
            extra["grad_fn"] = clipped_grad_fn
        clipped, clip_state = clip.update(updates, state[0], params)
        updates, base_state = base.update(clipped, state[1], params, **extra)
        return updates, (clip_state, base_state)

    return optax.GradientTransformationExtraArgs(init, update)
