"""The stages of every model."""

import jax
import jax.numpy as jnp
import pytest

from cnn_lab.core import trees
from cnn_lab.models.registry import MODELS
from cnn_lab.transfer.plan import stage_name, stages_of

STAGES = {
    "lenet5": "c1 c3 c5 head",
    "vgg11_bn": "stage1 stage2 stage3 stage4 stage5 head",
    "alexnet": "conv1 conv2 conv3 conv4 conv5 head",
    "googlenet": "conv1 conv2 conv3 inception3 inception4 inception5 head",
    "resnet18": "stem stage1 stage2 stage3 stage4 head",
    "densenet121": "stem stage1 stage2 stage3 stage4 head",
    "efficientnet_b0": "stem stage1 stage2 stage3 stage4 stage5 stage6 stage7 last head",
    "wide_resnet28_10": "stem stage1 stage2 stage3 head",  # the last normalisation is stage3's
    "convnext_tiny": "stem stage1 stage2 stage3 stage4 head",
    "unet": "stage1 stage2 stage3 stage4 stage5 head",
    "gru": "layer1 head",
    "linear": "head",
}


@pytest.mark.parametrize("name", STAGES)
def test_stages_are_in_the_order_of_the_network(name):
    entry = MODELS[name]
    stages = stages_of(entry.make(entry.num_classes), entry.image_shape)
    assert [stage.name for stage in stages] == STAGES[name].split()


# The model with the fewest parameters of every file; tracing the others takes minutes.
_LARGEST_FIRST = sorted(MODELS, key=lambda name: -MODELS[name].num_parameters)
FEW = {*{MODELS[name].make.__module__: name for name in _LARGEST_FIRST}.values()}
MANY = [name for name in MODELS if name not in {"resnet1202", "densenet201", *FEW}]


@pytest.mark.parametrize(
    "name", [*sorted(FEW), *(pytest.param(name, marks=pytest.mark.slow) for name in MANY)]
)
def test_every_parameter_of_every_model_is_in_one_stage(name):
    entry = MODELS[name]
    model = entry.make(entry.num_classes)
    image = jnp.zeros((1, *entry.image_shape))
    shapes = jax.eval_shape(lambda k: model.init(k, image, train=False), jax.random.key(0))
    stages = stages_of(model, entry.image_shape)
    paths = [path for stage in stages for path in stage.paths]
    assert sorted(paths) == sorted(trees.flatten(shapes["params"]))
    assert stages[-1].name == "head"
    assert all(path.startswith("backbone/") for stage in stages[:-1] for path in stage.paths)


def test_names_say_the_stage():
    assert stage_name("backbone/stage12_block3") == "stage12"
    assert stage_name("backbone/conv3_2") == stage_name("backbone/bn3_1") == "stage3"
    assert stage_name("backbone/mixed6b") == "mixed6"
    assert stage_name("backbone/conv3") == "conv3"
    assert stage_name("auxiliary_mixed6e/conv1") == "head"
