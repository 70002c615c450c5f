"""MobileNetV2, EfficientNet and ConvNeXt against their tables and against torchvision."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import refused

from cnn_lab.core import trees
from cnn_lab.core.errors import ConfigError
from cnn_lab.layers.dropout import DropPath
from cnn_lab.layers.factory import LayerFactory
from cnn_lab.models.convnext import ConvNeXtBlock, convnext_tiny
from cnn_lab.models.efficientnet import efficientnet_b0
from cnn_lab.models.mobilenet_v2 import InvertedResidual, mobilenet_v2, round_channels


def variables_of(module, *image_shape) -> Any:
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    init = lambda images: module.init(jax.random.key(0), images, train=False)  # noqa: E731
    return jax.eval_shape(init, images)


def shapes_of(module, *image_shape) -> dict[str, tuple[int, ...]]:
    """The maps of one image."""
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    maps, _ = jax.eval_shape(
        lambda x: module.backbone.init_with_output(jax.random.key(0), x, train=False), images
    )
    return {name: leaf.shape[1:] for name, leaf in maps.items()}


def drawn(variables) -> Any:
    """Parameters and statistics that every generator of these numbers can repeat."""
    rng, made = np.random.default_rng(0), {}
    for path, leaf in sorted(trees.flatten(variables).items()):
        if path.endswith(("scale", "var")):
            values = rng.uniform(0.5, 1.5, leaf.shape)
        else:
            values = rng.normal(size=leaf.shape) / np.sqrt(max(1, np.prod(leaf.shape[:-1])))
        made[path] = jnp.asarray(values, jnp.float32)
    leaves = [made[path] for path in trees.flatten(variables)]
    return jax.tree.unflatten(jax.tree.structure(variables), leaves)


# Logits that torchvision 0.28 computes with the same weights; odd sides show the padding.
TORCHVISION = {
    "mobilenet_v2": (
        mobilenet_v2(3, width_multiplier=0.25, depths=(1, 2, 1, 1, 1, 1, 1)),
        (33, 42, 3),
        (-0.10867246, 0.62031215, -2.85360241),
    ),
    "efficientnet_b0": (
        efficientnet_b0(3, width_multiplier=0.25, depth_multiplier=0.3),
        (33, 42, 3),
        (0.82054693, 0.31458926, -0.49409401),
    ),
    "convnext_tiny": (
        convnext_tiny(3, depths=(1, 1, 1, 1), widths=(4, 6, 8, 8)),
        (38, 45, 3),
        (-0.36212695, 1.00560713, 1.5683279),
    ),
}


@pytest.mark.parametrize("name", TORCHVISION)
def test_logits_are_those_of_torchvision(name):
    module, image_shape, logits = TORCHVISION[name]
    variables = drawn(variables_of(module, *image_shape))
    images = jnp.asarray(np.random.default_rng(1).normal(size=(1, *image_shape)), jnp.float32)
    found = jax.jit(lambda v, x: module.apply(v, x, train=False))(variables, images)
    np.testing.assert_allclose(found[0], logits, rtol=0, atol=1e-5)  # float32 sums near 1


@pytest.mark.parametrize(
    ("channels", "rounded"),
    # 3.5 is at least one group of 8; 11.2 to 8 would lose more than a tenth.
    [(32, 32), (3.5, 8), (11.2, 16), (12, 16), (24 * 0.75, 24), (96 * 1.4, 136), (320 * 0.35, 112)],
)
def test_channels_are_rounded_to_eights(channels, rounded):
    assert round_channels(channels) == rounded


def test_table_two_of_mobilenet_v2():
    sides = {"stem": 112, "stage1": 112, "stage2": 56, "stage3": 28, "stage4": 14, "stage5": 14}
    sides |= {"stage6": 7, "stage7": 7, "last": 7}
    channels = (32, 16, 24, 32, 64, 96, 160, 320, 1280)
    assert shapes_of(mobilenet_v2(10), 224, 224, 3) == {
        name: (side, side, width)
        for (name, side), width in zip(sides.items(), channels, strict=True)
    }


@pytest.mark.parametrize(
    ("options", "count"),
    # torchvision's counts.
    [
        ({"width_multiplier": 0.35}, 1_677_128),
        ({"width_multiplier": 0.75}, 2_636_424),
        ({"width_multiplier": 1.4}, 6_108_776),
    ],
)
def test_the_width_multiplier_of_mobilenet_v2(options, count):
    variables = variables_of(mobilenet_v2(1000, **options), 224, 224, 3)
    assert trees.count(variables["params"]) == count


@pytest.mark.parametrize(
    ("width", "depth", "count"),
    [(1.0, 1.1, 7_794_184), (1.1, 1.2, 9_109_994)],  # B1 and B2
)
def test_compound_scaling(width, depth, count):
    module = efficientnet_b0(1000, width_multiplier=width, depth_multiplier=depth)
    assert trees.count(variables_of(module, 240, 240, 3)["params"]) == count


def test_table_one_of_efficientnet():
    # Its rows give the side of each stage's input, and of the last convolution's.
    sides = {"stem": 112, "stage1": 112, "stage2": 56, "stage3": 28, "stage4": 14, "stage5": 14}
    sides |= {"stage6": 7, "stage7": 7, "last": 7}
    channels = (32, 16, 24, 40, 80, 112, 192, 320, 1280)
    assert shapes_of(efficientnet_b0(10), 224, 224, 3) == {
        name: (side, side, width)
        for (name, side), width in zip(sides.items(), channels, strict=True)
    }


def test_the_squeezed_width_is_a_quarter_of_the_input_of_the_block():
    params = variables_of(efficientnet_b0(10), 224, 224, 3)["params"]["backbone"]
    squeezed = {
        name: block["squeeze"]["reduce"]["kernel"].shape
        for name, block in params.items()
        if name in ("stage1_block1", "stage2_block1", "stage2_block2", "stage7_block1")
    }
    assert squeezed == {
        "stage1_block1": (1, 1, 32, 8),
        "stage2_block1": (1, 1, 96, 4),
        "stage2_block2": (1, 1, 144, 6),
        "stage7_block1": (1, 1, 1152, 48),
    }


def drop_path_rates(module, *image_shape) -> list[float]:
    """Rates of the branches that can be dropped, in order."""
    rates = []

    def record(call, arguments, options, context):
        if isinstance(context.module, DropPath):
            rates.append(context.module.rate)
        return call(*arguments, **options)

    with nn.intercept_methods(record):
        variables_of(module, *image_shape)
    return rates


def test_the_rates_of_dropped_branches_rise():
    # Of 16 blocks, those that do not begin a stage.
    kept = [2, 4, 6, 7, 9, 10, 12, 13, 14]
    assert drop_path_rates(efficientnet_b0(10), 64, 64, 3) == pytest.approx(
        [0.2 * index / 16 for index in kept]
    )
    assert drop_path_rates(convnext_tiny(10, drop_path_rate=0.4), 64, 64, 3) == pytest.approx(
        [0.4 * index / 17 for index in range(18)]
    )


def test_the_parameters_of_an_inverted_residual():
    block = InvertedResidual(24, 1, 6, LayerFactory("relu6"))
    params = variables_of(block, 8, 8, 24)["params"]
    assert {name: trees.count(layer) for name, layer in params.items()} == {
        "expand_conv": 24 * 144,
        "expand_bn": 2 * 144,
        "depthwise_conv": 9 * 144,
        "depthwise_bn": 2 * 144,
        "project_conv": 144 * 24,
        "project_bn": 2 * 24,
    }
    first = variables_of(InvertedResidual(16, 1, 1, LayerFactory("relu6")), 8, 8, 32)["params"]
    assert "expand_conv" not in first


@pytest.mark.parametrize(("features", "strides"), [(4, 1), (6, 1), (4, 2)])
def test_a_shortcut_joins_equal_shapes_only_and_nothing_follows_it(features, strides):
    block: Any = InvertedResidual(features, strides, 2, LayerFactory("relu6"))
    variables = drawn(variables_of(block, 6, 6, 4))
    silent = jax.tree.map(jnp.zeros_like, variables["params"]["project_bn"])
    variables["params"]["project_bn"] = silent
    x = jax.random.normal(jax.random.key(0), (2, 6, 6, 4))
    y = block.apply(variables, x, train=False)
    np.testing.assert_array_equal(y, x if (features, strides) == (4, 1) else jnp.zeros_like(y))


def test_a_convnext_begins_near_the_identity():
    block = ConvNeXtBlock(1e-6, 0.0, LayerFactory("gelu_exact", norm_kind="layer"))
    x = jax.random.normal(jax.random.key(0), (2, 6, 6, 4))
    variables = drawn(variables_of(block, 6, 6, 4))
    begin = block.init(jax.random.key(0), x, train=False)["params"]["layer_scale"]
    np.testing.assert_array_equal(begin, np.full(4, 1e-6, np.float32))
    variables["params"]["layer_scale"] = jnp.zeros(4)
    np.testing.assert_array_equal(block.apply(variables, x, train=False), x)


def test_the_stages_of_convnext():
    sides = (56, 28, 14, 7)
    assert shapes_of(convnext_tiny(10), 224, 224, 3) == {
        f"stage{i + 1}": (side, side, 96 * 2**i) for i, side in enumerate(sides)
    }
    small = convnext_tiny(1000, depths=(3, 3, 27, 3))
    assert trees.count(variables_of(small, 64, 64, 3)["params"]) == 50_223_688


@pytest.mark.parametrize(
    ("module", "side", "last"),
    [
        (mobilenet_v2(10, stem="small"), 32, 4),
        (efficientnet_b0(10, stem="small"), 32, 4),
        (convnext_tiny(10, stem="small"), 32, 2),
        (mobilenet_v2(10, stem="small"), 28, 4),
        (convnext_tiny(10, stem="small"), 28, 1),
    ],
)
def test_the_small_stem_leaves_maps_of_small_images(module, side, last):
    assert min(shape[:2] for shape in shapes_of(module, side, side, 3).values()) == (last, last)


@pytest.mark.parametrize(
    ("module", "side", "least"),
    [
        (mobilenet_v2(10), 28, 32),
        (efficientnet_b0(10), 28, 32),
        (convnext_tiny(10), 31, 32),
        (convnext_tiny(10, stem="small"), 15, 16),
    ],
)
def test_images_that_are_too_small_are_refused(module, side, least):
    found, allowed = f"{side}x{side}", f"at least {least}x{least} pixels"
    with refused(ConfigError, where="config.data.image_size", found=found, allowed=allowed):
        variables_of(module, side, side, 3)
