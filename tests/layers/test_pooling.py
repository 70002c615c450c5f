"""Pooling, on the syllabus's example and at its edges."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_lab.core.errors import ConfigError
from cnn_lab.layers.pooling import average_pool, max_pool

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
    text = (
        f"A pooling window of 4x4 does not fit a map of {shape[0]}x{shape[1]}: the image is too "
        "small for this model; use larger images or set data.image_size."
    )
    with pytest.raises(ConfigError, match=f"^{re.escape(text)}$"):
        POOLINGS[name](jnp.ones((1, *shape, 2)), 4)
