"""Optimizers: their first steps by hand, and what all of them promise."""

from typing import Any

import descents
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from descents import DECAYING, RATES, SCHEDULE_FREE, descend, gentle, make

from cnn_lab.core import trees
from cnn_lab.optim.kernels import kernels_only
from cnn_lab.optim.optimizers import OPTIMIZERS
from cnn_lab.optim.schedule_free import evaluation_params

# Two steps of rate 0.1 from w = 1 on w^2/2, whose gradient is w, worked out with a calculator:
# (name, options) -> w after the first and the second step.
BY_HAND = {
    "sgd": ("sgd", {}, 0.9, 0.81),
    "momentum": ("momentum", {"momentum": 0.9}, 0.9, 0.72),  # v: 1, 1.8
    "momentum 0.5": ("momentum", {"momentum": 0.5}, 0.9, 0.76),  # v: 1, 1.4
    "nesterov": ("momentum", {"nesterov": True}, 0.81, 0.5751),  # steps: 1.9, 2.349
    "adagrad": ("adagrad", {}, 0.9, 0.8331035),  # second step: 0.9 / sqrt(1 + 0.81)
    "adagrad eps": ("adagrad", {"eps": 1.0}, 0.9292893, 0.8743737),  # sqrt(1 + 1), sqrt(2.8635786)
    # Steps: sqrt(1e-6 / 0.100001), then sqrt(2e-6 / 0.1899378) of the gradient 0.9996838.
    "adadelta": ("adadelta", {}, 0.9996838, 0.9993594),
    "rmsprop": ("rmsprop", {}, 0.6837722, 0.4988706),  # mean squares: 0.1, 0.1367544
    "rmsprop eps": ("rmsprop", {"eps": 1.0}, 0.9240253, 0.8588975),  # roots 0.3162278, 0.4187868
    # Variances: 0.1 - 0.1^2, then 0.1344444 - 0.1566667^2 = 0.1099.
    "rmsprop centered": ("rmsprop", {"centered": True}, 0.6666667, 0.4655677),
    # v: 3.1622777, then 0.9 of that + 1.8490160.
    "rmsprop momentum": ("rmsprop", {"momentum": 0.9}, 0.6837722, 0.2142656),
    "adam": ("adam", {}, 0.9, 0.8004122),  # second step: 0.18/0.19 / sqrt(1.809/1.999)
    "adamw": ("adamw", {"weight_decay": 0.0}, 0.9, 0.8004122),
    # The decay takes 0.1 * 0.5 * w of each step: 1 - 0.1 - 0.05, then 0.85 - 0.0992516 - 0.0425.
    "adamw decayed": ("adamw", {"weight_decay": 0.5}, 0.85, 0.7082484),
    # Steps: 0.9 * 0.1/0.19 + 1, then (0.9 * 0.1752632/0.271 + 0.0852632/0.19) / sqrt(0.8634220).
    "nadam": ("nadam", {}, 0.8526316, 0.7416972),
    "nadam decayed": ("nadam", {"weight_decay": 0.5}, 0.8026316, 0.6535402),
    "lion": ("lion", {}, 0.9, 0.8),  # by the rate itself
    "lion decayed": ("lion", {"weight_decay": 0.5}, 0.85, 0.7075),
    "lamb": ("lamb", {}, 0.9, 0.81),  # by the rate's share of the weight, whatever the direction
    "lars": ("lars", {"trust_coefficient": 1.0}, 0.9, 0.72),  # v: 0.1, 0.09 + 0.09
    # Five times 3.4445 x - 4.775 x^3 + 2.0315 x^5 lead from 1 to 0.6964364.
    "muon": ("muon", {}, 0.9303564, 0.8607127),
    "sam": ("sam", {"rho": 0.05}, 0.895, 0.706),  # gradients at 1.05 and 0.945; v: 1.05, 1.89
    # z: 0.9, 0.81; their average 0.9, 0.855; y is nine tenths of the way there.
    "schedule free": ("schedule_free_sgd", {}, 0.9, 0.8505),
    "schedule free decayed": ("schedule_free_sgd", {"weight_decay": 0.5}, 0.85, 0.779875),
    # z: 0.9, then 0.9 - 0.09 / sqrt(1.809/1.999) = 0.8053916.
    "schedule free adamw": ("schedule_free_adamw", {}, 0.9, 0.8479654),
}
every_optimizer = pytest.mark.parametrize("name", OPTIMIZERS)


@pytest.mark.parametrize("case", BY_HAND)
def test_the_first_two_steps(case):
    name, options, first, second = BY_HAND[case]
    with jax.enable_x64(True):  # 1 - 0.999 alone costs float32 five digits
        history = descend(make(name, 0.1, **options), {"kernel": jnp.ones((1, 1))}, 2)
        found = [float(p["kernel"][0, 0]) for p in history]
    assert found == pytest.approx([first, second], abs=1e-7)


def test_every_optimizer_has_its_first_steps_worked_out():
    assert {name for name, *_ in BY_HAND.values()} == set(OPTIMIZERS) == set(RATES)


@every_optimizer
@pytest.mark.parametrize("condition", [1, 100])
def test_it_finds_the_minimum_of_least_squares(name, condition):
    singular_values = (2.0, 2.0, 2.0, 2.0) if condition == 1 else (2.0, 1.2, 0.6, 0.2)
    loss, start = descents.least_squares(singular_values)
    optimizer = descents.settling(name, 1000)
    params, state = descents.descend_compiled(optimizer, start, 1000, jax.grad(loss))
    if name in SCHEDULE_FREE:
        params = evaluation_params(state, params)
    assert loss(params) < 1e-6 * loss(start)


@every_optimizer
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_it_keeps_the_type_of_weights_and_state(name, dtype):
    (init, step), params = descents.compiled(name, dtype), descents.convnet_params(dtype)
    before = (params, jax.eval_shape(init, params))
    after = jax.eval_shape(step, *before, 1.0)
    assert jax.tree.map(kind, before) == jax.tree.map(kind, after)


@every_optimizer
def test_all_parameters_descend_and_the_second_call_compiles_nothing(name):
    (init, step), params = descents.compiled(name), descents.convnet_params()
    state = init(params)
    for _ in range(3):
        params, state = step(params, state, 1.0)
    assert step._cache_size() == 1
    moved = {path: bool((np.asarray(p) < 1).all()) for path, p in trees.flatten(params).items()}
    assert all(moved.values()), moved


def kind(leaf: Any) -> tuple[Any, Any]:
    return leaf.shape, leaf.dtype


@every_optimizer
def test_a_state_saved_as_arrays_continues_bit_for_bit(name):
    (init, step), params = descents.compiled(name), descents.convnet_params()
    straight = saved = step(params, init(params), 1.0)
    # What lies on disk is named by paths and holds arrays; the structure is the optimizer's.
    stored = {path: np.asarray(leaf) for path, leaf in trees.flatten(saved[1]).items()}
    assert len(stored) == len(jax.tree.leaves(saved[1]))
    structure = jax.tree.structure(jax.eval_shape(init, params))
    resumed = (saved[0], jax.tree.unflatten(structure, stored.values()))
    for _ in range(2):
        straight, resumed = step(*straight, 1.0), step(*resumed, 1.0)
    assert trees.digests(straight) == trees.digests(resumed)
    assert trees.digests(straight[0]) != trees.digests(saved[0])


@every_optimizer
def test_the_rate_is_that_of_the_schedule_at_each_step(name):
    # The velocity of lars has the rates of earlier steps in it, by its paper.
    options = {"momentum": 0.0} if name == "lars" else {}
    optimizer = gentle(name, lambda step: jnp.where(step == 1, 0.0, 1.0), **options)
    first, second, third = descend(optimizer, {"kernel": jnp.ones((1, 1))}, 3)
    assert float(first["kernel"][0, 0]) < 1
    assert second["kernel"] == first["kernel"]
    assert third["kernel"] < second["kernel"]


@every_optimizer
def test_a_rate_of_zero_at_first_leaves_the_weights(name):
    # So begins every warm-up.
    optimizer = gentle(name, lambda step: jnp.where(step == 0, 0.0, 1.0))
    first, second = descend(optimizer, {"kernel": jnp.ones((1, 1))}, 2)
    assert first["kernel"].item() == 1.0
    assert second["kernel"].item() < 1


@every_optimizer
def test_gradients_of_zero_leave_finite_weights(name):
    (init, step), params = descents.compiled(name), descents.convnet_params()
    state = init(params)
    for _ in range(2):
        params, state = step(params, state, 0.0)
    assert trees.first_non_finite(params) is None


@pytest.mark.parametrize("name", DECAYING)
def test_decay_leaves_biases_and_norms_alone(name):
    init, step = descents.compiled(name)
    params = descents.convnet_params()
    decayed, _ = step(params, init(params), 0.0)
    for path, leaf in trees.flatten(decayed).items():
        found = np.asarray(leaf)
        assert (found < 1 if path.endswith("kernel") else found == 1).all(), path


@pytest.mark.parametrize("name", DECAYING)
def test_decay_takes_biases_and_norms_too_where_it_is_asked_to(name):
    params = descents.convnet_params()
    optimizer = make(name, 0.1, weight_decay=0.5, decay_vectors=True)
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zeros, optimizer.init(params), params)
    for path, leaf in trees.flatten(updates).items():
        assert (np.asarray(leaf) < 0).all(), path


def test_optimizers_with_a_decay_are_known():
    assert set(DECAYING) == {
        *("adamw", "lamb", "lars", "lion", "muon", "nadam"),
        *("schedule_free_adamw", "schedule_free_sgd"),
    }


@pytest.mark.parametrize("name", ["adamw", "lion", "nadam"])
def test_the_decay_is_that_share_of_the_rate(name):
    params = {"kernel": jnp.ones((3, 2)), "bias": jnp.ones((2,)), "scale": jnp.ones(())}
    optimizer = make(name, 0.1, weight_decay=0.5)
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zeros, optimizer.init(params), params)
    assert {name: np.unique(u).tolist() for name, u in trees.flatten(updates).items()} == {
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
        "bias": jnp.ones((2, 1)),  # of a layer without shared weights
    }
    kernels = {"a": True, "b": False, "c": False, "d": True, "bias": False}
    assert kernels_only(shapes) == kernels


@pytest.mark.parametrize("spread", [1e-2, 1e-4, 1e-6])
def test_centred_rmsprop_knows_a_deviation_far_below_the_mean(spread):
    # Its squares differ from the square of the mean by less than float32 tells apart.
    random = np.random.default_rng(0)
    gradients = np.array([0.3, 1.7, 5.0]) * (1 + spread * random.normal(size=(600, 3)))
    optimizer = OPTIMIZERS["rmsprop"].make(optax.constant_schedule(1.0), centered=True)

    def steps(gradients):
        def one(state, gradient):
            updates, state = optimizer.update(gradient, state)
            return state, updates

        return jax.lax.scan(one, optimizer.init(gradients[0]), gradients)[1]

    found = np.asarray(jax.jit(steps)(jnp.asarray(gradients, jnp.float32)))
    mean = square = np.zeros(3)
    exact = []
    for gradient in gradients:
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.9 * square + 0.1 * gradient**2
        exact.append(-gradient / np.sqrt(square - mean**2))
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, exact, rtol=1e-6 + 5e-7 / spread)


def test_gradients_that_do_not_vary_at_all_take_steps_that_eps_bounds():
    optimizer = OPTIMIZERS["rmsprop"].make(optax.constant_schedule(1.0), centered=True, eps=1e-2)
    gradient = jnp.array([0.3, 1.7, 5.0])
    updates, state = gradient, optimizer.init(gradient)
    update = jax.jit(optimizer.update)
    for _ in range(600):
        updates, state = update(gradient, state)
    np.testing.assert_allclose(updates, -100 * gradient, rtol=1e-3)


def test_centred_rmsprop_keeps_the_type_of_weights_and_state():
    params = {"kernel": jnp.ones((2, 2), jnp.bfloat16)}
    optimizer = OPTIMIZERS["rmsprop"].make(
        optax.constant_schedule(1.0), centered=True, momentum=0.9
    )
    before = (params, jax.eval_shape(optimizer.init, params))
    after = jax.eval_shape(optimizer.update, *before)
    assert jax.tree.map(kind, before) == jax.tree.map(kind, after)
