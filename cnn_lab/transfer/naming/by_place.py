"""Families in which a layer's name there is its place in a sequence."""

import re
from typing import Any

from cnn_lab.transfer.naming.rules import Layers, Naming, before, by_rules


def _classifier(layers: Layers, first: int) -> dict[str, str]:
    """Dense layers of a sequence in which activation and dropout stand between them."""
    hidden = [layer for layer in layers if layer.startswith("head/hidden")]
    names = {layer: f"classifier.{first + 3 * i}" for i, layer in enumerate(sorted(hidden))}
    return {**names, "head/output": f"classifier.{3 * len(hidden)}"}


def _alexnet(model: Any, layers: Layers) -> dict[str, str]:
    del model
    places = enumerate((0, 3, 6, 8, 10), start=1)
    return {f"backbone/conv{n}": f"features.{at}" for n, at in places} | _classifier(layers, 1)


def _vgg_features(layers: Layers) -> dict[str, str]:
    """A sequence in which normalisation, activation and, after a stage, pooling are counted."""
    names, place, stage_before = {}, 0, "backbone/conv1"
    for layer in sorted(layer for layer in layers if layer.startswith("backbone/conv")):
        stage, norm = layer.partition("_")[0], layer.replace("/conv", "/bn")
        place += stage != stage_before
        names[layer] = f"features.{place}"
        if norm in layers:
            place += 1
            names[norm] = f"features.{place}"
        place, stage_before = place + 2, stage
    return names


def _vgg(model: Any, layers: Layers) -> dict[str, str]:
    del model
    return _vgg_features(layers) | _classifier(layers, 0)


def _vgg_timm(model: Any, layers: Layers) -> dict[str, str]:
    del model
    hidden = [layer for layer in layers if layer.startswith("head/hidden")]
    dense = {layer: layer.replace("head/hidden", "pre_logits.fc") for layer in hidden}
    return _vgg_features(layers) | {**dense, "head/output": "head.fc"}


def _first_dense(model: Any) -> dict[str, int]:
    """The first dense layer reads a map, whose sides are equal."""
    return {"head/hidden1" if model.head.hidden else "head/output": model.head.pooled_size[0]}


def _squeezenet(model: Any, layers: Layers) -> dict[str, str]:
    """A sequence in which activations and poolings are counted."""
    names = {"backbone/conv1": "features.0", "head/output": "classifier.1"}
    for layer in layers:
        if match := re.fullmatch(r"backbone/fire(\d)/(\w+)", layer):
            number = int(match[1])
            place = number + sum(pooled <= number for pooled in model.backbone.pooled)
            names[layer] = f"features.{place}.{match[2]}"
    return names


PARTS = {"conv": 0, "bn": 1}  # of a sequence
BLOCK = r"backbone/(stage(\d+)_block(\d+))/(.*)"


def _blocks(layers: Layers) -> list[tuple[int, int]]:
    """(stage, number) of every block, in order."""
    found = (re.fullmatch(BLOCK, layer) for layer in layers)
    return sorted({(int(m[2]), int(m[3])) for m in found if m})


def _expands(block: str, layers: Layers) -> bool:
    """Blocks whose first convolution would keep the number of channels have none."""
    return f"backbone/{block}/expand_conv" in layers


def _mobilenet_v2(model: Any, layers: Layers) -> dict[str, str]:
    del model
    blocks = _blocks(layers)

    def of_block(m: re.Match[str]) -> str:
        steps = ("expand", "depthwise", "project")[not _expands(m[1], layers) :]
        step, kind = m[4].split("_")
        place, part = steps.index(step), PARTS[kind]
        # The last convolution has no activation, and so no sequence of its own.
        own = f"{place + part}" if step == "project" else f"{place}.{part}"
        return f"features.{1 + blocks.index((int(m[2]), int(m[3])))}.conv.{own}"

    return by_rules(
        (
            (r"backbone/stem_(conv|bn)", lambda m: f"features.0.{PARTS[m[1]]}"),
            (BLOCK, of_block),
            (
                r"backbone/last_(conv|bn)",
                lambda m: f"features.{1 + len(blocks)}.{PARTS[m[1]]}",
            ),
            (r"head/output", lambda _: "classifier.1"),
        )
    )(None, layers)


def _efficientnet(model: Any, layers: Layers) -> dict[str, str]:
    del model
    num_stages = _blocks(layers)[-1][0]
    squeeze = {"squeeze/reduce": ("squeeze", "fc1"), "squeeze/expand": ("squeeze", "fc2")}

    def of_block(m: re.Match[str]) -> str:
        steps = ("expand", "depthwise", "squeeze", "project")[not _expands(m[1], layers) :]
        step, part = squeeze.get(m[4]) or m[4].split("_")
        own = f"{steps.index(step)}.{PARTS.get(part, part)}"
        return f"features.{m[2]}.{before(m[3])}.block.{own}"

    return by_rules(
        (
            (r"backbone/stem_(conv|bn)", lambda m: f"features.0.{PARTS[m[1]]}"),
            (BLOCK, of_block),
            (r"backbone/last_(conv|bn)", lambda m: f"features.{num_stages + 1}.{PARTS[m[1]]}"),
            (r"head/output", lambda _: "classifier.1"),
        )
    )(None, layers)


def _mobile_timm(model: Any, layers: Layers) -> dict[str, str]:
    del model
    squeeze = {"squeeze/reduce": "se.conv_reduce", "squeeze/expand": "se.conv_expand"}

    def of_block(m: re.Match[str]) -> str:
        steps = ["expand", "depthwise", "project"]
        convolutions = ["conv_pw", "conv_dw", "conv_pwl"]
        if not _expands(m[1], layers):
            steps, convolutions = steps[1:], ["conv_dw", "conv_pw"]
        own = squeeze.get(m[4])
        if own is None:
            step, kind = m[4].split("_")
            place = steps.index(step)
            own = convolutions[place] if kind == "conv" else f"bn{place + 1}"
        return f"blocks.{before(m[2])}.{before(m[3])}.{own}"

    return by_rules(
        (
            (r"backbone/stem_conv", lambda _: "conv_stem"),
            (r"backbone/stem_bn", lambda _: "bn1"),
            (BLOCK, of_block),
            (r"backbone/last_conv", lambda _: "conv_head"),
            (r"backbone/last_bn", lambda _: "bn2"),
            (r"head/output", lambda _: "classifier"),
        )
    )(None, layers)


ALEXNET = {"torchvision": Naming(_alexnet, _first_dense)}
VGG = {
    "torchvision": Naming(_vgg, _first_dense),
    "timm": Naming(_vgg_timm, _first_dense, as_convolutions=True),
}
SQUEEZENET = {"torchvision": Naming(_squeezenet)}
MOBILENET_V2 = {"torchvision": Naming(_mobilenet_v2), "timm": Naming(_mobile_timm)}
EFFICIENTNET = {"torchvision": Naming(_efficientnet), "timm": Naming(_mobile_timm)}
