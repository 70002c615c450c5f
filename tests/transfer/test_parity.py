"""Logits and gradients of imported weights against torchvision and timm, where they are installed.

`make test-parity` installs them. Every model's names and shapes are compared; arithmetic on one or
two members of each family, by one library's names or the other's.
"""

import importlib.util

import jax
import numpy as np
import pytest
import torch_side

from cnn_lab.transfer import convert
from cnn_lab.transfer.naming import NAMINGS

if any(importlib.util.find_spec(name) is None for name in ("torch", "torchvision", "timm")):
    pytest.skip("`make test-parity` installs what this needs", allow_module_level=True)
torch = torch_side.import_torch()
COMPUTED = [
    *((name, "torchvision") for name in ("alexnet", "googlenet", "inception_v3", "squeezenet1_0")),
    *((name, "torchvision") for name in ("squeezenet1_1", "resnet18", "resnet50", "densenet121")),
    *((name, "torchvision") for name in ("resnext50_32x4d", "wide_resnet50_2", "vgg11")),
    *((name, "timm") for name in ("vgg11_bn", "mobilenet_v2", "efficientnet_b0", "convnext_tiny")),
    ("resnet20", "torchvision"),
]
# With the same layers in other places than those above, whose arithmetic is not repeated.
AUXILIARY = [
    ("googlenet", "inception4a", "aux1", (2, 512, 14, 14)),
    ("googlenet", "inception4d", "aux2", (2, 528, 9, 9)),
    ("inception_v3", "mixed6e", "AuxLogits", (2, 768, 17, 17)),
]


@pytest.mark.parametrize(("name", "library"), torch_side.PAIRS)
def test_names_and_shapes_are_theirs(name, library):
    with torch.device("meta"):
        state = torch_side.make_torch(name, library).state_dict()
    options = torch_side.options_for(name, library)
    module, shapes = torch_side.variable_shapes(name, 1000, **options)
    table = convert.make_table(module, shapes, NAMINGS[name][library])
    theirs = {n: tuple(t.shape) for n, t in state.items() if not n.endswith(convert.COUNTER)}
    assert {leaf.torch_name: leaf.torch_shape for leaf in table} == theirs


@pytest.mark.parametrize(("name", "library"), COMPUTED)
def test_logits_and_gradients_are_theirs(name, library):
    found = torch_side.closest(name, library)
    assert found.layer == ""
    assert found.logits <= torch_side.LOGITS
    assert found.gradients <= torch_side.GRADIENTS


@pytest.mark.parametrize(("name", "reads", "theirs", "shape"), AUXILIARY)
def test_auxiliary_heads_are_theirs(name, reads, theirs, shape):
    model, module, variables, _ = torch_side.imported(name, "torchvision", seed=0)
    maps = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    with torch.no_grad():
        expected = getattr(model, theirs)(torch.from_numpy(maps)).numpy()
    apply = jax.jit(
        lambda v, x: module.apply(v, x, method=lambda m, x: m.auxiliary[reads](x, train=False))
    )
    logits = apply(variables, maps.transpose(0, 2, 3, 1))
    assert torch_side.relative(np.asarray(logits), expected) <= torch_side.LOGITS


def test_a_layer_that_differs_is_named(monkeypatch):
    # A stride in another place is what such a comparison has to find.
    make = torch_side.make_torch

    def strided_elsewhere(name, library, **options):
        model = make(name, library, **options)
        block = model.layer3[0]
        block.conv1.stride, block.conv2.stride = (1, 1), (2, 2)
        return model

    monkeypatch.setattr(torch_side, "make_torch", strided_elsewhere)
    found = torch_side.distance("resnet20", "torchvision", size=16)
    assert found.logits > torch_side.LOGITS
    assert found.layer.startswith("layer3.0.conv1 (backbone/stage3_block1/conv1): shape")
