"""Optimizers put together: clipping before the step, constraints after it, groups, a scaled rate.

A constraint looks at where an update would take the kernels and changes the update so that they
end where they may. Biases and other vectors are left alone.
"""

import dataclasses
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from optax.transforms import unitwise_clip, unitwise_norm

from cnn_lab.core import trees
from cnn_lab.core.arrays import Scalar, Tree
from cnn_lab.core.errors import ConfigError
from cnn_lab.optim.kernels import incoming_axes, is_kernel
from cnn_lab.optim.schedule_free import has_averages


class AdjustableState(NamedTuple):
    """State of a chain whose learning rate is scaled from outside, by a float32 scalar."""

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
        after: constraints on the weights, in order.
        adjustable: keep a factor of the learning rate in the state, 1 at first, which
            `with_rate_scale` sets; the constraints get it as the argument `rate_scale`.

    Raises:
        ConfigError: at `init`, a schedule-free optimizer with `after` or `adjustable`.
    """
    base = optax.with_extra_args_support(base)
    if not after and not adjustable:
        return base
    chain = optax.chain(base, *([_scale_rate()] if adjustable else []), *after)

    def init(params: Tree) -> Tree:
        state = chain.init(params)
        if has_averages(state):
            what = "a rate that is reduced on a plateau"
            remedy = "another config.optim.schedule.name"
            if after:
                what = "constraints on the weights"
                remedy = "leave out config.optim.max_norm and l1_method=proximal"
            raise ConfigError(
                f"config.optim.name is a schedule-free optimizer, which cannot have {what}: the "
                f"averaged weights would not follow; take another optimizer, or {remedy}.",
                where="config.optim.name",
                found=what,
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


def _scale_rate() -> optax.GradientTransformationExtraArgs:
    def update(
        updates: Tree, state: Tree, params: Tree | None = None, *, rate_scale: Any = 1.0, **_: Any
    ) -> tuple[Tree, Tree]:
        del params
        return jax.tree.map(lambda u: (rate_scale * u).astype(u.dtype), updates), state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)


def rate_scale_of(opt_state: Tree) -> Scalar:
    """The factor of the learning rate that an adjustable optimizer's state holds, at any depth.

    Raises:
        ValueError: the optimizer was not assembled as adjustable.
    """
    for _, scale in optax.tree.get_all_with_path(opt_state, "rate_scale"):
        return scale
    raise ValueError("The optimizer's rate cannot be scaled: it was not assembled as adjustable.")


def with_rate_scale(opt_state: Tree, value: float) -> Tree:
    """The same state with another factor, at least 0; raises as `rate_scale_of`."""
    # Like the old one in type and placement, so that no step is compiled anew.
    scale = jnp.full_like(rate_scale_of(opt_state), value)
    return optax.tree.set(opt_state, rate_scale=scale)


def adaptive_clip(ratio: float = 0.01, eps: float = 1e-3) -> optax.GradientTransformation:
    """Limits each unit's gradient to `ratio` of its weights' norm (Brock et al. 2021, 2102.06171).

    A unit is the last index of a kernel; a vector, such as all biases of a layer, counts as one.
    The head is left alone; the paper excepts its last layer (section 4.1). optax's own
    `adaptive_grad_clip` takes kernels of three axes for those of attention, of which it
    sums the first only, and not for convolutions over one axis.

    Args:
        ratio: highest ratio of the gradient's norm to the weights', positive; 0.01 is the paper's
            for batches of 1024 and 4096, and smaller ones bear more.
        eps: smallest norm that weights count with, positive, so that those at 0 can leave it.
    """

    def clip(path: tuple, gradient: jax.Array, weights: jax.Array) -> jax.Array:
        if trees.path_of(path).startswith("head/"):
            return gradient
        axes = incoming_axes(weights) if weights.ndim > 1 else None
        limit = ratio * jnp.maximum(unitwise_norm(weights, axis=axes), eps)
        return unitwise_clip(unitwise_norm(gradient, axis=axes), limit, gradient)

    return optax.stateless(
        lambda gradients, params: jax.tree_util.tree_map_with_path(clip, gradients, params)
    )


def with_clipping(
    clip: optax.GradientTransformation, optimizer: optax.GradientTransformationExtraArgs
) -> optax.GradientTransformationExtraArgs:
    """An optimizer whose gradients are clipped first.

    The gradients that `grad_fn` gives, where the update has it among its further arguments, are
    clipped like the first.

    Args:
        clip: `optax.clip` (every entry), `optax.clip_by_global_norm` (Pascanu et al. 2012,
            arXiv:1211.5063), `adaptive_clip`, or a chain of them.
    """

    def init(params: Tree) -> tuple[Tree, Tree]:
        return clip.init(params), optimizer.init(params)

    def update(
        updates: Tree,
        state: Tree,
        params: Tree | None = None,
        *,
        grad_fn: Callable[[Tree], Tree] | None = None,
        **extra: Any,
    ) -> tuple[Tree, Tree]:
        if grad_fn is not None:
            extra["grad_fn"] = lambda at: clip.update(grad_fn(at), state[0], at)[0]
        clipped, clip_state = clip.update(updates, state[0], params)
        updates, optimizer_state = optimizer.update(clipped, state[1], params, **extra)
        return updates, (clip_state, optimizer_state)

    return optax.GradientTransformationExtraArgs(init, update)


class ProximalL1State(NamedTuple):
    """Number of updates made, int32."""

    count: Any


def proximal_l1(
    weight: float, learning_rate: optax.Schedule
) -> optax.GradientTransformationExtraArgs:
    """Draws kernels towards 0 by rate * weight after each step, and leaves them there (ISTA).

    The soft threshold w -> sign(w) max(|w| - rate * weight, 0) is the proximal step of the penalty
    weight * sum |w| (Daubechies, Defrise & De Mol 2004; Beck & Teboulle 2009), so kernels become
    exactly 0. It belongs to plain gradient steps; after an adaptive method, whose steps
    differ from weight to weight, all weights are drawn by the plain rate alike.

    Args:
        weight: of the sum of absolute values, at least 0.
        learning_rate: step -> rate of the optimizer before it. The update's argument `rate_scale`,
            1 if absent, multiplies it.
    """

    def init(params: Tree) -> ProximalL1State:  # noqa: ARG001 - optax's signature
        return ProximalL1State(jnp.zeros((), jnp.int32))

    def update(
        updates: Tree, state: Tree, params: Tree | None = None, *, rate_scale: Any = 1.0, **_: Any
    ) -> tuple[Tree, Tree]:
        threshold = weight * learning_rate(state.count) * rate_scale

        def shrink(moved: jax.Array) -> jax.Array:
            return jnp.sign(moved) * jnp.maximum(jnp.abs(moved) - threshold, 0)

        state = ProximalL1State(optax.safe_increment(state.count))
        return _redirect(updates, params, shrink), state

    return optax.GradientTransformationExtraArgs(init, update)


def max_norm(limit: float) -> optax.GradientTransformation:
    """Scales the weights into each unit to a norm of at most `limit`, positive, after each step.

    Srivastava et al. 2014 (JMLR 15), section 5.1, beside dropout, with 3 to 4. The weights into a
    unit are those of its last index, over all other axes. The norm holds to the rounding of the
    step.
    """

    def bound(moved: jax.Array) -> jax.Array:
        axes = incoming_axes(moved)
        norms = jnp.sqrt(jnp.sum(jnp.square(moved), axis=axes, keepdims=True))
        return moved * jnp.minimum(1.0, limit / jnp.maximum(norms, jnp.finfo(norms.dtype).tiny))

    return optax.stateless(lambda updates, params: _redirect(updates, params, bound))


def _redirect(updates: Tree, params: Tree, target: Any) -> Tree:
    """Updates that take each kernel to `target` of where it was going, in float32 at least."""

    def redirect(path: tuple, update: jax.Array, param: jax.Array) -> jax.Array:
        if not is_kernel(path, param):
            return update
        wide = jnp.promote_types(param.dtype, jnp.float32)
        here = param.astype(wide)
        moved = (param + update).astype(param.dtype).astype(wide)  # as the step will add them
        return (target(moved) - here).astype(update.dtype)

    return jax.tree_util.tree_map_with_path(redirect, updates, params)


@dataclasses.dataclass(frozen=True)
class LrMultiplier:
    """The learning rate of a group of parameters, and the step at which their training begins."""

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
        make: (step -> rate) -> optimizer.
        lr_multipliers: by the path of each parameter that there is.
    """
    names = {m: f"{m.factor!r} from {m.first_step}" for m in set(lr_multipliers.values())}

    def labels(params: Tree) -> Tree:
        flat = [names[lr_multipliers[path]] for path in trees.flatten(params)]
        return jax.tree.unflatten(jax.tree.structure(params), flat)

    def at(m: LrMultiplier) -> optax.Schedule:
        return lambda count: m.factor * learning_rate(count + m.first_step)

    optimizers: dict[Hashable, optax.GradientTransformation] = {
        name: make(at(m)) for m, name in names.items()
    }
    return optax.with_extra_args_support(optax.partition(optimizers, labels))
