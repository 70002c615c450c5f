"""Shares, expectations and gradients of random removal; nothing but a scale in evaluation."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import refused

from cnn_lab.core.errors import ConfigError
from cnn_lab.layers.dropout import DropBlock, DropConnect, DropConnectConv, Dropout, DropPath, keep

KEY = jax.random.key(0)


def apply(module, variables, x, seed: int = 0, *, train: bool = True) -> jax.Array:
    rngs = {"dropout": jax.random.key(seed)} if train else {}
    return module.apply(variables, x, train=train, rngs=rngs)


def deviations(found: float, wanted: float, number: int) -> float:
    """Standard deviations between a share of `number` draws and the wanted one."""
    return abs(found - wanted) / (wanted * (1 - wanted) / number) ** 0.5


MODULES: dict[str, Any] = {
    "path": DropPath(0.4),
    "block": DropBlock(0.4, 2),
    "connect": DropConnect(5, 0.4),
    "connect_conv": DropConnectConv(5, 0.4),
}


@pytest.mark.parametrize("name", MODULES)
def test_evaluation_needs_no_randomness_and_changes_nothing(name):
    module, x = MODULES[name], jax.random.normal(KEY, (3, 6, 6, 2))
    variables = module.init(KEY, x, train=False)
    plain = module.clone(rate=0.0)
    np.testing.assert_array_equal(
        apply(module, variables, x, train=False), apply(plain, variables, x)
    )
    if not variables:
        np.testing.assert_array_equal(apply(module, variables, x, train=False), x)


@pytest.mark.parametrize("name", MODULES)
def test_the_same_key_draws_the_same_and_another_does_not(name):
    module, x = MODULES[name], jax.random.normal(KEY, (8, 6, 6, 2))
    variables = module.init(KEY, x, train=False)
    first, again, other = (apply(module, variables, x, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("rate", [-0.1, 1.0, math.nan])
@pytest.mark.parametrize("name", [*MODULES, "dropout"])
def test_a_rate_that_leaves_nothing_or_is_none_is_refused(name, rate):
    module, x = {**MODULES, "dropout": Dropout(0.5)}[name], jnp.ones((3, 6, 6, 2))
    variables = module.init(KEY, x, train=False)
    with refused(ConfigError, found=rate, allowed="at least 0 and below 1"):
        apply(module.clone(rate=rate), variables, x)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_mask_keeps_its_share(share):
    assert deviations(float(keep(KEY, (100, 400), share).mean()), share, 40_000) < 4


def test_a_path_is_removed_for_whole_examples():
    y = np.asarray(apply(DropPath(0.3), {}, jnp.ones((4000, 2, 3))))
    each = y.reshape(4000, -1)
    assert (each == each[:, :1]).all()
    np.testing.assert_allclose(np.unique(each), [0, 1 / 0.7], rtol=1e-6)
    assert deviations((each[:, 0] == 0).mean(), 0.3, 4000) < 4
    assert y.mean() == pytest.approx(1, abs=4 * (0.3 / 0.7 / 4000) ** 0.5)  # as in evaluation


def test_the_gradient_of_a_path_is_its_mask():
    x = jax.random.normal(KEY, (16, 3))
    gradient = jax.grad(lambda x: apply(DropPath(0.5), {}, x).sum())(x)
    np.testing.assert_array_equal(gradient, apply(DropPath(0.5), {}, jnp.ones((16, 3))))


def test_weights_are_dropped_one_by_one():
    module, x = DropConnect(300, 0.25), jnp.eye(200)  # shows the kernel
    variables = module.init(KEY, x, train=False)
    kernel = np.asarray(variables["params"]["kernel"])
    dropped = np.asarray(apply(module, variables, x))
    zero = dropped == 0
    assert deviations(zero.mean(), 0.25, zero.size) < 4
    np.testing.assert_allclose(dropped[~zero], kernel[~zero] / 0.75, rtol=1e-6)
    # Every output and every input keeps and loses some: nothing is dropped in rows or columns.
    assert 0 < zero.mean(0).min() <= zero.mean(0).max() < 1
    assert 0 < zero.mean(1).min() <= zero.mean(1).max() < 1


def test_the_mean_of_many_drop_connects_is_the_evaluation():
    module, x = DropConnect(3, 0.5), jax.random.normal(KEY, (2, 10))
    variables = module.init(KEY, x, train=False)
    many = jax.vmap(lambda seed: apply(module, variables, x, seed))(jnp.arange(4000))
    error = np.abs(many.mean(0) - apply(module, variables, x, train=False))
    assert (error < 4.5 * np.asarray(many).std(0) / 4000**0.5).all()


def test_dropped_weights_get_no_gradient():
    module, x = DropConnect(8, 0.5), jax.random.normal(KEY, (4, 6))
    variables = module.init(KEY, x, train=False)
    gradient = jax.grad(lambda v: apply(module, v, x).sum())(variables)["params"]["kernel"]
    shown = apply(module, variables, jnp.eye(6))
    np.testing.assert_array_equal(np.asarray(gradient) == 0, np.asarray(shown) == 0)


def test_a_convolution_drops_weights_of_its_kernel():
    module = DropConnectConv(50, 0.25, 3, padding="VALID")
    x = jnp.eye(9 * 4).reshape(36, 3, 3, 4)  # each example shows one weight of every feature
    variables = module.init(KEY, x, train=False)
    kernel = np.asarray(variables["params"]["kernel"]).reshape(36, 50)
    shown = np.asarray(apply(module, variables, x)).reshape(36, 50)
    zero = np.abs(shown) < 1e-7
    assert deviations(zero.mean(), 0.25, zero.size) < 4
    np.testing.assert_allclose(shown[~zero], kernel[~zero] / 0.75, atol=1e-6)
    strided = DropConnectConv(5, 0.25, (3, 1), 2, 1)
    assert strided.init_with_output(KEY, x, train=False)[0].shape == (36, 2, 3, 5)


@pytest.mark.parametrize(("size", "side"), [(1, 8), (3, 12), (4, 4)])
def test_blocks_are_squares_of_about_the_rate(size, side):
    shape = (200, side, side, 8)
    y = np.asarray(apply(DropBlock(0.1, size), {}, jnp.ones(shape)))
    gone = y == 0
    # Every dropped pixel lies in a whole dropped block.
    whole = np.zeros(shape, bool)
    inside = side - size + 1
    corners = np.ones((200, inside, inside, 8), bool)
    for i in range(size):
        for j in range(size):
            corners &= gone[:, i : i + inside, j : j + inside]
    for i in range(size):
        for j in range(size):
            whole[:, i : i + inside, j : j + inside] |= corners
    np.testing.assert_array_equal(gone, whole)
    # Equation 1 counts overlaps twice, so that a little less than the rate is gone.
    deviation = (0.1 * 0.9 / (200 * 8 * (side // size) ** 2)) ** 0.5
    minimum = 0.08 if size == 3 else 0.1 - 4 * deviation
    assert minimum < gone.mean() < 0.1 + 4 * deviation
    np.testing.assert_allclose(y.mean((0, 1, 2), dtype=np.float64), 1, rtol=1e-6)


def test_the_gradient_of_a_block_is_its_mask():
    x = jax.random.normal(KEY, (2, 6, 6, 3))
    module = DropBlock(0.3, 3)
    gradient = jax.grad(lambda x: apply(module, {}, x).sum())(x)
    np.testing.assert_array_equal(gradient, apply(module, {}, jnp.ones_like(x)))


def test_a_block_larger_than_the_map_is_refused():
    allowed = "at most 6 for a drop-block in a map of 6x9"
    with refused(ConfigError, where="block_size", found=7, allowed=allowed):
        apply(DropBlock(0.1), {}, jnp.ones((1, 6, 9, 1)))


@pytest.mark.parametrize("name", ["connect", "connect_conv"])
def test_parameters_stay_float32_in_bfloat16(name):
    module = MODULES[name].clone(dtype="bfloat16")
    variables = module.init(KEY, jnp.ones((2, 6, 6, 2)), train=False)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
    assert apply(module, variables, jnp.ones((2, 6, 6, 2))).dtype == jnp.bfloat16


def drop(x, rate: float, seed: int = 1):
    dropped: Any = Dropout(rate).apply({}, x, train=True, rngs={"dropout": jax.random.key(seed)})
    return dropped


def test_values_are_dropped_or_scaled_and_the_mean_stays():
    y = np.asarray(drop(jnp.ones((1000, 100)), 0.3))
    np.testing.assert_allclose(np.unique(y), [0, 1 / 0.7], rtol=1e-6)
    # 100,000 draws: the share has a standard deviation of 0.0015.
    assert abs((y == 0).mean() - 0.3) < 0.006


@pytest.mark.parametrize(("rate", "train"), [(0.5, False), (0.0, True)])
def test_nothing_is_dropped_in_evaluation_or_at_rate_zero(rate, train):
    x = jnp.arange(6.0)
    np.testing.assert_array_equal(Dropout(rate).apply({}, x, train=train), x)


def test_the_gradient_passes_where_the_value_did():
    x = jnp.ones((50,))
    np.testing.assert_array_equal(jax.grad(lambda x: drop(x, 0.5).sum())(x), drop(x, 0.5))


def test_bfloat16_stays_bfloat16():
    assert drop(jnp.ones((8,), jnp.bfloat16), 0.5).dtype == jnp.bfloat16


@pytest.mark.parametrize("rate", [0.0, 0.25, 0.5])
def test_the_scaling_of_2014_is_the_same_in_expectation(rate):
    """Section 4 of Srivastava et al. 2014: p times the weights in evaluation."""
    x = jnp.linspace(0.5, 2.0, 8)[None]

    def mean_of(scaling: str, train: bool):
        layer: Any = Dropout(rate, scaling)  # pyright: ignore[reportArgumentType]
        keys = jax.random.split(jax.random.key(0), 4096)
        apply = lambda key: layer.apply({}, x, train=train, rngs={"dropout": key})  # noqa: E731
        return np.asarray(jax.jit(jax.vmap(apply))(keys).mean(axis=0) / x)

    # Each mean of 4096 draws is within five of its standard deviations.
    error = 5 * np.sqrt(rate / (1 - rate) / 4096) + 1e-6
    np.testing.assert_allclose(mean_of("training", True), 1, atol=error)
    np.testing.assert_allclose(mean_of("training", False), 1, atol=1e-6)
    np.testing.assert_allclose(mean_of("evaluation", True), 1 - rate, atol=error)
    np.testing.assert_allclose(mean_of("evaluation", False), 1 - rate, atol=1e-6)


def test_the_scaling_of_2014_keeps_values_as_they_are_in_training():
    x = jnp.full((1000,), 3.0)
    layer: Any = Dropout(0.5, "evaluation")
    found = layer.apply({}, x, train=True, rngs={"dropout": jax.random.key(0)})
    assert set(found.tolist()) == {0.0, 3.0}
