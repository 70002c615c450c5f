"""Families in which a layer's name there follows from its path here."""

import re
from typing import Any

from cnn_lab.transfer.naming.rules import Names, Naming, before, by_rules


def _resnet(m: re.Match[str]) -> str:
    own = {"shortcut_conv": "downsample.0", "shortcut_bn": "downsample.1"}.get(m[3], m[3])
    return f"layer{m[1]}.{before(m[2])}.{own}"


_RESNET = by_rules(
    (
        (r"backbone/stem_(conv|bn)", lambda m: f"{m[1]}1"),
        (r"backbone/stage(\d+)_block(\d+)/(\w+)", _resnet),
        (r"head/output", lambda _: "fc"),
    )
)


def _densenet(between: str) -> Names:
    def of_layer(m: re.Match[str]) -> str:
        kind = {"bn": "norm", "conv": "conv"}[m[3]]
        return f"features.denseblock{m[1]}.denselayer{m[2]}.{kind}{between}{m[4]}"

    return by_rules(
        (
            (r"backbone/stem_conv", lambda _: "features.conv0"),
            (r"backbone/stem_bn", lambda _: "features.norm0"),
            (r"backbone/stage(\d+)_layer(\d+)/(bn|conv)(\d)", of_layer),
            (r"backbone/stage(\d+)_transition/conv", lambda m: f"features.transition{m[1]}.conv"),
            (r"backbone/stage(\d+)_transition/bn", lambda m: f"features.transition{m[1]}.norm"),
            (r"backbone/final_bn", lambda _: "features.norm5"),
            (r"head/output", lambda _: "classifier"),
        )
    )


_GOOGLENET_BRANCHES = {
    "branch1x1": "branch1",
    "branch3x3_reduce": "branch2.0",
    "branch3x3": "branch2.1",
    "branch5x5_reduce": "branch3.0",
    "branch5x5": "branch3.1",
    "branch_pool": "branch4.1",
}
_AUXILIARY_LAYERS = {
    "conv/conv": "conv.conv",
    "conv/bn": "conv.bn",
    "dense/hidden1": "fc1",
    "dense/output": "fc2",
}
_GOOGLENET = by_rules(
    (
        (r"backbone/conv(\d)/(conv|bn)", lambda m: f"conv{m[1]}.{m[2]}"),
        (
            r"backbone/(inception\w+)/(\w+)/(conv|bn)",
            lambda m: f"{m[1]}.{_GOOGLENET_BRANCHES[m[2]]}.{m[3]}",
        ),
        (r"auxiliary_inception4a/(.*)", lambda m: f"aux1.{_AUXILIARY_LAYERS[m[1]]}"),
        (r"auxiliary_inception4d/(.*)", lambda m: f"aux2.{_AUXILIARY_LAYERS[m[1]]}"),
        (r"head/output", lambda _: "fc"),
    )
)

_STEM = ("1a_3x3", "2a_3x3", "2b_3x3", "3b_1x1", "4a_3x3")
_SPLIT = {"long": "a", "tall": "b"}
_INCEPTION_V3 = by_rules(
    (
        (r"backbone/conv(\d)/(conv|bn)", lambda m: f"Conv2d_{_STEM[before(m[1])]}.{m[2]}"),
        # The blocks at the end split the last step of two branches.
        (
            r"backbone/mixed(7[bc])/branch3x3/(conv|bn)",
            lambda m: f"Mixed_{m[1]}.branch3x3_1.{m[2]}",
        ),
        (
            r"backbone/mixed(7[bc])/branch3x3_(long|tall)/(conv|bn)",
            lambda m: f"Mixed_{m[1]}.branch3x3_2{_SPLIT[m[2]]}.{m[3]}",
        ),
        (
            r"backbone/mixed(7[bc])/double3x3_(long|tall)/(conv|bn)",
            lambda m: f"Mixed_{m[1]}.branch3x3dbl_3{_SPLIT[m[2]]}.{m[3]}",
        ),
        (
            r"backbone/mixed(\w\w)/double(\dx\d)_(\d)/(conv|bn)",
            lambda m: f"Mixed_{m[1]}.branch{m[2]}dbl_{m[3]}.{m[4]}",
        ),
        (r"backbone/mixed(\w\w)/(\w+)/(conv|bn)", lambda m: f"Mixed_{m[1]}.{m[2]}.{m[3]}"),
        (
            r"auxiliary_\w+/conv(\d)/(conv|bn)",
            lambda m: f"AuxLogits.conv{before(m[1])}.{m[2]}",
        ),
        (r"auxiliary_\w+/output", lambda _: "AuxLogits.fc"),
        (r"head/output", lambda _: "fc"),
    )
)


def _convnext(m: re.Match[str]) -> str:
    layers = {"depthwise_conv": "block.0", "norm": "block.2", "expand": "block.3"}
    own = {**layers, "project": "block.5"}.get(m[3], m[3])
    return f"features.{2 * int(m[1]) - 1}.{before(m[2])}.{own}"


_CONVNEXT = by_rules(
    (
        (r"backbone/stem_conv", lambda _: "features.0.0"),
        (r"backbone/stem_norm", lambda _: "features.0.1"),
        (r"backbone/stage(\d+)_block(\d+)/(\w+)", _convnext),
        (r"backbone/stage(\d+)_norm", lambda m: f"features.{2 * before(m[1])}.0"),
        (r"backbone/stage(\d+)_conv", lambda m: f"features.{2 * before(m[1])}.1"),
        (r"head/norm", lambda _: "classifier.0"),
        (r"head/output", lambda _: "classifier.2"),
    )
)


def _convnext_timm(m: re.Match[str]) -> str:
    layers = {"depthwise_conv": "conv_dw", "expand": "mlp.fc1", "project": "mlp.fc2"}
    own = {**layers, "layer_scale": "gamma"}.get(m[3], m[3])
    return f"stages.{before(m[1])}.blocks.{before(m[2])}.{own}"


_CONVNEXT_TIMM = by_rules(
    (
        (r"backbone/stem_conv", lambda _: "stem.0"),
        (r"backbone/stem_norm", lambda _: "stem.1"),
        (r"backbone/stage(\d+)_block(\d+)/(\w+)", _convnext_timm),
        (r"backbone/stage(\d+)_norm", lambda m: f"stages.{before(m[1])}.downsample.0"),
        (r"backbone/stage(\d+)_conv", lambda m: f"stages.{before(m[1])}.downsample.1"),
        (r"head/norm", lambda _: "head.norm"),
        (r"head/output", lambda _: "head.fc"),
    )
)


def _map_of_auxiliary_heads(model: Any) -> dict[str, int]:
    """They average their maps to 4x4 pixels."""
    return {f"auxiliary_{name}/dense/hidden1": 4 for name in model.auxiliary or ()}


RESNET = {"torchvision": Naming(_RESNET), "timm": Naming(_RESNET)}
DENSENET = {
    "torchvision": Naming(_densenet("")),
    "timm": Naming(_densenet("")),
    # As in torchvision's published files, which it renames as it reads them.
    "torchvision_2017": Naming(_densenet(".")),
}
GOOGLENET = {"torchvision": Naming(_GOOGLENET, _map_of_auxiliary_heads)}
INCEPTION_V3 = {"torchvision": Naming(_INCEPTION_V3), "timm": Naming(_INCEPTION_V3)}
CONVNEXT = {
    "torchvision": Naming(_CONVNEXT, scales_as_maps=True),
    "timm": Naming(_CONVNEXT_TIMM),
}
