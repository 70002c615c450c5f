"""The nets of 2012 to 2016 against the numbers of their papers."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import refused

from cnn_lab.config.values import check_options
from cnn_lab.core import trees
from cnn_lab.core.errors import ConfigError
from cnn_lab.layers.factory import LayerFactory
from cnn_lab.models.heads import ConvHead, DenseHead
from cnn_lab.models.registry import MODELS
from cnn_lab.tasks.classification import classification
from cnn_lab.tasks.task import WithAuxiliary

TINY = {"stem": "small", "width_multiplier": 0.0625}  # for 8 and 13 pixels and more


def images_of(side: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((2, side, side, 3), jnp.float32)


def shapes_of(name: str, side: int, num_classes: int = 1000, **options):
    """Shapes of the parameters by path."""
    module = MODELS[name].make(num_classes, **options)
    init = lambda x: module.init(jax.random.key(0), x, train=False)  # noqa: E731
    return trees.flatten(jax.eval_shape(init, images_of(side))["params"])


def sides_of(name: str, side: int, **options) -> dict[str, tuple[int, int]]:
    """(side, channels) of the named maps."""
    backbone: Any = MODELS[name].make(10, **options).backbone
    init = lambda x: backbone.init_with_output(jax.random.key(0), x, train=False)[0]  # noqa: E731
    maps: Any = jax.eval_shape(init, images_of(side))
    return {name: (leaf.shape[1], leaf.shape[3]) for name, leaf in maps.items()}


def started(name: str, side: int, **options):
    """A module of ten classes, its variables and four images."""
    module = MODELS[name].make(10, **options)
    images = jax.random.normal(jax.random.key(1), (4, side, side, 3))
    init = jax.jit(lambda key: module.init(key, images[:1], train=False))
    return module, init(jax.random.key(0)), images


@pytest.mark.parametrize(("side", "padding"), [(224, 2), (227, 0)])
def test_alexnet_maps_have_the_sides_of_the_paper(side, padding):
    sides = sides_of("alexnet_grouped", side, stem_padding=padding)
    assert sides == {
        "conv1": (55, 96),
        "conv2": (27, 256),
        "conv3": (13, 384),
        "conv4": (13, 384),
        "conv5": (13, 256),
        "pool5": (6, 256),
    }


def test_the_halves_of_alexnet_see_half_of_the_maps_in_three_convolutions():
    shapes = shapes_of("alexnet_grouped", 224)
    kernels = [shapes[f"backbone/conv{number}/kernel"].shape for number in range(1, 6)]
    assert kernels == [
        (11, 11, 3, 96),
        (5, 5, 48, 256),
        (3, 3, 256, 384),
        (3, 3, 192, 384),
        (3, 3, 192, 256),
    ]


@pytest.mark.parametrize(("name", "normalised"), [("alexnet", False), ("alexnet_grouped", True)])
def test_response_normalisation_follows_the_first_two_convolutions_of_the_published_net(
    name, normalised
):
    module, variables, images = started(name, 16, **TINY, hidden=(8,), pooled_size=1)

    of = lambda m, x: m.backbone(x, train=False)  # noqa: E731
    maps = jax.jit(lambda images: module.apply(variables, images, method=of))
    # Without biases a net of convolutions, poolings and ReLU scales with its input.
    once, thousandfold = maps(images), maps(1000 * images)
    scaled = {
        name: bool(np.allclose(thousandfold[name], 1000 * once[name], rtol=1e-3)) for name in once
    }
    assert scaled["conv1"]
    assert [scaled[name] for name in ("conv2", "conv3")] == [not normalised] * 2


def test_vgg_maps_halve_after_each_stage():
    sides = sides_of("vgg19", 224)
    assert len(sides) == 17
    firsts = [sides[f"conv{stage}_1"] for stage in range(1, 6)]
    assert firsts == [(224, 64), (112, 128), (56, 256), (28, 512), (14, 512)]
    assert sides["pool5"] == (7, 512)


def test_a_vgg_for_small_images_has_a_narrow_head():
    shapes = shapes_of("vgg11", 32, 10, pooled_size=1, hidden=(512,))
    head = {path: leaf for path, leaf in shapes.items() if path.startswith("head/")}
    assert trees.count(head) == 512 * 512 + 512 + 512 * 10 + 10
    assert trees.count(shapes) - trees.count(head) == 9_220_480


def test_a_small_stem_halves_odd_maps_upwards():
    sides = [side for side, _ in sides_of("vgg11", 28, stem="small").values()]
    assert list(dict.fromkeys(sides)) == [28, 14, 7, 4, 2, 1]
    assert sides_of("vgg11", 32, stem="small") == sides_of("vgg11", 32)


def test_vgg_pools_by_maxima_or_means():
    module, variables, images = started("vgg11", 32, width=2, hidden=(4,), pooled_size=1)
    means: Any = MODELS["vgg11"].make(10, width=2, hidden=(4,), pooled_size=1, pooling="average")

    @jax.jit
    def first_two(images):
        of = lambda m, x: list(m.backbone(x, train=False).values())[:2]  # noqa: E731
        return [m.apply(variables, images, method=of) for m in (module, means)]

    (one, two), (same, other) = first_two(images)
    np.testing.assert_array_equal(same, one)
    assert not np.allclose(other, two)


def test_googlenet_maps_have_the_sides_and_channels_of_table_one():
    assert sides_of("googlenet", 224) == {
        "conv1": (112, 64),
        "conv3": (56, 192),
        "inception3a": (28, 256),
        "inception3b": (28, 480),
        "inception4a": (14, 512),
        "inception4b": (14, 512),
        "inception4c": (14, 512),
        "inception4d": (14, 528),
        "inception4e": (14, 832),
        "inception5a": (7, 832),
        "inception5b": (7, 1024),
    }


@pytest.mark.parametrize(
    ("options", "count", "kernel"),
    [
        ({"auxiliary": False}, 6_624_904, (3, 3, 16, 32)),
        # Caffe's counts of the net as published.
        ({"auxiliary": False, "form": "paper"}, 6_998_552, (5, 5, 16, 32)),
        ({"form": "paper"}, 13_378_280, (5, 5, 16, 32)),
    ],
)
def test_googlenet_without_auxiliary_heads_and_as_published(options, count, kernel):
    shapes = shapes_of("googlenet", 224, **options)
    assert trees.count(shapes) == count
    assert shapes["backbone/inception3a/branch5x5/conv/kernel"].shape == kernel


@pytest.mark.parametrize(("form", "powers"), [("batch_norm", 0), ("paper", 2)])
def test_the_published_googlenet_has_response_norms_instead_of_batch_norms(form, powers):
    module: Any = MODELS["googlenet"].make(10, **TINY, form=form)
    init = lambda x: module.init(jax.random.key(0), x, train=False)  # noqa: E731
    variables = jax.eval_shape(init, images_of(8))
    assert ("batch_stats" in variables) == (form == "batch_norm")
    evaluate = jax.make_jaxpr(lambda v, x: module.apply(v, x, train=False))
    assert len(re.findall(r"\bpow\b", str(evaluate(variables, images_of(8))))) == powers


def test_inception_v3_maps_have_the_sides_of_the_paper():
    sides = sides_of("inception_v3", 299)
    stem = {name: side for name, side in sides.items() if name.startswith("conv")}
    assert list(stem.values()) == [(149, 32), (147, 32), (147, 64), (73, 80), (71, 192)]
    blocks = {name: side for name, side in sides.items() if name not in stem}
    assert blocks == {
        "mixed5b": (35, 256),
        "mixed5c": (35, 288),
        "mixed5d": (35, 288),
        **{f"mixed6{letter}": (17, 768) for letter in "abcde"},
        "mixed7a": (8, 1280),
        "mixed7b": (8, 2048),
        "mixed7c": (8, 2048),
    }


@pytest.mark.parametrize(
    ("name", "blocks", "names", "head"),
    [
        ("googlenet", (1, 3, 2), ["3a", "4a", "4b", "4c", "5a", "5b"], "inception4a"),
        ("inception_v3", (1, 2, 1), ["5b", "6a", "6b", "6c", "7a", "7b"], "mixed6c"),
    ],
)
def test_inception_nets_may_have_fewer_blocks(name, blocks, names, head):
    module = MODELS[name].make(10, **TINY, blocks=blocks)
    found = [part for part in sides_of(name, 16, **TINY, blocks=blocks) if "conv" not in part]
    assert [part[-2:] for part in found] == names
    assert list(module.auxiliary or {}) == [head]
    with refused(ConfigError, where="model.options.blocks", found=(1, 1, 3)):
        check_options(MODELS[name].make, {"blocks": (1, 1, 3)}, "model.options")


def test_inception_v3_without_its_auxiliary_head():
    assert trees.count(shapes_of("inception_v3", 299, auxiliary=False)) == 23_834_568


@pytest.mark.parametrize(
    ("name", "maps", "weight"),
    [("googlenet", ["inception4a", "inception4d"], 0.3), ("inception_v3", ["mixed6e"], 0.4)],
)
def test_auxiliary_heads_count_in_training_and_are_left_out_of_evaluation(name, maps, weight):
    module: Any = MODELS[name].make(10, **TINY)
    init = lambda x: module.init(jax.random.key(0), x, train=False)  # noqa: E731
    variables = jax.eval_shape(init, images_of(16))
    assert {*variables["params"]} == {"backbone", "head", *(f"auxiliary_{at}" for at in maps)}
    key = jax.random.key(1)

    def train(variables, images):
        collections, rngs = ["batch_stats"], {"dropout": key}
        return module.apply(variables, images, train=True, rngs=rngs, mutable=collections)[0]

    trained = jax.eval_shape(train, variables, images_of(16))
    assert isinstance(trained, WithAuxiliary)
    assert (len(trained.auxiliary), trained.weight) == (len(maps), weight)
    # Any logits will do for the loss, by hand the negative log-probability of the label.
    drawn = iter(jax.random.normal(key, (3, 2, 10)))
    trained = jax.tree.map(lambda leaf: next(drawn).reshape(leaf.shape), trained)
    labels = jnp.asarray([3, 7])
    each = (trained.logits, *trained.auxiliary)
    of = [-jax.nn.log_softmax(logits)[jnp.arange(2), labels] for logits in each]
    task, batch = classification("cross_entropy"), {"label": labels}
    np.testing.assert_allclose(task.losses(trained, batch), of[0] + weight * sum(of[1:]), rtol=1e-6)
    right = (trained.logits.argmax(-1) == labels).astype(jnp.float32)
    np.testing.assert_array_equal(task.metrics(trained, batch)["accuracy"], right)
    # Evaluation needs no variable of theirs.
    kept = {
        collection: {part: tree for part, tree in parts.items() if part in ("backbone", "head")}
        for collection, parts in variables.items()
    }
    evaluate = lambda v, x: module.apply(v, x, train=False)  # noqa: E731
    assert jax.eval_shape(evaluate, kept, images_of(16)).shape == (2, 10)


@pytest.mark.parametrize(
    ("name", "sides"),
    [
        ("squeezenet1_0", [109, 54, 54, 54, 27, 27, 27, 27, 13]),
        ("squeezenet1_1", [111, 55, 55, 27, 27, 13, 13, 13, 13]),
    ],
)
def test_squeezenet_pools_where_its_version_says(name, sides):
    found = sides_of(name, 224)
    assert [side for side, _ in found.values()] == sides
    expanded = [channels for _, channels in found.values()][1:]
    assert expanded == [128, 128, 256, 256, 384, 384, 512, 512]


def test_the_convolutional_head_is_a_mean_of_activated_maps():
    features = jax.random.normal(jax.random.key(0), (2, 3, 4, 5))
    head = ConvHead(7, LayerFactory(dense_init="he_normal"), 0.5)
    variables = head.init(jax.random.key(1), features, train=False)
    output: Any = variables["params"]["output"]
    output["bias"] = output["bias"] + 0.5
    maps = np.einsum("nhwc,ck->nhwk", features, output["kernel"][0, 0]) + 0.5
    expected = np.maximum(maps, 0).mean((1, 2))
    logits: Any = head.apply(variables, features, train=False)
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-6)
    dropped: Any = head.apply(variables, features, train=True, rngs={"dropout": jax.random.key(2)})
    assert not np.allclose(dropped, expected)


def test_the_last_layer_of_a_dense_head_has_an_initialiser_of_its_own():
    features = jnp.ones((1, 400))
    head = DenseHead(300, (500,), LayerFactory(dense_init="he_normal"), output_init="normal")
    params: Any = head.init(jax.random.key(0), features, train=False)["params"]
    # 150,000 and more draws: the deviation is known to some 0.2 %.
    assert float(params["hidden1"]["kernel"].std()) == pytest.approx((2 / 400) ** 0.5, rel=0.01)
    assert float(params["output"]["kernel"].std()) == pytest.approx(0.01, rel=0.01)


SMALLEST = [
    ("alexnet", {}, 63),
    ("alexnet_grouped", {"stem_padding": 0}, 67),
    ("alexnet", {"stem": "small"}, 15),
    ("vgg16", {}, 32),
    ("vgg16", {"stem": "small"}, 17),
    ("googlenet", {}, 31),
    ("googlenet", {"stem": "small"}, 8),
    ("inception_v3", {}, 75),
    ("inception_v3", {"stem": "small"}, 13),
    ("squeezenet1_0", {}, 29),
    ("squeezenet1_1", {}, 25),
    ("squeezenet1_1", {"stem": "small"}, 12),
]


@pytest.mark.parametrize(("name", "options", "least"), SMALLEST)
def test_images_below_the_smallest_side_are_refused(name, options, least):
    assert list(sides_of(name, least, **options).values())[-1][0] >= 1
    found, allowed = f"{least - 1}x{least - 1}", f"at least {least}x{least} pixels"
    with refused(ConfigError, where="config.data.image_size", found=found, allowed=allowed):
        sides_of(name, least - 1, **options)
