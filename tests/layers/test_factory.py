"""Layers of one factory: sizes, groups, dtypes; and the layers that are built from them."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import refused

from cnn_lab.core import trees
from cnn_lab.core.errors import ConfigError
from cnn_lab.layers.channels import Maxout, SqueezeExcite
from cnn_lab.layers.factory import LayerFactory
from cnn_lab.layers.locally_connected import LocallyConnected

KEY = jax.random.key(0)


def shapes_of(module: nn.Module, *shape: int, **options) -> tuple[tuple[int, ...], dict]:
    """Shape of the output, and of the parameters by path; nothing is computed."""
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    init = lambda x: module.init_with_output(KEY, x, **options)  # noqa: E731
    output, variables = jax.eval_shape(init, x)
    return output.shape, {p: leaf.shape for p, leaf in trees.flatten(variables["params"]).items()}


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({}, (2, 9, 8, 6)),
        ({"kernel": 5}, (2, 9, 8, 6)),
        ({"kernel": (1, 3)}, (2, 9, 8, 6)),
        ({"kernel": (3, 1), "padding": "VALID"}, (2, 7, 8, 6)),
        ({"strides": 2}, (2, 5, 4, 6)),
        ({"strides": (1, 2)}, (2, 9, 4, 6)),
        ({"dilation": 2}, (2, 9, 8, 6)),
        ({"dilation": 2, "padding": 0}, (2, 5, 4, 6)),
        ({"padding": 3}, (2, 13, 12, 6)),
        ({"padding": (0, 1)}, (2, 7, 8, 6)),
        ({"padding": ((0, 1), (2, 0))}, (2, 8, 8, 6)),
        ({"kernel": 11, "strides": 4, "padding": 2}, (2, 1, 1, 6)),
        ({"groups": 2}, (2, 9, 8, 6)),
        ({"kernel": 1}, (2, 9, 8, 6)),
    ],
)
def test_sizes_of_convolutions(options, shape):
    options = {"kernel": 3, **options}
    found, parameters = shapes_of(LayerFactory().conv(6, **options, name="conv"), 2, 9, 8, 4)
    assert found == shape
    sides = options["kernel"] if isinstance(options["kernel"], tuple) else (options["kernel"],) * 2
    assert parameters == {"kernel": (*sides, 4 // options.get("groups", 1), 6)}


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_convolutions_over_one_to_three_axes(axes):
    conv = LayerFactory().conv(6, 3, 2, axes=axes, bias=True, name="conv")
    found, parameters = shapes_of(conv, 2, *(8,) * axes, 4)
    assert found == (2, *(4,) * axes, 6)
    assert parameters == {"kernel": (*(3,) * axes, 4, 6), "bias": (6,)}


def test_groups_that_do_not_divide_are_refused():
    allowed = "a number that divides the 6 channels of a convolution's result"
    for groups in (4, 0):
        with refused(ConfigError, where="groups", found=groups, allowed=allowed):
            LayerFactory().conv(6, 3, groups=groups, name="conv")
    allowed = "a number that divides the 4 channels of a convolution's input"
    with refused(ConfigError, where="groups", found=3, allowed=allowed):
        shapes_of(LayerFactory().conv(6, 3, groups=3, name="conv"), 1, 5, 5, 4)


def test_styles_compute_in_their_dtype_with_float32_parameters():
    layers = LayerFactory(dtype="bfloat16")
    made = (layers.conv(6, 3, name="conv"), layers.dense(6, name="dense"))
    for layer in (*made, layers.norm(train=False, name="norm")):
        y, variables = layer.init_with_output(KEY, jnp.ones((2, 5, 5, 4)))
        assert y.dtype == jnp.bfloat16
        assert {v.dtype for v in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}


def test_equal_styles_are_equal_descriptions():
    assert hash(LayerFactory()) == hash(LayerFactory("relu"))
    assert LayerFactory() != LayerFactory(norm_kind="layer")


def test_squeeze_and_excite_by_hand():
    images = jax.random.normal(KEY, (2, 3, 4, 6))
    module: Any = SqueezeExcite(3, "relu")
    variables = module.init(jax.random.key(1), images)
    shapes = {path: leaf.shape for path, leaf in trees.flatten(variables["params"]).items()}
    assert shapes == {
        "reduce/kernel": (1, 1, 6, 3),
        "reduce/bias": (3,),
        "expand/kernel": (1, 1, 3, 6),
        "expand/bias": (6,),
    }
    biased = jax.tree.map(lambda leaf: leaf + 0.1, variables)
    p = jax.tree.map(np.asarray, biased["params"])
    squeezed = np.asarray(images).mean((1, 2)) @ p["reduce"]["kernel"][0, 0] + p["reduce"]["bias"]
    gate = np.maximum(squeezed, 0) @ p["expand"]["kernel"][0, 0] + p["expand"]["bias"]
    wanted = np.asarray(images) / (1 + np.exp(-gate))[:, None, None]
    np.testing.assert_allclose(module.apply(biased, images), wanted, atol=1e-5)


def test_maxout_layers_take_the_largest_piece():
    x = jax.random.normal(KEY, (2, 5, 5, 3))
    dense, conv = Maxout(4, 3), Maxout(4, 2, kernel_size=3, strides=2)
    variables: Any
    y, variables = dense.init_with_output(KEY, x)
    pieces = x @ variables["params"]["pieces_dense"]["kernel"]
    np.testing.assert_allclose(y, pieces.reshape(2, 5, 5, 4, 3).max(-1), atol=1e-5)
    shape, parameters = shapes_of(conv, *x.shape)
    assert shape == (2, 3, 3, 4)
    assert parameters == {"pieces_conv/kernel": (3, 3, 3, 8), "pieces_conv/bias": (8,)}
    assert shapes_of(dense, 7, 3)[0] == (7, 4)


LOCAL = [
    ((6,), 3, 1, 0),
    ((7, 6), 3, 1, 1),
    ((7, 6), (3, 2), (2, 1), (1, 0)),
    ((4, 3, 5), 2, 2, 1),
]


@pytest.mark.parametrize("case", LOCAL, ids=str)
def test_locally_connected_layers_with_shared_weights_are_convolutions(case):
    space, kernel, strides, padding = case
    axes = len(space)
    x = jax.random.normal(KEY, (2, *space, 3))
    module: Any = LocallyConnected(4, kernel, strides, padding)
    y, variables = module.init_with_output(KEY, x)
    conv = LayerFactory().conv(4, kernel, strides, padding, axes=axes, bias=True, name="conv")
    wanted, shared = conv.init_with_output(KEY, x)
    assert y.shape == wanted.shape
    tiled = jax.tree.map(
        lambda own, one: jnp.broadcast_to(one, own.shape), variables["params"], shared["params"]
    )
    np.testing.assert_allclose(module.apply({"params": tiled}, x), wanted, atol=1e-5)


def test_every_position_has_weights_of_its_own():
    module: Any = LocallyConnected(4, 3)
    x = jnp.ones((1, 6, 5, 2))
    variables: Any = module.init(KEY, x)
    kernel, bias = variables["params"]["kernel"], variables["params"]["bias"]
    assert (kernel.shape, bias.shape) == ((4, 3, 3, 3, 2, 4), (4, 3, 4))
    gradient = jax.grad(lambda v: module.apply(v, x)[0, 1, 2].sum())(variables)["params"]["kernel"]
    reached = np.asarray(jnp.any(gradient, (2, 3, 4, 5)))
    assert np.argwhere(reached).tolist() == [[1, 2]]


def test_weights_of_a_position_begin_like_those_of_a_convolution():
    module: Any = LocallyConnected(32, 3)
    kernel = module.init(KEY, jnp.ones((1, 12, 12, 8)))["params"]["kernel"]
    assert float(kernel.var()) == pytest.approx(1 / 72, rel=0.02)  # fan-in 9 * 8


def test_parameters_of_locally_connected_layers_stay_float32_in_bfloat16():
    y, variables = LocallyConnected(4, 3, dtype="bfloat16").init_with_output(
        KEY, jnp.ones((1, 4, 4, 2))
    )
    assert y.dtype == jnp.bfloat16
    assert {v.dtype for v in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}


def test_a_locally_connected_layer_larger_than_the_map_is_refused():
    with refused(ConfigError, where="kernel_size", found=7):
        LocallyConnected(4, 7).init(KEY, jnp.ones((1, 5, 5, 2)))
