"""Optimizers: their first steps by hand, and what all of them promise."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cnn_lab.optim.optimizers import OPTIMIZERS, kernels_only

# Two steps of rate 0.1 from w = 1 on w^2/2, whose gradient is w, worked out with a calculator:
# (name, options) -> w after the first and the second step.
BY_HAND = {
    "sgd": ("sgd", {}, 0.9, 0.81),
    "momentum": ("momentum", {"momentum": 0.9}, 0.9, 0.72),  # v: 1, 1.8
    "momentum 0.5": ("momentum", {"momentum": 0.5}, 0.9, 0.76),  # v: 1, 1.4
    "nesterov": ("momentum", {"nesterov": True}, 0.81, 0.5751),  # steps: 1.9, 2.349
    "adam": ("adam", {}, 0.9, 0.8004122),  # second step: 0.18/0.19 / sqrt(1.809/1.999)
    "adamw": ("adamw", {"weight_decay": 0.0}, 0.9, 0.8004122),
    # The decay takes 0.1 * 0.5 * w of each step: 1 - 0.1 - 0.05, then 0.85 - 0.0992516 - 0.0425.
    "adamw decayed": ("adamw", {"weight_decay": 0.5}, 0.85, 0.7082484),
}
every_optimizer = pytest.mark.parametrize("name", OPTIMIZERS)


def make(name: str, rate: float, **options) -> Any:
    return OPTIMIZERS[name](optax.constant_schedule(rate), **options)


def descend(optimizer, params, num_steps: int):
    """Params after each step on half the sum of squares."""
    state, history = optimizer.init(params), []
    for _ in range(num_steps):
        updates, state = optimizer.update(params, state, params)
        params = optax.apply_updates(params, updates)
        history.append(params)
    return history


@pytest.mark.parametrize("case", BY_HAND)
def test_the_first_two_steps(case):
    name, options, first, second = BY_HAND[case]
    with jax.enable_x64(True):  # 1 - 0.999 alone costs float32 five digits
        history = descend(make(name, 0.1, **options), {"kernel": jnp.ones((1, 1))}, 2)
        found = [float(p["kernel"][0, 0]) for p in history]
    assert found == pytest.approx([first, second], abs=1e-7)


def test_every_optimizer_has_its_first_steps_worked_out():
    assert {name for name, *_ in BY_HAND.values()} == set(OPTIMIZERS)


@every_optimizer
def test_it_descends_a_quadratic(name):
    target = jnp.array([[3.0, -2.0]])
    optimizer = make(name, 0.05, **({"weight_decay": 0.0} if name == "adamw" else {}))

    def one(carry, _):
        params, state = carry
        updates, state = optimizer.update(params - target, state, params)
        return (optax.apply_updates(params, updates), state), None

    start = (jnp.zeros((1, 2)), optimizer.init(jnp.zeros((1, 2))))
    (params, _), _ = jax.jit(lambda: jax.lax.scan(one, start, None, length=400))()
    np.testing.assert_allclose(params, target, rtol=0, atol=1e-3)  # adam still hovers


@every_optimizer
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_it_keeps_the_type_of_the_weights(name, dtype):
    params = {"kernel": jnp.ones((2, 2), dtype), "bias": jnp.ones((2,), dtype)}
    last = descend(make(name, 0.1), params, 2)[-1]
    assert {leaf.dtype for leaf in jax.tree.leaves(last)} == {jnp.dtype(dtype)}
    assert bool(jnp.all(last["kernel"] < 1))


@every_optimizer
def test_the_rate_is_that_of_the_schedule_at_each_step(name):
    optimizer = OPTIMIZERS[name](lambda step: jnp.where(step == 1, 0.0, 0.1))
    first, second, third = descend(optimizer, {"kernel": jnp.ones((1, 1))}, 3)
    assert float(first["kernel"][0, 0]) < 1
    assert second["kernel"] == first["kernel"]
    assert third["kernel"] < second["kernel"]


def test_adamw_leaves_biases_and_norms_undecayed():
    params = {"kernel": jnp.ones((3, 2)), "bias": jnp.ones((2,)), "scale": jnp.ones(())}
    optimizer = make("adamw", 0.1, weight_decay=0.5)
    updates, _ = optimizer.update(
        jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params
    )
    assert {name: np.unique(u).tolist() for name, u in updates.items()} == {
        "kernel": [pytest.approx(-0.05, abs=1e-8)],
        "bias": [0.0],
        "scale": [0.0],
    }


def test_kernels_are_leaves_of_two_axes_and_more():
    shapes = {
        "a": jnp.ones((2, 1)),
        "b": jnp.ones((2,)),
        "c": jnp.ones(()),
        "d": jnp.ones((1, 1, 1, 1)),
    }
    assert kernels_only(shapes) == {"a": True, "b": False, "c": False, "d": True}
