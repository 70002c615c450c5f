"""Residual, plain, wide and densely connected networks."""

import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from refusals import refused

from cnn_lab.core import trees
from cnn_lab.core.errors import ConfigError
from cnn_lab.layers.factory import LayerFactory
from cnn_lab.models import densenet, wide_resnet
from cnn_lab.models.registry import MODELS
from cnn_lab.models.resnet import BasicBlock

CIFAR = (32, 32, 3)


def shapes(module: nn.Module, image_shape=CIFAR, method=None) -> Any:
    """Shapes of the parameters, or of what a method returns."""
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    variables = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, train=False), images)
    if method is None:
        return variables["params"]
    return jax.eval_shape(lambda v, x: module.apply(v, x, method=method), variables, images)


def maps_of(model: nn.Module, image_shape: tuple[int, int, int]) -> dict[str, tuple[int, ...]]:
    maps = shapes(model, image_shape, method=lambda m, x: m.backbone(x, train=False))
    return {name: leaf.shape[1:] for name, leaf in maps.items()}


def initialised(module: nn.Module, x) -> Any:
    return jax.jit(lambda: module.init(jax.random.key(0), x, train=False))()


def test_the_deepest_resnet_has_what_each_block_of_the_others_adds():
    """ResNet-1202 is not traced; depth enters the count linearly, and its blocks are counted."""
    depths = (20, 32, 44, 56, 110, 1202)
    counts = {depth: MODELS[f"resnet{depth}"].num_parameters for depth in depths}
    each = counts[32] - counts[20]  # two blocks in each of three stages
    for depth, count in counts.items():
        assert count == counts[20] + each * (depth - 20) // 12
        model: Any = MODELS[f"resnet{depth}"].make(10)
        assert model.backbone.depths == ((depth - 2) // 6,) * 3
        assert model.backbone.shortcut == "A"


@pytest.mark.parametrize("side", [5, 6])
def test_option_a_takes_every_second_pixel_and_adds_channels_of_zeros(side):
    x = jax.random.normal(jax.random.key(1), (2, side, side, 4))
    block = BasicBlock(
        6, 2, "A", 0.0, zero_init=True, layers=LayerFactory()
    )  # the branch adds nothing
    y: Any = block.apply(initialised(block, x), x, train=False)
    assert y.shape == (2, 3, 3, 6)
    np.testing.assert_array_equal(y[..., :4], nn.relu(x[:, ::2, ::2]))
    np.testing.assert_array_equal(y[..., 4:], 0)


def test_projections_are_what_option_b_adds():
    make = MODELS["resnet20"].make
    before, after = (trees.flatten(shapes(make(10, shortcut=option))) for option in "AB")
    added = {path: leaf.shape for path, leaf in after.items() if path not in before}
    at = ("backbone/stage2_block1", "backbone/stage3_block1")
    assert added == {
        f"{block}/{name}": shape
        for block, width in zip(at, (16, 32), strict=True)
        for name, shape in {
            "shortcut_conv/kernel": (1, 1, width, 2 * width),
            "shortcut_bn/scale": (2 * width,),
            "shortcut_bn/bias": (2 * width,),
        }.items()
    }
    assert trees.count(list(after.values())) == 269_722 + 2_752


def test_plain_twins_lack_nothing_but_the_shortcuts():
    residual = MODELS["resnet20"].make
    assert MODELS["plain20"].make(10) == residual(10, shortcut="none")
    assert trees.flatten(shapes(MODELS["plain20"].make(10))).keys() == (
        trees.flatten(shapes(residual(10))).keys()
    )
    with_shortcuts = trees.flatten(shapes(MODELS["resnet34"].make(1000), (64, 64, 3)))
    without = trees.flatten(shapes(MODELS["plain34"].make(1000), (64, 64, 3)))
    missing = {path: leaf for path, leaf in with_shortcuts.items() if path not in without}
    assert all("/shortcut_" in path for path in missing)
    assert trees.count(missing) == 173_824
    assert with_shortcuts.keys() >= without.keys()


@pytest.mark.parametrize("option", [{"drop_path_rate": 0.5}, {"zero_init": True}])
def test_what_needs_shortcuts_is_refused_without_them(option):
    model = MODELS["resnet20"].make(10, shortcut="none", **option)
    with refused(ConfigError, where="config.model.options.shortcut", found="none"):
        shapes(model)


@pytest.mark.parametrize(
    ("make", "least", "hint"),
    [
        (MODELS["resnet18"].make, 32, ", or model.options.stem=small"),
        (MODELS["resnet20"].make, 4, ""),
        (wide_resnet.wide_resnet28_10, 4, ""),
        (MODELS["densenet121"].make, 29, ", or model.options.stem=small"),
        (densenet.densenet_cifar, 4, ""),
    ],
)
def test_images_too_small_are_refused_and_the_smallest_taken(make, least, hint):
    maps = maps_of(make(10), (least, least + 1, 3))
    assert min(side for *space, _ in maps.values() for side in space) == 1
    text = (
        f"takes images of at least {least}x{least} pixels; found {least - 1}x64; set "
        f"data.image_size, data.pad or --input{hint}."
    )
    with pytest.raises(ConfigError, match=rf"{re.escape(text)}(\n|$)"):
        shapes(make(10), (least - 1, 64, 3))


@pytest.mark.parametrize(("depth", "width", "count"), [(16, 10, 17_116_634), (40, 8, 35_748_314)])
def test_wide_resnets_of_other_sizes_have_the_counts_that_others_report(depth, width, count):
    assert trees.count(shapes(wide_resnet.wide_resnet28_10(10, depth, width))) == count


def test_a_wide_block_adds_to_its_input_and_projects_what_is_activated():
    x = jax.random.normal(jax.random.key(1), (2, 6, 6, 4))
    same = wide_resnet.WideBlock(4, 1, 0.0, LayerFactory())
    params = initialised(same, x)["params"]
    assert params.keys() == {"bn1", "conv1", "bn2", "conv2"}
    still = {**params, "conv2": jax.tree.map(jnp.zeros_like, params["conv2"])}
    statistics = initialised(same, x)["batch_stats"]
    y: Any = same.apply({"params": still, "batch_stats": statistics}, x, train=False)
    np.testing.assert_array_equal(y, x)  # nothing is applied after the sum

    wider = wide_resnet.WideBlock(8, 2, 0.0, LayerFactory())
    variables = initialised(wider, x)
    params = {
        **variables["params"],
        "conv2": jax.tree.map(jnp.zeros_like, variables["params"]["conv2"]),
    }
    y = wider.apply({**variables, "params": params}, x, train=False)
    activated = nn.relu(x / np.sqrt(1 + 1e-5))[:, ::2, ::2]
    expected = activated @ params["shortcut_conv"]["kernel"][0, 0]
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)


def test_dropout_stands_between_the_convolutions_of_a_wide_block():
    x = jax.random.normal(jax.random.key(1), (2, 6, 6, 4))
    block = wide_resnet.WideBlock(4, 1, 0.999999, LayerFactory())  # no value is left
    y, _ = block.apply(
        initialised(block, x),
        x,
        train=True,
        rngs={"dropout": jax.random.key(2)},
        mutable=["batch_stats"],
    )
    np.testing.assert_array_equal(y, x)


def test_the_maps_of_densenet121():
    make = MODELS["densenet121"].make
    assert maps_of(make(1000), (224, 224, 3)) == {
        "stem": (112, 112, 64),
        "stage1": (56, 56, 256),
        "stage2": (28, 28, 512),
        "stage3": (14, 14, 1024),
        "stage4": (7, 7, 1024),
    }


@pytest.mark.parametrize("bottleneck_size", [0, 4])
def test_a_dense_layer_appends_to_its_input(bottleneck_size):
    x = jax.random.normal(jax.random.key(1), (2, 5, 5, 4))
    layer = densenet.DenseLayer(3, bottleneck_size, 0.0, LayerFactory())
    y: Any = layer.apply(initialised(layer, x), x, train=False)
    assert y.shape == (2, 5, 5, 7)
    np.testing.assert_array_equal(y[..., :4], x)
    assert np.any(y[..., 4:])


def test_the_bottleneck_densenet_of_the_paper_for_cifar():
    model = densenet.densenet_cifar(10, depth=100, growth=12, bottleneck=True)
    assert trees.count(shapes(model)) == 769_162


@pytest.mark.parametrize(
    ("make", "depth", "allowed"),
    [
        (wide_resnet.wide_resnet28_10, 30, "6 n + 4 in a wide ResNet, such as 28 or 34"),
        (wide_resnet.wide_resnet28_10, 4, "6 n + 4 in a wide ResNet, such as 10 or 16"),
        (
            densenet.densenet_cifar,
            41,
            "3 n + 4 in densenet_cifar with bottleneck=false, such as 40 or 43",
        ),
        (
            functools.partial(densenet.densenet_cifar, bottleneck=True),
            43,
            "6 n + 4 in densenet_cifar with bottleneck=true, such as 40 or 46",
        ),
    ],
)
def test_depths_that_do_not_divide_are_refused(make, depth, allowed):
    with refused(ConfigError, where="config.model.options.depth", found=depth, allowed=allowed):
        make(10, depth=depth)
