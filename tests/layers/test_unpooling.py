"""The way back from pooled maps undoes what went before, exactly where it can."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from refusals import refused

from cnn_lab.core import trees
from cnn_lab.core.errors import ConfigError
from cnn_lab.layers.factory import initializer
from cnn_lab.layers.pooling import average_pool, max_pool
from cnn_lab.layers.unpooling import (
    ConvTranspose,
    max_pool_with_indices,
    max_unpool,
    nearest_unpool,
)


def normal(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def test_nearest_unpooling_repeats_pixels():
    maps = jnp.asarray([[1.0, 2], [3, 4]])[None, :, :, None]
    wanted = [[1, 1, 1, 2, 2, 2], [3, 3, 3, 4, 4, 4]]
    np.testing.assert_array_equal(nearest_unpool(maps, (1, 3))[0, :, :, 0], wanted)


@pytest.mark.parametrize("space", [(4,), (3, 5), (2, 3, 2)])
def test_pooling_takes_back_nearest_unpooling(space):
    maps = normal(2, *space, 3)
    larger = nearest_unpool(maps, 3)
    assert larger.shape == (2, *(3 * s for s in space), 3)
    np.testing.assert_array_equal(max_pool(larger, 3), maps)
    np.testing.assert_allclose(average_pool(larger, 3), maps, atol=1e-6)


@pytest.mark.parametrize(
    ("window", "strides", "padding"), [(2, None, 0), (3, 2, 1), (3, 1, 0), ((2, 3), (1, 3), (1, 0))]
)
def test_the_remembered_maxima_are_those_of_pooling(window, strides, padding):
    maps = jnp.round(2 * normal(2, 7, 6, 3))  # with ties
    values, indices = max_pool_with_indices(maps, window, strides, padding)
    np.testing.assert_array_equal(values, max_pool(maps, window, strides, padding))
    flat = maps.reshape(2, 42, 3)
    taken = jnp.take_along_axis(flat, indices.reshape(2, -1, 3), 1)
    np.testing.assert_array_equal(taken.reshape(values.shape), values)
    # The gradient of pooling says which of equal pixels is the first.
    won = jax.grad(lambda x: max_pool(x, window, strides, padding).sum())(maps)
    counts = np.zeros((2, 42, 3))
    for n, i, j, c in itertools.product(*map(range, indices.shape)):
        counts[n, indices[n, i, j, c], c] += 1
    np.testing.assert_array_equal(won.reshape(2, 42, 3), counts)


def test_max_unpooling_puts_values_back_and_zeros_elsewhere():
    maps = jnp.abs(normal(2, 6, 8, 3)) + 1
    values, indices = max_pool_with_indices(maps, 2)
    back = max_unpool(values, indices, (6, 8))
    kept = np.asarray(back) != 0
    assert kept.sum() == values.size
    np.testing.assert_array_equal(np.where(kept, maps, 0), back)
    again, places = max_pool_with_indices(back, 2)
    np.testing.assert_array_equal(again, values)
    np.testing.assert_array_equal(places, indices)


@pytest.mark.parametrize("space", [(6,), (4, 6), (2, 4, 6)])
@pytest.mark.parametrize("tile", [None, 2])
def test_maxima_are_remembered_along_one_to_three_axes(space, tile):
    maps = jnp.abs(normal(2, *space, 3)) + 1
    values, indices = max_pool_with_indices(maps, 2)
    np.testing.assert_array_equal(values, max_pool(maps, 2))
    back = max_unpool(values, indices, space, tile)
    won = jax.grad(lambda x: max_pool(x, 2).sum())(maps)
    np.testing.assert_array_equal(back, won * maps)


def test_a_window_that_hangs_over_remembers_its_maximum_too():
    maps = jnp.arange(1.0, 6).reshape(1, 5, 1)
    values, indices = max_pool_with_indices(maps, 2, ceil_mode=True)
    assert values[0, :, 0].tolist() == [2, 4, 5]
    assert indices[0, :, 0].tolist() == [1, 3, 4]
    assert max_unpool(values, indices, (5,))[0, :, 0].tolist() == [0, 2, 0, 4, 5]


@pytest.mark.parametrize(("size", "tile"), [((4,), None), ((1, 4), None), ((4, 3), 2)])
def test_a_size_that_was_never_pooled_is_refused(size, tile):
    values, indices = max_pool_with_indices(normal(1, 4, 4, 2), 2)
    allowed = "the size of the map that was pooled"
    with refused(ConfigError, where="size", found=size, allowed=allowed):
        max_unpool(values, indices, size, tile)


def test_the_gradient_passes_through_remembered_maxima():
    maps = normal(1, 4, 4, 2)

    def energy(x):
        values, indices = max_pool_with_indices(x, 2)
        return jnp.square(max_unpool(values, indices, (4, 4))).sum() / 2

    values, indices = max_pool_with_indices(maps, 2)
    np.testing.assert_array_equal(jax.grad(energy)(maps), max_unpool(values, indices, (4, 4)))


# space, kernel, strides, padding, output padding, dilation
TRANSPOSED = [
    ((5,), (3,), 1, 0, 0, 1),
    ((5,), (4,), 2, 1, 0, 1),
    ((5,), (3,), 3, 1, 2, 2),
    ((4, 5), (3, 3), 2, 1, 1, 1),
    ((4, 5), (2, 2), 2, 0, 0, 1),
    ((4, 5), (3, 2), (3, 2), 0, 0, 1),
    ((4, 5), (2, 3), (1, 3), (1, 0), (0, 2), (1, 2)),
    ((4, 3), (5, 5), 1, 2, 0, 1),
    ((3, 4), (2, 2), 3, 0, 0, 1),
    ((3, 4), (1, 1), 2, 0, 1, 1),
    ((2, 3, 2), (2, 2, 2), 2, 0, 0, 1),
    ((2, 3, 2), (3, 3, 3), 2, 1, 1, 1),
]


@pytest.mark.parametrize("case", TRANSPOSED, ids=str)
def test_transposed_convolution_is_the_adjoint_of_convolution(case):
    space, kernel, strides, padding, extra, dilation = case
    axes = len(space)
    each = lambda value: (value,) * axes if isinstance(value, int) else value  # noqa: E731
    maps, weights = normal(2, *space, 3), normal(*kernel, 3, 4, seed=1)
    module = ConvTranspose(4, kernel, strides, padding, extra, dilation)
    variables = {"params": {"kernel": weights, "bias": jnp.asarray([1.0, 2, 3, 4])}}
    found = module.apply(variables, maps)
    sizes = [
        (size - 1) * s - 2 * p + d * (k - 1) + e + 1
        for size, k, s, p, e, d in zip(
            *(space, kernel, each(strides), each(padding), each(extra), each(dilation)), strict=True
        )
    ]
    assert isinstance(found, jax.Array)
    assert found.shape == (2, *sizes, 4)
    letters = "DHW"[-axes:]

    def convolution(larger):  # [n *larger 4] to [n *space 3], of which this is the gradient
        return lax.conv_general_dilated(
            larger,
            jnp.swapaxes(weights, -1, -2),
            each(strides),
            [(p, p) for p in each(padding)],
            rhs_dilation=each(dilation),
            dimension_numbers=(f"N{letters}C", f"{letters}IO", f"N{letters}C"),
        )

    smaller, back = jax.vjp(convolution, jnp.zeros(found.shape))
    assert smaller.shape == maps.shape
    bias = jnp.asarray([1.0, 2, 3, 4]).reshape(*(1,) * (axes + 1), 4)
    np.testing.assert_allclose(found, back(maps)[0] + bias, atol=2e-5)


def test_both_ways_of_computing_it_agree():
    module: Any = ConvTranspose(4, (2, 3), (2, 3))
    padded: Any = ConvTranspose(4, (2, 3), (2, 3), output_padding=1)  # no longer side by side
    maps = normal(2, 4, 5, 3)
    variables = module.init(jax.random.key(0), maps)
    shapes = {path: leaf.shape for path, leaf in trees.flatten(variables).items()}
    assert shapes == {"params/kernel": (2, 3, 3, 4), "params/bias": (4,)}
    slow = padded.apply(variables, maps)[:, :-1, :-1]
    np.testing.assert_allclose(module.apply(variables, maps), slow, atol=1e-5)
    for each, number in ((module, 0), (padded, 1)):
        program = str(jax.make_jaxpr(each.apply)(variables, maps))
        assert program.count("conv_general_dilated[") == number


def test_one_kernel_per_pixel_by_hand():
    module = ConvTranspose(1, 3, 2, use_bias=False)
    variables = {"params": {"kernel": jnp.asarray([1.0, 2, 3])[:, None, None]}}
    found = module.apply(variables, jnp.asarray([1.0, 10])[None, :, None])
    assert isinstance(found, jax.Array)
    assert found.ravel().tolist() == [1, 2, 3 + 10, 20, 30]  # not flipped


@pytest.mark.parametrize(("init", "gain"), [("he_normal", 2), ("glorot_uniform", 2 / (1 + 4))])
def test_patches_side_by_side_are_drawn_by_the_weights_that_meet_in_a_pixel(init, gain):
    module = ConvTranspose(256, 2, 2, kernel_init=initializer(init))
    maps, _ = module.init_with_output(jax.random.key(0), normal(4, 4, 4, 256))
    assert isinstance(maps, jax.Array)
    assert float(jnp.square(maps).mean()) == pytest.approx(gain, rel=0.1)


def test_parameters_stay_float32_in_bfloat16():
    module = ConvTranspose(4, 2, 2, dtype="bfloat16")
    maps, variables = module.init_with_output(jax.random.key(0), jnp.ones((1, 3, 3, 2)))
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
    assert maps.dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("options", "allowed"),
    [
        (
            {"strides": 2, "output_padding": 2},
            "below the strides, 2x2, or the dilation, 1x1",
        ),
        (
            {"padding": 3},
            "low enough for the transposed convolution to leave a pixel of 3x3",
        ),
        ({"strides": (1, 2, 3)}, "a number of at least 1, or 2 of them"),
    ],
)
def test_what_cannot_be_is_refused(options, allowed):
    where, found = list(options.items())[-1]
    with refused(ConfigError, where=where, found=found, allowed=allowed):
        ConvTranspose(1, 2, **options).init(jax.random.key(0), jnp.ones((1, 3, 3, 1)))
