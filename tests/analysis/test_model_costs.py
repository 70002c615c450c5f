"""What the table of models costs, against public numbers and what is stored for listings.

After adding or changing a model, write `cnn_lab/models/macs.py` by running this file.
"""

from pathlib import Path

import pytest

from cnn_lab.analysis.cost import cost_of
from cnn_lab.models import macs
from cnn_lab.models.macs import MACS
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
    assert MODELS[name].image_shape == shape
    assert round(MACS[name] / 1e9, 3) == billions


def test_the_stored_counts_are_of_the_models_that_there_are():
    assert {*MACS} == {*MODELS}, "run `python tests/analysis/test_model_costs.py`"


def _of_every_file() -> dict[str, str]:
    """The model with the fewest parameters by the file that it is in."""
    largest_first = sorted(MODELS, key=lambda name: -MODELS[name].num_parameters)
    return {MODELS[name].make.__module__: name for name in largest_first}


FEW = {*_of_every_file().values()}


@pytest.mark.parametrize(
    "name", [name if name in FEW else pytest.param(name, marks=pytest.mark.slow) for name in MODELS]
)
def test_the_stored_count_is_what_a_trace_finds(name):
    entry = MODELS[name]
    cost = cost_of(entry.make(entry.num_classes), entry.image_shape)
    assert sum(layer.num_parameters for layer in cost.layers) == entry.num_parameters
    assert cost.macs == MACS[name], "run `python tests/analysis/test_model_costs.py`"


def write() -> None:
    """Writes the file of stored counts again."""
    path = Path(macs.__file__)
    head, _, _ = path.read_text(encoding="utf-8").partition("MACS:")
    lines = []
    for name, entry in MODELS.items():
        count = cost_of(entry.make(entry.num_classes), entry.image_shape).macs
        lines.append(f'    "{name}": {count:_},\n')
    text = f"{head}MACS: dict[str, int] = {{\n{''.join(lines)}}}\n"
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write()
