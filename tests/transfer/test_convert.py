"""Foreign tensors in a model: there and back, strictly, the head on request only."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import refused

from cnn_lab.core import trees
from cnn_lab.core.errors import CheckpointError, ConfigError
from cnn_lab.models.registry import MODELS
from cnn_lab.transfer import convert
from cnn_lab.transfer.naming import NAMINGS, choose_naming, namings_of

# Known by heart, as published files have them; theirs, ours and the shape there.
KNOWN = [
    ("resnet50", "torchvision", "layer2.0.downsample.0.weight", (512, 256, 1, 1)),
    ("resnet50", "timm", "layer4.2.bn3.running_var", (2048,)),
    ("resnext50_32x4d", "torchvision", "layer1.0.conv2.weight", (128, 4, 3, 3)),
    ("resnet20", "torchvision", "layer3.2.conv2.weight", (64, 64, 3, 3)),
    ("alexnet", "torchvision", "features.10.weight", (256, 256, 3, 3)),
    ("alexnet", "torchvision", "classifier.1.weight", (4096, 9216)),
    ("vgg16", "torchvision", "features.28.weight", (512, 512, 3, 3)),
    ("vgg16_bn", "torchvision", "features.41.running_mean", (512,)),
    ("vgg16", "timm", "pre_logits.fc1.weight", (4096, 512, 7, 7)),
    (
        "densenet121",
        "torchvision",
        "features.denseblock3.denselayer24.conv2.weight",
        (32, 128, 3, 3),
    ),
    ("densenet121", "torchvision_2017", "features.denseblock1.denselayer1.norm.1.weight", (64,)),
    ("googlenet", "torchvision", "inception5b.branch3.1.conv.weight", (128, 48, 3, 3)),
    ("inception_v3", "torchvision", "Mixed_7c.branch3x3dbl_3b.bn.running_mean", (384,)),
    ("squeezenet1_0", "torchvision", "features.12.expand3x3.weight", (256, 64, 3, 3)),
    ("squeezenet1_1", "torchvision", "features.12.expand3x3.weight", (256, 64, 3, 3)),
    ("mobilenet_v2", "torchvision", "features.17.conv.1.0.weight", (960, 1, 3, 3)),
    ("mobilenet_v2", "timm", "blocks.0.0.conv_pw.weight", (16, 32, 1, 1)),
    ("efficientnet_b0", "torchvision", "features.1.0.block.1.fc1.weight", (8, 32, 1, 1)),
    ("efficientnet_b0", "timm", "blocks.6.0.se.conv_expand.bias", (1152,)),
    ("convnext_tiny", "torchvision", "features.5.8.layer_scale", (384, 1, 1)),
    ("convnext_tiny", "timm", "stages.2.blocks.8.gamma", (384,)),
]
# Small forms with every kind of leaf.
SMALL = {
    "alexnet": {"stem": "small", "width_multiplier": 0.125, "hidden": (6, 5), "pooled_size": 2},
    "vgg11_bn": {"width": 4, "hidden": (6, 5), "pooled_size": 2},
    "googlenet": {"width_multiplier": 0.1, "blocks": (1, 1, 1)},
    "resnet20": {"width": 4},
    "efficientnet_b0": {"width_multiplier": 0.25, "depth_multiplier": 0.3},
    "convnext_tiny": {"depths": (1, 1, 1, 1), "widths": (4, 8, 8, 8)},
}
TRIED = [(name, library) for name in SMALL for library in NAMINGS[name]]


@functools.cache
def traced(name, num_classes, **options):
    """A module, and the shapes of its variables."""
    module = MODELS[name].make(num_classes, **options)
    image = jnp.zeros((1, *MODELS[name].image_shape))
    init = lambda key: dict(module.init(key, image, train=False))  # noqa: E731
    return module, jax.eval_shape(init, jax.random.key(0))


def table_of(name, library, num_classes=3, **options):
    module, shapes = traced(name, num_classes, **options)
    return convert.make_table(module, shapes, NAMINGS[name][library]), shapes


def drawn(table, seed=0):
    generator = np.random.default_rng(seed)
    return {
        leaf.torch_name: generator.normal(size=leaf.torch_shape).astype(np.float32)
        for leaf in table
    }


def fitted(name, tensors, num_classes=3, **options):
    others = {k: options.pop(k) for k in ("new_head", "seed") if k in options}
    make = lambda number: MODELS[name].make(number, **options)  # noqa: E731
    shape = MODELS[name].image_shape
    return convert.import_tensors(make, num_classes, shape, NAMINGS[name], tensors, **others)


@pytest.fixture(scope="module")
def resnet():
    """Tensors of a small resnet20 for three classes, as torchvision would name them."""
    return drawn(table_of("resnet20", "torchvision", width=4)[0])


@pytest.mark.parametrize(("name", "library", "theirs", "shape"), KNOWN)
def test_published_names_are_found_and_no_two_leaves_share_one(name, library, theirs, shape):
    table, shapes = table_of(name, library, MODELS[name].num_classes)
    names = {leaf.torch_name: leaf.torch_shape for leaf in table}
    assert names[theirs] == shape
    assert len(names) == len(jax.tree.leaves(shapes))


@pytest.mark.parametrize(("name", "library"), TRIED)
def test_there_and_back_not_a_bit_changes(name, library):
    table, _ = table_of(name, library, **SMALL[name])
    tensors = drawn(table)
    found = fitted(name, tensors, **SMALL[name])
    back = convert.to_torch(found.variables, table)
    assert back.keys() == tensors.keys()
    for leaf, values in tensors.items():
        assert back[leaf].tobytes() == values.tobytes()
        assert back[leaf].shape == values.shape
    assert found.new_layers == found.other_dtypes == ()


def test_the_flattened_map_is_read_in_our_order():
    options = {"width": 4, "hidden": (6,), "pooled_size": 2}
    table, _ = table_of("vgg11", "torchvision", **options)
    tensors = drawn(table)
    found = fitted("vgg11", tensors, **options)
    there = tensors["classifier.0.weight"].reshape(6, 32, 2, 2)  # out, channels, rows, columns
    here = found.variables["params"]["head"]["hidden1"]["kernel"].reshape(2, 2, 32, 6)
    np.testing.assert_array_equal(here[1, 0, 5], there[:, 5, 1, 0])


def test_the_library_is_found_by_the_names():
    for library in ("torchvision", "timm"):
        tensors = drawn(table_of("convnext_tiny", library, **SMALL["convnext_tiny"])[0])
        assert fitted("convnext_tiny", tensors, **SMALL["convnext_tiny"]).library == library


def test_counters_of_batches_are_ignored_and_half_precision_is_widened(resnet):
    half = {name: tensor.astype(np.float16) for name, tensor in resnet.items()}
    found = fitted("resnet20", {**half, "bn1.num_batches_tracked": np.array(7)}, width=4)
    assert found.other_dtypes == ("float16",)
    mean = found.variables["batch_stats"]["backbone"]["stem_bn"]["mean"]
    assert mean.dtype == np.float32
    np.testing.assert_array_equal(mean, half["bn1.running_mean"])


def test_differences_are_listed(resnet):
    tensors = {**resnet, "extra.weight": np.zeros(2, np.float32)}
    del tensors["layer1.0.bn1.running_var"]
    tensors["layer2.0.conv1.weight"] = np.zeros((3, 4, 3, 3), np.float32)
    tensors["bn1.bias"] = tensors["bn1.bias"].astype(np.int8)
    with pytest.raises(CheckpointError) as caught:
        fitted("resnet20", tensors, width=4)
    text = str(caught.value)
    assert "missing in the file: layer1.0.bn1.running_var (4,), for batch_stats/backbone/" in text
    assert "only in the file: extra.weight (2,)" in text
    assert "layer2.0.conv1.weight is (3, 4, 3, 3) in the file, (8, 4, 3, 3) in the model" in text
    assert "no weights: bn1.bias is int8" in text
    assert text.count("\n  ") == 4


def test_weights_of_another_architecture_are_refused_briefly(resnet):
    with pytest.raises(CheckpointError) as caught:
        fitted("alexnet", resnet, **SMALL["alexnet"])
    text = str(caught.value)
    assert "missing in the file: 10 more" in text
    assert f"only in the file: {len(resnet) - 6} more" in text
    assert text.endswith("bring its names to torchvision's by --rename.")


def test_another_head_is_left_at_its_initial_values_on_request_only(resnet):
    with refused(CheckpointError, where="--num_classes"):
        fitted("resnet20", resnet, num_classes=5, width=4)
    found = fitted("resnet20", resnet, num_classes=5, width=4, new_head=True)
    assert found.new_layers == ("head/output",)
    head = found.variables["params"]["head"]["output"]
    assert head["kernel"].shape == (16, 5)
    assert head["kernel"].std() > 0
    other = fitted("resnet20", resnet, num_classes=5, width=4, new_head=True, seed=1)
    assert not np.array_equal(other.variables["params"]["head"]["output"]["kernel"], head["kernel"])
    trunk = lambda f: trees.flatten(f.variables["params"]["backbone"])  # noqa: E731
    for path, leaf in trunk(found).items():
        np.testing.assert_array_equal(leaf, trunk(other)[path])


def test_a_new_head_takes_nothing_from_the_file_whatever_is_there(resnet):
    headless = {name: tensor for name, tensor in resnet.items() if not name.startswith("fc.")}
    from_both = [
        fitted("resnet20", tensors, width=4, new_head=True).variables["params"]["head"]["output"]
        for tensors in (resnet, headless)
    ]
    np.testing.assert_array_equal(from_both[0]["kernel"], from_both[1]["kernel"])
    assert not np.array_equal(from_both[0]["kernel"], resnet["fc.weight"].T)


def test_absent_auxiliary_heads_are_explained():
    options = SMALL["googlenet"]
    tensors = drawn(table_of("googlenet", "torchvision", auxiliary=False, **options)[0])
    with refused(CheckpointError, where="--option"):
        fitted("googlenet", tensors, **options)
    assert fitted("googlenet", tensors, auxiliary=False, **options).new_layers == ()


def test_models_without_counterpart_and_libraries_without_the_model_are_refused():
    with pytest.raises(ConfigError) as caught:
        namings_of("wide_resnet28_10")
    assert caught.value.found == "wide_resnet28_10"
    assert "wide_resnet50_2" in caught.value.nearest
    with refused(ConfigError, where="--naming", found="timn", nearest=("timm",)):
        choose_naming(namings_of("resnet18"), "timn")


def test_all_models_with_a_naming_are_there():
    assert set(NAMINGS) <= set(MODELS)
