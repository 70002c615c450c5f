"""Names that torchvision and timm have for the layers of our models.

A layer is the path that its leaves share, without the collection and the leaf's own name
(`backbone/stem_conv`); a leaf that is no usual one, such as `layer_scale`, is a layer of its own.
Theirs are the names of torch modules, without `weight` and the like.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cnn_lab.core.errors import ConfigError

Layers = Sequence[str]
Names = Callable[[Any, Layers], dict[str, str]]
Match = re.Match[str]
# Pattern of a whole layer -> a template of its name, as of `re.sub`, or a function of the match.
Rules = Mapping[str, str | Callable[[Match], str]]


@dataclasses.dataclass(frozen=True)
class Naming:
    """The names and layout of one family's layers in one library.

    Attributes:
        names: (model, our layers) -> their names in the library.
        map_sides: model -> the side of the map that a dense layer reads, flattened channels first
            there and last here; dense layers that are not listed read vectors.
        as_convolutions: whether hidden dense layers are convolutions there, over the whole map.
        scales_as_maps: whether factors of channels have axes for rows and columns there.
    """

    names: Names
    map_sides: Callable[[Any], Mapping[str, int]] = lambda _: {}
    as_convolutions: bool = False
    scales_as_maps: bool = False


def _name_of(layer: str, rules: Rules) -> str:
    """The name by the first rule whose pattern matches; a `KeyError` without one."""
    for pattern, name in rules.items():
        if match := re.fullmatch(pattern, layer):
            return match.expand(name) if isinstance(name, str) else name(match)
    raise KeyError(layer)


def _by_rules(rules: Rules) -> Names:
    return lambda _, layers: {layer: _name_of(layer, rules) for layer in layers}


def _from_0(number: str) -> int:
    """The number of a stage or block where they are counted from 0; ours begin with 1."""
    return int(number) - 1


# Families in which a layer's name follows from its path.


def _resnet(m: Match) -> str:
    own = {"shortcut_conv": "downsample.0", "shortcut_bn": "downsample.1"}.get(m[3], m[3])
    return f"layer{m[1]}.{_from_0(m[2])}.{own}"


_RESNET = _by_rules(
    {
        r"backbone/stem_(conv|bn)": r"\g<1>1",
        r"backbone/stage(\d+)_block(\d+)/(\w+)": _resnet,
        r"head/output": "fc",
    }
)


def _densenet(between: str) -> Names:
    layer = rf"features.denseblock\1.denselayer\2.%s{between}\3"
    return _by_rules(
        {
            r"backbone/stem_conv": "features.conv0",
            r"backbone/stem_bn": "features.norm0",
            r"backbone/stage(\d+)_layer(\d+)/bn(\d)": layer % "norm",
            r"backbone/stage(\d+)_layer(\d+)/conv(\d)": layer % "conv",
            r"backbone/stage(\d+)_transition/conv": r"features.transition\1.conv",
            r"backbone/stage(\d+)_transition/bn": r"features.transition\1.norm",
            r"backbone/final_bn": "features.norm5",
            r"head/output": "classifier",
        }
    )


_GOOGLENET = _by_rules(
    {
        r"backbone/conv(\d)/(conv|bn)": r"conv\1.\2",
        r"backbone/(inception\w+)/branch1x1/(conv|bn)": r"\1.branch1.\2",
        r"backbone/(inception\w+)/branch3x3_reduce/(conv|bn)": r"\1.branch2.0.\2",
        r"backbone/(inception\w+)/branch3x3/(conv|bn)": r"\1.branch2.1.\2",
        r"backbone/(inception\w+)/branch5x5_reduce/(conv|bn)": r"\1.branch3.0.\2",
        r"backbone/(inception\w+)/branch5x5/(conv|bn)": r"\1.branch3.1.\2",
        r"backbone/(inception\w+)/branch_pool/(conv|bn)": r"\1.branch4.1.\2",
        r"auxiliary_inception4a/conv/(conv|bn)": r"aux1.conv.\1",
        r"auxiliary_inception4a/dense/hidden1": "aux1.fc1",
        r"auxiliary_inception4a/dense/output": "aux1.fc2",
        r"auxiliary_inception4d/conv/(conv|bn)": r"aux2.conv.\1",
        r"auxiliary_inception4d/dense/hidden1": "aux2.fc1",
        r"auxiliary_inception4d/dense/output": "aux2.fc2",
        r"head/output": "fc",
    }
)

_STEM = ("1a_3x3", "2a_3x3", "2b_3x3", "3b_1x1", "4a_3x3")
_INCEPTION_V3 = _by_rules(
    {
        r"backbone/conv(\d)/(conv|bn)": lambda m: f"Conv2d_{_STEM[_from_0(m[1])]}.{m[2]}",
        # The blocks at the end split the last step of two branches.
        r"backbone/mixed(7[bc])/branch3x3/(conv|bn)": r"Mixed_\1.branch3x3_1.\2",
        r"backbone/mixed(7[bc])/branch3x3_long/(conv|bn)": r"Mixed_\1.branch3x3_2a.\2",
        r"backbone/mixed(7[bc])/branch3x3_tall/(conv|bn)": r"Mixed_\1.branch3x3_2b.\2",
        r"backbone/mixed(7[bc])/double3x3_long/(conv|bn)": r"Mixed_\1.branch3x3dbl_3a.\2",
        r"backbone/mixed(7[bc])/double3x3_tall/(conv|bn)": r"Mixed_\1.branch3x3dbl_3b.\2",
        r"backbone/mixed(\w\w)/double(\dx\d)_(\d)/(conv|bn)": r"Mixed_\1.branch\2dbl_\3.\4",
        r"backbone/mixed(\w\w)/(\w+)/(conv|bn)": r"Mixed_\1.\2.\3",
        r"auxiliary_\w+/conv(\d)/(conv|bn)": lambda m: f"AuxLogits.conv{_from_0(m[1])}.{m[2]}",
        r"auxiliary_\w+/output": "AuxLogits.fc",
        r"head/output": "fc",
    }
)


def _convnext(m: Match) -> str:
    layers = {"depthwise_conv": "block.0", "norm": "block.2", "expand": "block.3"}
    own = {**layers, "project": "block.5"}.get(m[3], m[3])
    return f"features.{2 * int(m[1]) - 1}.{_from_0(m[2])}.{own}"


_CONVNEXT = _by_rules(
    {
        r"backbone/stem_conv": "features.0.0",
        r"backbone/stem_norm": "features.0.1",
        r"backbone/stage(\d+)_block(\d+)/(\w+)": _convnext,
        r"backbone/stage(\d+)_norm": lambda m: f"features.{2 * _from_0(m[1])}.0",
        r"backbone/stage(\d+)_conv": lambda m: f"features.{2 * _from_0(m[1])}.1",
        r"head/norm": "classifier.0",
        r"head/output": "classifier.2",
    }
)


def _convnext_timm(m: Match) -> str:
    layers = {"depthwise_conv": "conv_dw", "expand": "mlp.fc1", "project": "mlp.fc2"}
    own = {**layers, "layer_scale": "gamma"}.get(m[3], m[3])
    return f"stages.{_from_0(m[1])}.blocks.{_from_0(m[2])}.{own}"


_CONVNEXT_TIMM = _by_rules(
    {
        r"backbone/stem_conv": "stem.0",
        r"backbone/stem_norm": "stem.1",
        r"backbone/stage(\d+)_block(\d+)/(\w+)": _convnext_timm,
        r"backbone/stage(\d+)_norm": lambda m: f"stages.{_from_0(m[1])}.downsample.0",
        r"backbone/stage(\d+)_conv": lambda m: f"stages.{_from_0(m[1])}.downsample.1",
        r"head/norm": "head.norm",
        r"head/output": "head.fc",
    }
)


def _map_of_auxiliary_heads(model: Any) -> dict[str, int]:
    """The sides of the maps that auxiliary heads average to."""
    return {f"auxiliary_{name}/dense/hidden1": 4 for name in model.auxiliary or ()}


# Families in which a layer's name is its place in a sequence.


def _classifier(layers: Layers, first: int) -> dict[str, str]:
    """Dense layers of a sequence in which activation and dropout stand between them."""
    hidden = [layer for layer in layers if layer.startswith("head/hidden")]
    names = {layer: f"classifier.{first + 3 * i}" for i, layer in enumerate(sorted(hidden))}
    return {**names, "head/output": f"classifier.{3 * len(hidden)}"}


def _alexnet(_: Any, layers: Layers) -> dict[str, str]:
    places = enumerate((0, 3, 6, 8, 10), start=1)
    return {f"backbone/conv{n}": f"features.{at}" for n, at in places} | _classifier(layers, 1)


def _vgg_features(layers: Layers) -> dict[str, str]:
    """A sequence in which normalisation, activation and, after a stage, pooling are counted."""
    names, place, previous_stage = {}, 0, "backbone/conv1"
    for layer in sorted(layer for layer in layers if layer.startswith("backbone/conv")):
        stage, norm = layer.partition("_")[0], layer.replace("/conv", "/bn")
        place += stage != previous_stage
        names[layer] = f"features.{place}"
        if norm in layers:
            place += 1
            names[norm] = f"features.{place}"
        place, previous_stage = place + 2, stage
    return names


def _vgg(_: Any, layers: Layers) -> dict[str, str]:
    return _vgg_features(layers) | _classifier(layers, 0)


def _vgg_timm(_: Any, layers: Layers) -> dict[str, str]:
    hidden = [layer for layer in layers if layer.startswith("head/hidden")]
    dense = {layer: layer.replace("head/hidden", "pre_logits.fc") for layer in hidden}
    return _vgg_features(layers) | {**dense, "head/output": "head.fc"}


def _first_dense(model: Any) -> dict[str, int]:
    """The first dense layer reads a map, whose sides are equal."""
    size, layer = model.head.pooled_size, "hidden1" if model.head.hidden else "output"
    return {f"head/{layer}": size if isinstance(size, int) else size[0]}


def _squeezenet(model: Any, layers: Layers) -> dict[str, str]:
    """A sequence in which activations and poolings are counted."""
    names = {"backbone/conv1": "features.0", "head/output": "classifier.1"}
    for layer in layers:
        if match := re.fullmatch(r"backbone/fire(\d)/(\w+)", layer):
            number = int(match[1])
            place = number + sum(pooled <= number for pooled in model.backbone.pooled)
            names[layer] = f"features.{place}.{match[2]}"
    return names


_PARTS = {"conv": 0, "bn": 1}  # of a sequence
_BLOCK = r"backbone/(stage(\d+)_block(\d+))/(.*)"


def _blocks(layers: Layers) -> list[tuple[int, int]]:
    """The stage and number of every block, in order."""
    found = (re.fullmatch(_BLOCK, layer) for layer in layers)
    return sorted({(int(m[2]), int(m[3])) for m in found if m})


def _expands(m: Match, layers: Layers) -> bool:
    """Whether a block has a first convolution: none where it would keep the channels' number."""
    return f"backbone/{m[1]}/expand_conv" in layers


def _in_sequence(layers: Layers, of_block: Callable[[Match], str], last: int) -> dict[str, str]:
    """Names where stem, blocks and the last convolution, at the place `last`, are one sequence."""
    rules: Rules = {
        r"backbone/stem_(conv|bn)": lambda m: f"features.0.{_PARTS[m[1]]}",
        _BLOCK: of_block,
        r"backbone/last_(conv|bn)": lambda m: f"features.{last}.{_PARTS[m[1]]}",
        r"head/output": "classifier.1",
    }
    return {layer: _name_of(layer, rules) for layer in layers}


def _mobilenet_v2(_: Any, layers: Layers) -> dict[str, str]:
    blocks = _blocks(layers)

    def of_block(m: Match) -> str:
        steps = ("expand", "depthwise", "project")[not _expands(m, layers) :]
        step, kind = m[4].split("_")
        place, part = steps.index(step), _PARTS[kind]
        # The last convolution has no activation, and so no sequence of its own.
        own = f"{place + part}" if step == "project" else f"{place}.{part}"
        return f"features.{1 + blocks.index((int(m[2]), int(m[3])))}.conv.{own}"

    return _in_sequence(layers, of_block, 1 + len(blocks))


def _efficientnet(_: Any, layers: Layers) -> dict[str, str]:
    squeeze = {"squeeze/reduce": ("squeeze", "fc1"), "squeeze/expand": ("squeeze", "fc2")}

    def of_block(m: Match) -> str:
        steps = ("expand", "depthwise", "squeeze", "project")[not _expands(m, layers) :]
        step, part = squeeze.get(m[4]) or m[4].split("_")
        own = f"{steps.index(step)}.{_PARTS.get(part, part)}"
        return f"features.{m[2]}.{_from_0(m[3])}.block.{own}"

    return _in_sequence(layers, of_block, 1 + _blocks(layers)[-1][0])


def _mobile_timm(_: Any, layers: Layers) -> dict[str, str]:
    squeeze = {"squeeze/reduce": "se.conv_reduce", "squeeze/expand": "se.conv_expand"}

    def of_block(m: Match) -> str:
        steps = ["expand", "depthwise", "project"]
        convolutions = ["conv_pw", "conv_dw", "conv_pwl"]
        if not _expands(m, layers):
            steps, convolutions = steps[1:], ["conv_dw", "conv_pw"]
        own = squeeze.get(m[4])
        if own is None:
            step, kind = m[4].split("_")
            place = steps.index(step)
            own = convolutions[place] if kind == "conv" else f"bn{place + 1}"
        return f"blocks.{_from_0(m[2])}.{_from_0(m[3])}.{own}"

    rules: Rules = {
        r"backbone/stem_conv": "conv_stem",
        r"backbone/stem_bn": "bn1",
        _BLOCK: of_block,
        r"backbone/last_conv": "conv_head",
        r"backbone/last_bn": "bn2",
        r"head/output": "classifier",
    }
    return {layer: _name_of(layer, rules) for layer in layers}


_RESNETS = {"torchvision": Naming(_RESNET), "timm": Naming(_RESNET)}
_DENSENETS = {
    "torchvision": Naming(_densenet("")),
    "timm": Naming(_densenet("")),
    # As in torchvision's published files, which it renames as it reads them.
    "torchvision_2017": Naming(_densenet(".")),
}
_VGGS = {
    "torchvision": Naming(_vgg, _first_dense),
    "timm": Naming(_vgg_timm, _first_dense, as_convolutions=True),
}
_SQUEEZENETS = {"torchvision": Naming(_squeezenet)}
# Model -> library -> naming; the first library's names are those of an export.
NAMINGS: dict[str, Mapping[str, Naming]] = {
    "alexnet": {"torchvision": Naming(_alexnet, _first_dense)},
    "convnext_tiny": {
        "torchvision": Naming(_CONVNEXT, scales_as_maps=True),
        "timm": Naming(_CONVNEXT_TIMM),
    },
    "efficientnet_b0": {"torchvision": Naming(_efficientnet), "timm": Naming(_mobile_timm)},
    "googlenet": {"torchvision": Naming(_GOOGLENET, _map_of_auxiliary_heads)},
    "inception_v3": {"torchvision": Naming(_INCEPTION_V3), "timm": Naming(_INCEPTION_V3)},
    "mobilenet_v2": {"torchvision": Naming(_mobilenet_v2), "timm": Naming(_mobile_timm)},
    "squeezenet1_0": _SQUEEZENETS,
    "squeezenet1_1": _SQUEEZENETS,
    **{f"densenet{layers}": _DENSENETS for layers in (121, 161, 169, 201)},
    "densenet_cifar": _DENSENETS,
    **{f"resnet{layers}": _RESNETS for layers in (18, 34, 50, 101, 152)},
    **{f"resnet{layers}": _RESNETS for layers in (20, 32, 44, 56, 110, 1202)},  # for CIFAR
    "resnext50_32x4d": _RESNETS,
    "wide_resnet50_2": _RESNETS,
    **{f"vgg{layers}": _VGGS for layers in (11, 13, 16, 19)},
    **{f"vgg{layers}_bn": _VGGS for layers in (11, 13, 16, 19)},
}
# Models whose published weights want pixels in [-1, 1]; torchvision rescales its usual ones.
PIXELS_IN_MINUS_ONE_TO_ONE = frozenset({"googlenet", "inception_v3"})


def namings_of(model: str) -> Mapping[str, Naming]:
    """The namings by library of a known model; a `ConfigError` where it has no counterpart."""
    if model not in NAMINGS:
        raise ConfigError(
            f"{model} has no counterpart in torchvision or timm, so its weights have no names "
            "there",
            where="model",
            found=model,
            allowed=NAMINGS,
        )
    return NAMINGS[model]


def choose_naming(namings: Mapping[str, Naming], library: str) -> Naming:
    """One of the namings of a model, by the library's name."""
    if library not in namings:
        problem = f"--naming={library} does not fit"
        raise ConfigError(problem, where="--naming", found=library, allowed=namings)
    return namings[library]
