"""Costs of the models: public numbers, what is registered, and what a trace finds."""

import pytest

from cnn_lab.analysis.cost import cost_of
from cnn_lab.models.registry import MODELS

# In units of 1e9, of the nets with 1000 classes: torchvision's and timm's counts.
PUBLIC = {
    "alexnet": (0.714, (224, 224, 3)),
    "convnext_tiny": (4.456, (224, 224, 3)),
    "densenet121": (2.834, (224, 224, 3)),
    "efficientnet_b0": (0.386, (224, 224, 3)),
    "googlenet": (1.498, (224, 224, 3)),
    "inception_v3": (5.713, (299, 299, 3)),
    "mobilenet_v2": (0.301, (224, 224, 3)),
    "resnet18": (1.814, (224, 224, 3)),
    "resnet50": (4.089, (224, 224, 3)),
    "squeezenet1_1": (0.349, (224, 224, 3)),
    "vgg16": (15.470, (224, 224, 3)),
}


def test_every_model_with_a_public_count_exists():
    assert [name for name in PUBLIC if name not in MODELS] == []


@pytest.mark.parametrize("name", PUBLIC)
def test_multiply_accumulates_are_the_published_ones(name):
    billions, shape = PUBLIC[name]
    macs = MODELS[name].macs
    assert macs is not None
    assert (round(macs / 1e9, 3), MODELS[name].image_shape) == (billions, shape)


def _of_every_file() -> dict[str, str]:
    """The model with the fewest parameters by the file that it is in."""
    largest_first = sorted(MODELS, key=lambda name: -MODELS[name].num_parameters)
    return {MODELS[name].make.__module__: name for name in largest_first}


# And one of each kind of net in the file of residual networks.
FEW = {*_of_every_file().values(), "plain20", "resnet18", "resnet20"}


@pytest.mark.parametrize(
    "name", [name if name in FEW else pytest.param(name, marks=pytest.mark.slow) for name in MODELS]
)
def test_the_registered_counts_are_what_a_trace_finds(name):
    entry = MODELS[name]
    assert entry.macs is not None
    cost = cost_of(entry.make(entry.num_classes), entry.image_shape)
    entry.verify(cost)
    assert sum(layer.num_parameters for layer in cost.layers) == entry.num_parameters
