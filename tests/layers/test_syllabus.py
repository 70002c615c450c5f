"""The worked examples of convolution and its relatives, to the digit."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import refused

from cnn_lab.core import trees
from cnn_lab.core.errors import ConfigError
from cnn_lab.layers.convolution import Conv
from cnn_lab.layers.kernels import KERNELS, filter_images
from cnn_lab.layers.pooling import average_pool, max_pool
from cnn_lab.models.registry import MODELS

DIAGONAL = np.array([[1, -1, -1], [-1, 1, -1], [-1, -1, 1]], np.float32) / 9
CROSS = np.array([[1, -1, 1], [-1, 1, -1], [1, -1, 1]], np.float32) / 9


def as_images(rows) -> jax.Array:
    return jnp.asarray(rows, jnp.float32)[None, :, :, None]


def large_x() -> jax.Array:
    """+1 on both diagonals of 9x9 pixels except in the outermost ring, -1 elsewhere."""
    image, inner = -np.ones((9, 9)), np.arange(1, 8)
    image[inner, inner] = image[inner, 8 - inner] = 1
    return as_images(image)


def truncated(maps: jax.Array) -> list:
    """Two digits as the lecture prints them: cut off, not rounded."""
    # Values are ninths, so that a thousandth mends what float32 left below a whole one.
    values = np.asarray(maps[0, :, :, 0], np.float64)
    return (np.trunc((values + np.sign(values) * 1e-4) * 100) / 100).tolist()


def test_the_first_example():
    image = [[0, 1, 0, 1], [0, 1, 0, 1], [1, 1, 1, 1], [0, -2, 0, -2]]
    kernel = np.asarray([[-0.5, 1, -0.5]] * 3, np.float32)
    found = filter_images(as_images(image), kernel, "VALID")
    assert found[0, :, :, 0].tolist() == [[2, -2], [-1, 1]]


def test_the_second_example():
    maps = filter_images(large_x(), DIAGONAL, "VALID")
    assert maps.shape == (1, 7, 7, 1)
    rows = truncated(maps)
    assert rows[0] == [0.77, -0.11, 0.11, 0.33, 0.55, -0.11, 0.33]
    assert rows[3][3] == 0.55
    assert truncated(max_pool(maps, 2, 2, ceil_mode=True)) == [
        [1.00, 0.33, 0.55, 0.33],
        [0.33, 1.00, 0.33, 0.55],
        [0.55, 0.33, 1.00, 0.11],
        [0.33, 0.55, 0.11, 0.77],
    ]


def test_the_second_example_with_the_crossed_filter():
    maps = filter_images(large_x(), CROSS, "VALID")
    assert truncated(maps)[3][3] == 1.00
    assert truncated(max_pool(maps, 2, 2, ceil_mode=True)) == [
        [0.55, 0.33, 0.55, 0.33],
        [0.33, 1.00, 0.55, 0.11],
        [0.55, 0.55, 0.55, 0.11],
        [0.33, 0.11, 0.11, 0.33],
    ]


def test_pooling_of_the_example():
    image = as_images([[1, 9, 2, 4], [5, 7, 8, 1], [3, 2, 1, 3], [6, 1, 4, 5]])
    assert max_pool(image, 2)[0, :, :, 0].tolist() == [[9, 8], [6, 5]]
    assert average_pool(image, 2)[0, :, :, 0].tolist() == [[5.5, 3.75], [3, 3.25]]


class Layers(nn.Module):
    """Convolutions one after the other: (features, side, padding) each."""

    layers: tuple[tuple[int, int, int], ...]
    use_bias: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> list[tuple[int, ...]]:
        shapes = []
        for features, side, padding in self.layers:
            x = Conv(features, (side, side), padding=padding, use_bias=self.use_bias)(x)
            shapes.append(x.shape[1:])
        return shapes


def traced(module: nn.Module, *shape: int):
    """The output of a module, and the shapes of its parameters; nothing is computed."""
    found = []

    def init(x):
        output, variables = module.init_with_output(jax.random.key(0), x)
        found.append(output)
        return variables

    variables = jax.eval_shape(init, jax.ShapeDtypeStruct((1, *shape), jnp.float32))
    return found[0], variables["params"]


def test_output_sizes_and_weights_of_the_stacked_example():
    shapes, params = traced(Layers(((6, 5, 0), (10, 5, 0))), 32, 32, 3)
    assert shapes == [(28, 28, 6), (24, 24, 10)]
    sizes = [leaf.shape for leaf in jax.tree.leaves(params)]
    assert sizes == [(5, 5, 3, 6), (5, 5, 6, 10)]
    assert math.prod(sizes[0][:3]) == 75  # weights of one 5x5 kernel on three channels


def test_weights_of_a_filter():
    _, params = traced(Layers(((32, 3, 0),)), 28, 28, 3)
    assert trees.count(params) // 32 == 27


def test_padding_arithmetic():
    assert jnp.pad(jnp.zeros((1, 300, 400, 1)), ((0, 0), (2, 2), (2, 2), (0, 0))).shape == (
        *(1, 304, 404, 1),
    )
    shapes, _ = traced(Layers(((1, 5, 2),)), 300, 400, 1)
    assert shapes == [(300, 400, 1)]
    maps = jax.ShapeDtypeStruct((1, 300, 400, 1), jnp.float32)
    assert jax.eval_shape(lambda x: max_pool(x, 2, 2), maps).shape == (1, 150, 200, 1)


@pytest.mark.parametrize(
    ("shape", "hidden", "outputs", "count"),
    [((1, 20, 1), (20, 20), 1, 861), ((256, 256, 1), (20, 20), 1, 1_311_181)],
)
def test_parameters_of_multi_layer_perceptrons(shape, hidden, outputs, count):
    module = MODELS["mlp"].make(outputs, hidden=hidden)
    images = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    init = lambda x: module.init(jax.random.key(0), x, train=False)  # noqa: E731
    assert trees.count(jax.eval_shape(init, images)["params"]) == count


def test_weights_of_dense_layers_against_convolutions():
    size = 200 * 200 * 3
    _, params = traced(nn.Dense(size, use_bias=False), size)
    assert trees.count(params) == 14_400_000_000
    _, params = traced(nn.Dense(1024, use_bias=False), 1024)
    assert trees.count(params) == 1_048_576
    _, params = traced(Layers(((1, 21, 10),)), 32, 32, 1)
    assert trees.count(params) == 441


def test_small_kernels_one_after_the_other_are_cheaper():
    _, three = traced(Layers(((64, 3, 1),) * 3), 32, 32, 64)
    _, one = traced(Layers(((64, 7, 3),)), 32, 32, 64)
    assert trees.count(three) == 27 * 64**2
    assert trees.count(one) == 49 * 64**2
    assert 1 - trees.count(three) / trees.count(one) == pytest.approx(0.45, abs=0.005)


def test_convolution_is_equivariant_to_translation():
    """A shifted image has the shifted map, up to the border."""
    image = jax.random.normal(jax.random.key(0), (2, 16, 16, 3))
    module: Any = Conv(4, (5, 5), padding=2)
    variables = module.init(jax.random.key(1), image)
    shifted = jnp.roll(image, (3, -2), (1, 2))
    maps, moved = module.apply(variables, image), module.apply(variables, shifted)
    inner = (slice(None), slice(5, 14), slice(4, 10))
    wanted = jnp.roll(jnp.asarray(maps), (3, -2), (1, 2))[inner]
    np.testing.assert_allclose(jnp.asarray(moved)[inner], wanted, atol=1e-5)
    assert not np.allclose(moved, maps, atol=0.1)


NAMED = {
    "edge": [[-1, -1, -1], [-1, 8, -1], [-1, -1, -1]],
    "sharpen": [[0, -1, 0], [-1, 5, -1], [0, -1, 0]],
    "gaussian_blur": [[1 / 16, 2 / 16, 1 / 16], [2 / 16, 4 / 16, 2 / 16], [1 / 16, 2 / 16, 1 / 16]],
    "line_horizontal": [[-1, -1, -1], [2, 2, 2], [-1, -1, -1]],
    "line_vertical": [[-1, 2, -1]] * 3,
    "identity": [[0, 0, 0], [0, 1, 0], [0, 0, 0]],
}


@pytest.mark.parametrize("name", NAMED)
def test_named_kernels(name):
    np.testing.assert_array_equal(KERNELS[name], np.float32(NAMED[name]))


@pytest.mark.parametrize("name", KERNELS)
def test_on_a_flat_image_blurs_keep_and_edges_vanish(name):
    keeps = name in ("box_blur", "gaussian_blur", "identity", "sharpen", "emboss")
    found = filter_images(jnp.full((1, 5, 5, 2), 3.0), name, "VALID")
    np.testing.assert_allclose(found, np.full((1, 3, 3, 2), 3.0 if keeps else 0.0), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("line_horizontal", [[0, 0, 0], [1, 1, 1], [0, 0, 0]]),
        ("line_vertical", [[0, 1, 0], [0, 1, 0], [0, 1, 0]]),
        ("line_45", [[0, 0, 1], [0, 1, 0], [1, 0, 0]]),
        ("line_135", [[1, 0, 0], [0, 1, 0], [0, 0, 1]]),
    ],
)
def test_a_line_filter_answers_most_to_its_own_line(name, line):
    answers = {
        each: float(filter_images(as_images(line), each, "VALID").sum())
        for each in KERNELS
        if each.startswith("line_")
    }
    assert max(answers, key=lambda each: answers[each]) == name
    assert answers[name] == 6
    assert sorted(answers.values())[-2] <= 0


def test_sobel_tells_the_direction_of_an_edge():
    ramp = jnp.tile(jnp.arange(5.0)[None, None, :, None], (1, 5, 1, 1))  # brighter to the right
    assert np.all(np.asarray(filter_images(ramp, "sobel_vertical", "VALID")) == 8)
    assert np.all(np.asarray(filter_images(ramp, "sobel_horizontal", "VALID")) == 0)
    down = jnp.swapaxes(ramp, 1, 2)
    assert np.all(np.asarray(filter_images(down, "sobel_horizontal", "VALID")) == 8)


def test_filters_take_channels_apart_and_zeros_beyond_the_edge():
    images = jax.random.normal(jax.random.key(0), (2, 4, 5, 3))
    np.testing.assert_allclose(filter_images(images, "identity"), images, atol=1e-6)
    edge = filter_images(jnp.ones((1, 3, 3, 1)), "edge")[0, :, :, 0]
    assert edge.tolist() == [[5, 3, 5], [3, 0, 3], [5, 3, 5]]
    own = jnp.asarray([[1.0, 10.0]])
    np.testing.assert_allclose(
        filter_images(images, own, "VALID"),
        images[:, :, :-1] + 10 * images[:, :, 1:],  # not flipped
        atol=1e-5,
    )


def test_filters_that_cannot_be_are_refused():
    with refused(ConfigError, found="sobel", nearest=("sobel_horizontal", "sobel_vertical")):
        filter_images(jnp.ones((1, 3, 3, 1)), "sobel")
    with refused(ConfigError, where="kernel", found=(3, 3)):
        filter_images(jnp.ones((1, 2, 5, 1)), "edge", "VALID")
