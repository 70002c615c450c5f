"""Pooling, on the syllabus's example and at its edges."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import refused

from cnn_lab.core.errors import ConfigError
from cnn_lab.layers.channels import maxout
from cnn_lab.layers.pooling import (
    adaptive_average_pool,
    average_pool,
    global_average_pool,
    global_max_pool,
    lp_pool,
    max_pool,
    stochastic_pool,
)
from cnn_lab.layers.unpooling import max_pool_with_indices

POOLINGS = {"average": average_pool, "max": max_pool}

EXAMPLE = [[1, 9, 2, 4], [5, 7, 8, 1], [3, 2, 1, 3], [6, 1, 4, 5]]


def as_images(rows) -> jax.Array:
    return jnp.asarray(rows, jnp.float32)[None, :, :, None]


def as_rows(images: jax.Array) -> list:
    return images[0, :, :, 0].tolist()


def test_the_syllabus_example():
    assert as_rows(max_pool(as_images(EXAMPLE), 2)) == [[9, 8], [6, 5]]
    assert as_rows(average_pool(as_images(EXAMPLE), 2)) == [[5.5, 3.75], [3, 3.25]]


def test_the_gradients_of_the_syllabus_example():
    weights = as_images([[1, 2], [3, 4]])
    gradient = lambda pool: as_rows(  # noqa: E731
        jax.grad(lambda x: jnp.sum(pool(x, 2) * weights))(as_images(EXAMPLE))
    )
    won = [[0, 1, 0, 0], [0, 0, 2, 0], [0, 0, 0, 0], [3, 0, 0, 4]]
    shared = [[0.25, 0.25, 0.5, 0.5]] * 2 + [[0.75, 0.75, 1, 1]] * 2
    assert gradient(max_pool) == won
    assert gradient(average_pool) == shared


@pytest.mark.parametrize(
    ("tied", "winner"),
    [
        ([[5, 5], [5, 5]], [[1, 0], [0, 0]]),
        ([[1, 5], [5, 5]], [[0, 1], [0, 0]]),
        ([[1, 2], [5, 5]], [[0, 0], [1, 0]]),
        ([[-5, -7], [-6, -5]], [[1, 0], [0, 0]]),
    ],
)
def test_on_a_tie_the_first_in_reading_order_gets_the_whole_gradient(tied, winner):
    gradient = jax.grad(lambda x: jnp.sum(max_pool(x, 2)))(as_images(tied))
    assert as_rows(gradient) == winner


@pytest.mark.parametrize("window", [1, 2, 3])
@pytest.mark.parametrize("name", POOLINGS)
def test_it_equals_a_plain_loop_and_drops_what_is_left_over(name, window):
    images = np.random.default_rng(0).normal(size=(2, 7, 5, 3)).astype(np.float32)
    reduce = {"max": np.max, "average": np.mean}[name]
    wanted = np.stack(
        [
            [
                reduce(images[:, i : i + window, j : j + window], axis=(1, 2))
                for j in range(0, 5 - window + 1, window)
            ]
            for i in range(0, 7 - window + 1, window)
        ]
    ).transpose(2, 0, 1, 3)
    found = jax.jit(lambda x: POOLINGS[name](x, window))(images)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=3e-7)  # one rounding of a mean of 9


@pytest.mark.parametrize("name", POOLINGS)
def test_what_is_left_over_gets_no_gradient(name):
    images = jnp.ones((1, 5, 3, 1))
    gradient = jax.grad(lambda x: jnp.sum(POOLINGS[name](x, 2)))(images)
    assert as_rows(gradient)[4] == [0, 0, 0]
    assert [row[2] for row in as_rows(gradient)] == [0] * 5
    assert float(gradient.sum()) == 2.0


@pytest.mark.parametrize("name", POOLINGS)
@pytest.mark.parametrize("window", [2, 3])
def test_the_gradient_equals_autodiff_of_a_windowed_reduction(name, window):
    images = jax.random.normal(jax.random.key(0), (2, 6, 6, 3))
    weights = jax.random.normal(jax.random.key(1), (2, 6 // window, 6 // window, 3))
    sides = (1, window, window, 1)

    def reference(x):
        if name == "max":
            return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, sides, sides, "VALID")
        return jax.lax.reduce_window(x, 0.0, jax.lax.add, sides, sides, "VALID") / window**2

    ours, wanted = (
        jax.jit(jax.grad(lambda x, pool=pool: jnp.sum(pool(x) * weights)))(images)
        for pool in (lambda x: POOLINGS[name](x, window), reference)
    )
    np.testing.assert_allclose(ours, wanted, rtol=0, atol=3e-7)


@pytest.mark.parametrize("name", POOLINGS)
@pytest.mark.parametrize("shape", [(3, 8), (8, 3), (3, 3)])
def test_a_window_larger_than_the_map_is_refused(name, shape):
    found = f"{shape[0]}x{shape[1]}"
    with refused(ConfigError, where="config.data.image_size", found=found):
        POOLINGS[name](jnp.ones((1, *shape, 2)), 4)


def winners(maps: np.ndarray, window: int, strides: int, padding: int) -> np.ndarray:
    """Number of windows that each pixel [h w] wins, the first in reading order on ties."""
    height, width = maps.shape
    wins = np.zeros(maps.shape)
    for i in range(-padding, height + padding - window + 1, strides):
        for j in range(-padding, width + padding - window + 1, strides):
            rows = range(max(0, i), min(height, i + window))
            columns = range(max(0, j), min(width, j + window))
            places = [(row, column) for row in rows for column in columns]
            wins[max(places, key=lambda place: maps[place])] += 1  # max keeps the first
    return wins


@pytest.mark.parametrize(
    ("window", "strides", "padding"),
    [(2, 2, 0), (3, 1, 0), (3, 2, 1), (3, 2, 0), (2, 1, 1), (5, 5, 0)],
)
def test_the_gradient_goes_to_the_first_winner_also_where_windows_overlap(window, strides, padding):
    maps = np.random.default_rng(0).integers(-2, 2, (10, 10)).astype(np.float32)  # many ties
    gradient = jax.grad(lambda x: max_pool(x, window, strides, padding).sum())(as_images(maps))
    np.testing.assert_array_equal(gradient[0, :, :, 0], winners(maps, window, strides, padding))


def test_padding_never_wins():
    maps = as_images([[-5.0, -6.0], [-7.0, -8.0]])
    assert as_rows(max_pool(maps, 2, 1, 1)) == [[-5, -5, -6], [-5, -5, -6], [-7, -7, -8]]


def test_the_gradient_of_average_pooling_with_padding_is_its_adjoint():
    maps = jax.random.normal(jax.random.key(0), (1, 5, 6, 2))
    for options in ({}, {"count_padding": False}, {"ceil_mode": True}):
        pool = lambda x, options=options: average_pool(x, 3, 2, 1, **options)  # noqa: E731
        pooled, back = jax.vjp(pool, maps)
        # Pooling is linear: <pool(x), pool(x)> = <x, adjoint(pool(x))>.
        np.testing.assert_allclose(jnp.vdot(pooled, pooled), jnp.vdot(maps, back(pooled)[0]), 1e-5)


def test_lp_pooling_lies_between_sum_and_maximum():
    maps = as_images([[3, -4], [0, 0]])
    for power, wanted in ((1.0, 7), (2.0, 5), (3.0, 91 ** (1 / 3)), (40.0, 4)):
        assert float(lp_pool(maps, 2, power=power)[0, 0, 0, 0]) == pytest.approx(wanted, rel=1e-4)
    zero = jax.grad(lambda x: lp_pool(x, 2).sum())(jnp.zeros((1, 2, 2, 1)))
    np.testing.assert_array_equal(zero, np.zeros((1, 2, 2, 1)))
    gradient = jax.grad(lambda x: lp_pool(x, 2).sum())(maps)
    np.testing.assert_allclose(as_rows(gradient), [[0.6, -0.8], [0, 0]], rtol=1e-6)
    where, allowed = "The power of lp_pool", "at least 1 and finite"
    for power in (0.5, math.inf):
        with refused(ConfigError, where=where, found=power, allowed=allowed):
            lp_pool(maps, 2, power=power)


def test_stochastic_pooling_draws_in_proportion():
    many = jnp.tile(as_images([[1, 2], [0, 5]]), (4000, 1, 1, 1))
    drawn = np.asarray(stochastic_pool(many, 2, jax.random.key(0))).ravel()
    for value, share in ((1, 1 / 8), (2, 2 / 8), (5, 5 / 8)):
        deviation = (share * (1 - share) / 4000) ** 0.5
        assert (drawn == value).mean() == pytest.approx(share, abs=4 * deviation)
    assert {*drawn} == {1, 2, 5}
    expected = stochastic_pool(many[:1], 2)
    assert as_rows(expected) == [[pytest.approx((1 + 4 + 25) / 8)]]
    assert as_rows(stochastic_pool(jnp.zeros((1, 2, 2, 1)), 2, jax.random.key(0))) == [[0]]
    assert as_rows(stochastic_pool(jnp.zeros((1, 2, 2, 1)), 2)) == [[0]]


def test_the_gradient_of_stochastic_pooling_goes_to_the_drawn_value():
    maps = as_images([[1, 2, 0, 0], [3, 5, 0, 0]])
    key = jax.random.key(1)
    value = as_rows(stochastic_pool(maps, 2, key))[0][0]
    gradient = jax.grad(lambda x: stochastic_pool(x, 2, key)[:, :, :1].sum())(maps)
    np.testing.assert_array_equal(as_rows(gradient), np.asarray(as_rows(maps)) == value)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (5, 7), (6, 6), (7, 2)])
def test_adaptive_pooling_equals_a_plain_loop(size):
    maps = np.random.default_rng(0).normal(size=(2, 5, 7, 3)).astype(np.float32)
    wanted = [
        [
            maps[:, i * 5 // size[0] : -(-(i + 1) * 5 // size[0])][
                :, :, j * 7 // size[1] : -(-(j + 1) * 7 // size[1])
            ].mean((1, 2))
            for j in range(size[1])
        ]
        for i in range(size[0])
    ]
    found = adaptive_average_pool(jnp.asarray(maps), size)
    np.testing.assert_allclose(found, np.moveaxis(np.asarray(wanted), 2, 0), atol=1e-6)


@pytest.mark.parametrize("space", [(4,), (3, 4), (2, 3, 4)])
def test_global_pooling_covers_all_axes_of_space(space):
    maps = jax.random.normal(jax.random.key(0), (2, *space, 3))
    flat = maps.reshape(2, -1, 3)
    np.testing.assert_allclose(global_average_pool(maps), flat.mean(1), atol=1e-6)
    np.testing.assert_array_equal(global_max_pool(maps), flat.max(1))
    np.testing.assert_allclose(
        adaptive_average_pool(maps, 1).reshape(2, 3), flat.mean(1), atol=1e-6
    )


def test_maxout_takes_the_largest_of_neighbouring_channels():
    x = jnp.asarray([[1.0, 5, 2, 2, -1, -3]])
    np.testing.assert_array_equal(maxout(x, 2), [[5, 2, -1]])
    np.testing.assert_array_equal(maxout(x, 3), [[5, 2]])
    allowed = "a number that divides the 6 channels of a maxout's input"
    with refused(ConfigError, where="pieces", found=4, allowed=allowed):
        maxout(x, 4)


def test_on_a_tie_the_first_channel_or_pixel_gets_the_whole_gradient():
    channels = jnp.asarray([[3.0, 3, 1, 2, 2, 2], [0, 1, 1, 5, 4, 5]])
    found = jax.grad(lambda x: maxout(x, 3).sum())(channels)
    assert found.tolist() == [[1, 0, 0, 1, 0, 0], [0, 1, 0, 1, 0, 0]]
    pixels = jnp.asarray([[1.0, 4], [0, 4], [4, 2]])[None]  # two channels of three pixels
    found = jax.grad(lambda x: global_max_pool(x).sum())(pixels)
    assert found[0].tolist() == [[0, 1], [0, 0], [1, 0]]


def test_maxima_do_not_hide_what_is_not_a_number():
    for place in range(4):
        values = jnp.arange(4.0).at[place].set(jnp.nan)
        assert np.isnan(maxout(values, 4)).all()
        assert np.isnan(max_pool(values.reshape(1, 4, 1), 4)).all()
        assert np.isnan(max_pool_with_indices(values.reshape(1, 4, 1), 4)[0]).all()
        assert np.isnan(global_max_pool(values.reshape(1, 4, 1))).all()


def test_pooling_is_stable_under_small_shifts():
    """A feature that moves within its window leaves the pooled map alone."""
    maps = np.zeros((2, 8, 8, 1), np.float32)
    maps[0, 2, 4], maps[1, 3, 5] = 1, 1
    pooled = np.asarray(max_pool(jnp.asarray(maps), 2))
    np.testing.assert_array_equal(pooled[0], pooled[1])
    assert not np.array_equal(maps[0], maps[1])
    rng = np.random.default_rng(0)
    texture = jnp.asarray(rng.normal(size=(64, 17, 17, 1)), jnp.float32)
    before, after = texture[:, :16, :16], texture[:, :16, 1:]
    moved = lambda a, b: float(np.square(np.asarray(a) - np.asarray(b)).mean() / np.var(a))  # noqa: E731
    # Half of a window's pixels stay, so that pooled maps change less than the pixels do.
    assert moved(max_pool(before, 4), max_pool(after, 4)) < 0.5 * moved(before, after)
