"""Stages of a network, from its images to its classes: layers frozen or trained together."""

import dataclasses
import re

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnn_lab.core import trees

HEAD = "head"
# `stage2_block3`, `stem_conv` and `last_bn` begin with the stage; so do `conv3_1` and `bn3_1` of
# VGG, which are of one stage, and `inception4b` and `mixed6c`, whose letter is the place in it.
STAGE_PATTERNS = (
    re.compile(r"(?:conv|bn)(?P<stage>\d+)_\d+"),
    re.compile(r"(?P<stage>[a-z]+\d*)_.*"),
    re.compile(r"(?P<stage>[a-z]+\d+)[a-z]?"),
)
KERNEL_AXES = 2  # of the smallest kernel


@dataclasses.dataclass(frozen=True)
class Stage:
    """Consecutive layers that share a name.

    Attributes:
        name: `stem`, `stage1`, ..., `head`.
        paths: of their parameters, in the order of the tree.
    """

    name: str
    paths: tuple[str, ...]


def stages_of(model: nn.Module, image_shape: tuple[int, int, int]) -> tuple[Stage, ...]:
    """The stages of a model in the order in which they run, the head last.

    Auxiliary heads belong to the head, and a normalisation that stands alone to the stage before.

    Args:
        model: with a `backbone` and a `head`.
        image_shape: (h, w, c).
    """
    order: list[str] = []

    def note_layer(call, arguments, options, context):
        path = context.module.path
        if len(path) > 1 and (layer := "/".join(path[:2])) not in order:
            order.append(layer)
        return call(*arguments, **options)

    with nn.intercept_methods(note_layer):
        image = jnp.zeros((1, *image_shape))
        shapes = jax.eval_shape(
            lambda key: model.init(key, image, train=False)["params"], jax.random.key(0)
        )
    stages: dict[str, list[str]] = {}
    layers: dict[str, list[str]] = {}
    leaves = trees.flatten(shapes)
    for path in leaves:
        layers.setdefault("/".join(path.split("/")[:2]), []).append(path)
    previous = ""
    for layer in sorted(layers, key=order.index):
        name = stage_name(layer)
        has_no_kernel = all(leaves[path].ndim < KERNEL_AXES for path in layers[layer])
        if has_no_kernel and previous and name not in stages and name != HEAD:
            name = previous
        stages.setdefault(name, []).extend(layers[layer])
        previous = name
    stages[HEAD] = stages.pop(HEAD)  # auxiliary heads are called before the last stages have run
    index_of = {path: index for index, path in enumerate(leaves)}
    return tuple(
        Stage(name, tuple(sorted(paths, key=index_of.__getitem__)))
        for name, paths in stages.items()
    )


def stage_name(layer: str) -> str:
    """The stage of a layer, by the layer's name.

    Args:
        layer: the first two parts of a parameter's path, such as `backbone/stage1_block2`.
    """
    part, _, name = layer.partition("/")
    if part != "backbone":
        return HEAD
    for pattern in STAGE_PATTERNS:
        if match := pattern.fullmatch(name):
            stage = match["stage"]
            return f"stage{stage}" if stage.isdigit() else stage
    return name
