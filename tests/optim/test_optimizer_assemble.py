"""What is put around an optimizer, in which order, and a rate that is scaled from outside."""

import contextlib
from typing import Any

import descents
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from descents import SCHEDULE_FREE, gentle, make, one_step
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from refusals import refused

from cnn_lab.core import trees
from cnn_lab.core.errors import ConfigError
from cnn_lab.optim.assemble import (
    adaptive_clip,
    assemble,
    max_norm,
    proximal_l1,
    rate_scale_of,
    with_clipping,
    with_rate_scale,
)
from cnn_lab.optim.optimizers import OPTIMIZERS

ADJUSTABLE = [name for name in OPTIMIZERS if name not in SCHEDULE_FREE]
ONE = {"kernel": jnp.ones((1, 1))}


def stepped(optimizer, params, gradient: float = 1.0, **extra) -> tuple[Any, Any]:
    slopes = jax.tree.map(lambda p: jnp.full_like(p, gradient), params)
    updates, state = optimizer.update(slopes, optimizer.init(params), params, **extra)
    return optax.apply_updates(params, updates), state


def test_gradients_are_clipped_before_and_weights_bound_after():
    clip, bound = optax.clip(2.0), max_norm(5.0)
    optimizer = with_clipping(clip, assemble(make("sgd", 1.0), after=[bound]))
    assert stepped(optimizer, ONE, 100.0)[0]["kernel"].item() == -1.0  # 1 - 2
    optimizer = with_clipping(clip, assemble(make("sgd", 3.0), after=[bound]))
    assert stepped(optimizer, ONE, -100.0)[0]["kernel"].item() == 5.0  # 1 + 6, bound
    # Clipping after momentum, or binding before the step, would leave 1 - 0.3 v and more.
    optimizer = assemble(make("sgd", 1.0), after=[proximal_l1(0.5, lambda _: 1.0), max_norm(0.25)])
    assert stepped(optimizer, ONE, 0.0)[0]["kernel"].item() == 0.25  # drawn to 0.5 before


def test_with_nothing_around_it_the_state_is_the_optimizers():
    params = descents.convnet_params()
    plain, assembled = make("adamw", 0.1), assemble(OPTIMIZERS["adamw"].make(lambda _: 0.1))
    assert jax.tree.structure(plain.init(params)) == jax.tree.structure(assembled.init(params))


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("adjustable", [False, True])
def test_arguments_that_nobody_knows_disturb_nobody(name, adjustable):
    if adjustable and name in SCHEDULE_FREE:
        return
    base = OPTIMIZERS[name].make(lambda _: 0.01)
    optimizer = with_clipping(optax.clip_by_global_norm(1.0), assemble(base, adjustable=adjustable))
    extra = {"grad_fn": lambda p: p, "loss": 3.0, "anything": None}
    params, _ = jax.eval_shape(lambda: stepped(optimizer, ONE, **extra))
    assert params["kernel"].shape == (1, 1)


def test_the_optimizer_that_needs_grad_fn_is_known():
    for name, entry in OPTIMIZERS.items():
        optimizer = assemble(entry.make(lambda _: 0.1))
        missed = contextlib.nullcontext()
        if name == "sam":
            missed = pytest.raises(ValueError, match="needs grad_fn")
        with missed:
            jax.eval_shape(lambda optimizer=optimizer: stepped(optimizer, ONE))


def test_the_second_gradient_of_sam_is_clipped_too():
    optimizer = with_clipping(optax.clip(0.25), assemble(make("sam", 1.0)))
    params, _ = stepped(optimizer, ONE, grad_fn=lambda p: jax.tree.map(lambda x: 100 * x, p))
    assert params["kernel"].item() == 0.75


@pytest.mark.parametrize("name", ADJUSTABLE)
def test_half_the_scale_is_half_the_rate(name):
    half, scaled = gentle(name, lambda _: 0.5), assemble(gentle(name), adjustable=True)
    params = expected = {"conv": {"kernel": jnp.ones((3, 2))}, "bias": jnp.ones((2,))}
    state, half_state = with_rate_scale(scaled.init(params), 0.5), half.init(params)
    for _ in range(3):
        params, state = one_step(scaled, lambda p: p, params, state)
        expected, half_state = one_step(half, lambda p: p, expected, half_state)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), params, expected)
    assert (np.asarray(params["bias"]) < 1).all()


def test_the_scale_starts_at_1_and_is_set_without_a_trace():
    optimizer = assemble(make("momentum", 0.1), adjustable=True)
    fresh = optimizer.init(ONE)
    assert (rate_scale_of(fresh).dtype, rate_scale_of(fresh).item()) == (jnp.float32, 1.0)
    changed = with_rate_scale(fresh, 0.25)
    assert (rate_scale_of(changed).item(), rate_scale_of(fresh).item()) == (0.25, 1.0)
    assert jax.tree.structure(changed) == jax.tree.structure(fresh)
    others = [path for path in trees.flatten(fresh) if path != "rate_scale"]
    before, after = (trees.digests(state) for state in (fresh, changed))
    assert {path: before[path] for path in others} == {path: after[path] for path in others}


def test_a_new_scale_is_kept_and_compiles_nothing():
    optimizer = assemble(make("adam", 0.1), adjustable=True)
    step = jax.jit(lambda params, state: one_step(optimizer, lambda p: p, params, state))
    everywhere = NamedSharding(Mesh(jax.devices()[:2], "data"), PartitionSpec())
    params, state = jax.device_put((ONE, optimizer.init(ONE)), everywhere)
    params, state = step(params, state)
    params, state = step(params, with_rate_scale(state, 0.0))
    frozen, state = step(params, state)
    assert frozen["kernel"] == params["kernel"]
    assert rate_scale_of(state).item() == 0.0
    assert step._cache_size() == 1  # pyright: ignore[reportAttributeAccessIssue]


def test_the_scale_is_found_in_other_wrappers():
    inner = assemble(make("sgd", 0.1), adjustable=True)
    partition = optax.partition(
        {"all": inner}, lambda params: jax.tree.map(lambda _: "all", params)
    )
    state = with_rate_scale(partition.init(ONE), 0.5)
    assert rate_scale_of(state).item() == 0.5
    updates, _ = partition.update(ONE, state, ONE)
    assert trees.flatten(updates)["kernel"].item() == pytest.approx(-0.05)


def test_a_rate_that_was_not_made_adjustable_cannot_be_scaled():
    state = assemble(make("sgd", 0.1)).init(ONE)
    for function in (rate_scale_of, lambda state: with_rate_scale(state, 0.5)):
        with pytest.raises(ValueError, match="not assembled as adjustable"):
            function(state)


def test_what_comes_after_knows_the_scale():
    after = [proximal_l1(0.5, lambda _: 1.0)]
    optimizer = assemble(make("sgd", 1.0), after=after, adjustable=True)
    state = with_rate_scale(optimizer.init(ONE), 0.5)
    updates, _ = optimizer.update({"kernel": jnp.full((1, 1), 0.1)}, state, ONE)
    assert 1 + trees.flatten(updates)["kernel"].item() == pytest.approx(1 - 0.05 - 0.25)


@pytest.mark.parametrize("name", SCHEDULE_FREE)
@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"adjustable": True}, "a rate that is reduced on a plateau"),
        ({"after": [max_norm(1.0)]}, "constraints on the weights"),
    ],
)
def test_schedule_free_optimizers_refuse_what_their_averages_would_not_follow(name, options, what):
    optimizer = assemble(OPTIMIZERS[name].make(lambda _: 0.1), **options)
    with refused(ConfigError, where="config.optim.name", found=what):
        jax.eval_shape(optimizer.init, ONE)


def test_a_state_with_everything_continues_bit_for_bit():
    limits = [proximal_l1(0.01, lambda step: 0.1 / (1 + step)), max_norm(2.0)]
    optimizer = with_clipping(
        adaptive_clip(), assemble(gentle("adam"), after=limits, adjustable=True)
    )
    step = jax.jit(lambda params, state: one_step(optimizer, lambda p: p, params, state))
    params = descents.convnet_params()
    params, state = step(params, optimizer.init(params))
    straight = (params, with_rate_scale(state, 0.5))
    stored = {path: np.asarray(leaf) for path, leaf in trees.flatten(straight[1]).items()}
    structure = jax.tree.structure(jax.eval_shape(optimizer.init, params))
    resumed = (params, jax.tree.unflatten(structure, stored.values()))
    for _ in range(2):
        straight, resumed = step(*straight), step(*resumed)
    assert trees.digests(straight) == trees.digests(resumed)
    assert rate_scale_of(resumed[1]).item() == 0.5
