"""Pretrained weights adapted to another network of the same architecture.

The classes, the channels of the images and their size may differ; nothing else may, unless a rule
leaves it at its initial values.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cnn_lab.core import trees
from cnn_lab.core.arrays import Tree
from cnn_lab.core.errors import CheckpointError, ConfigError, counted, suggest
from cnn_lab.transfer.convert import initial_values, layer_of, output_layers
from cnn_lab.transfer.stages import Stage

MAX_LINES = 6
KERNEL_AXES = 4  # h w c out


@dataclasses.dataclass(frozen=True)
class Weights:
    """A trained network's variables and the names of its classes.

    Attributes:
        variables: by collection.
        class_names: label to name.
    """

    variables: Tree
    class_names: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """Pretrained values of a network's variables.

    Attributes:
        variables: by collection, numpy arrays; those that are not here get the model's initial
            values.
        unchanged: paths of the parameters that are the source's, bit for bit.
        notes: changed and new variables, in a few words each.
    """

    variables: Tree
    unchanged: frozenset[str]
    notes: tuple[str, ...]


def adapt_pretrained(
    source: Weights,
    make: Callable[[int], nn.Module],
    class_names: tuple[str, ...],
    image_shape: tuple[int, int, int],
    stages: Sequence[Stage],
    *,
    keep_classes: bool = True,
    fresh: str | None = None,
    seed: int = 0,
) -> Pretrained:
    """Adapts the weights of a source to a model.

    Args:
        source: the pretrained weights.
        make: number of classes -> module.
        class_names: of the model.
        image_shape: (h, w, c) of the model's images.
        stages: of the model.
        keep_classes: keep the output weights of classes that both have, by their names.
        fresh: regular expression of the paths of parameters that begin anew.
        seed: of the initial values beside classes that are kept.

    Raises:
        CheckpointError: they do not fit; lists the differences.
        ConfigError: `fresh` matches no parameter.
    """
    model, image = make(len(class_names)), jnp.zeros((1, *image_shape))
    init = lambda key: dict(model.init(key, image, train=False))  # noqa: E731
    shapes = trees.flatten(jax.eval_shape(init, jax.random.key(0)))
    theirs = trees.flatten(source.variables)
    anew = _chosen_by(fresh, shapes)
    outputs: set[str] = set()
    if not (keep_classes and source.class_names == class_names):
        layers = output_layers(make, len(class_names), image_shape)
        outputs = {path for path in shapes if layer_of(path) in layers} - anew
    first = _first_kernel(stages, shapes, theirs)
    kept = _shared_classes(source.class_names, class_names) if keep_classes and outputs else {}
    _check(
        shapes, theirs, skipped=anew | outputs, reshaped={first}, rows=outputs if kept else set()
    )
    variables = {p: np.asarray(theirs[p]) for p in shapes if p not in anew | outputs}
    unchanged = {path for path in variables if path != first}
    notes = []
    if first:
        variables[first] = other_channels(variables[first], shapes[first].shape[-2])
        there, here = theirs[first].shape[-2], shapes[first].shape[-2]
        way = "summed" if here == 1 else "repeated"
        notes.append(f"{layer_of(first)}: {counted(there, 'input channel')} {way} to {here}")
    if outputs:
        number = counted(len(class_names), "class")
        notes.append(f"output layer: {len(kept)} of {number} kept by name, the others begin anew")
        if kept:
            variables |= _with_classes(initial_values(init, outputs, seed), theirs, kept)
    if anew:
        notes.append(f"{counted(len(anew), 'variable')} begin anew by config.transfer.fresh")
    params = frozenset(p.removeprefix("params/") for p in unchanged if p.startswith("params/"))
    return Pretrained(trees.unflatten(variables), params, tuple(notes))


def other_channels(kernel: np.ndarray, channels: int) -> np.ndarray:
    """A first convolution's kernel for images of other channels.

    For gray images the channels are summed: a gray image gives the same as three channels that are
    equal once normalised. For colour images the only channel is repeated and divided by their
    number: an image gives the same as the mean of its channels.

    Args:
        kernel: [h w c out].
        channels: of the images.
    """
    if channels == 1:
        return kernel.sum(axis=-2, keepdims=True)
    return np.repeat(kernel, channels, axis=-2) / np.float32(channels)


def _chosen_by(fresh: str | None, shapes: Mapping[str, Any]) -> set[str]:
    """Variables of the layers whose parameters the regular expression `fresh` matches."""
    if fresh is None:
        return set()
    rule = re.compile(fresh)
    chosen = {layer_of(p) for p in shapes if rule.search(p.partition("/")[2])}
    if not chosen:
        layers = {"/".join(p.split("/")[1:3]) for p in shapes}
        raise ConfigError(
            f"config.transfer.fresh is {fresh!r}, which matches no parameter; "
            f"{suggest(fresh.strip('^$.*/'), layers)}"
        )
    return {path for path in shapes if layer_of(path) in chosen}


def _first_kernel(
    stages: Sequence[Stage], shapes: Mapping[str, Any], theirs: Mapping[str, Any]
) -> str:
    """The first convolution's kernel where only its channels differ, between gray and colour."""
    for path in (f"params/{path}" for path in stages[0].paths if path.endswith("kernel")):
        here = shapes[path].shape
        there = theirs[path].shape if path in theirs else ()
        if len(here) != KERNEL_AXES or len(there) != KERNEL_AXES:
            continue
        alike = (here[:2], here[3]) == (there[:2], there[3])
        if alike and here[2] != there[2] and 1 in (here[2], there[2]):
            return path
    return ""


def _check(
    shapes: Mapping[str, Any],
    theirs: Mapping[str, Any],
    *,
    skipped: set[str],
    reshaped: set[str],
    rows: set[str],
) -> None:
    """Raises a `CheckpointError` that lists the leaves that differ.

    Args:
        shapes: of the model's leaves.
        theirs: leaves of the source.
        skipped: leaves that begin anew.
        reshaped: leaves that are brought to the model's shape.
        rows: leaves of which some classes are kept: all but their last axis must be alike.
    """
    lines = [
        f"  missing in the source: {path} {shape.shape}"
        for path, shape in shapes.items()
        if path not in theirs and path not in skipped
    ]
    lines += [f"  only in the source: {p} {theirs[p].shape}" for p in theirs if p not in shapes]
    lines += [
        f"  other shape: {path} is {theirs[path].shape} in the source, {shape.shape} here"
        for path, shape in shapes.items()
        if path in theirs and path not in skipped | reshaped and theirs[path].shape != shape.shape
    ]
    lines += [
        f"  other shape: {path} is {theirs[path].shape} in the source, {shapes[path].shape} here"
        for path in sorted(rows)
        if path in theirs and theirs[path].shape[:-1] != shapes[path].shape[:-1]
    ]
    if not lines:
        return
    lines.sort(key=lambda line: ": params/" not in line)  # what the user chose comes first
    more = [f"  ... and {len(lines) - MAX_LINES} more"] if len(lines) > MAX_LINES else []
    raise CheckpointError(
        "\n".join(["The weights of the source do not fit the model:", *lines[:MAX_LINES], *more])
        + "\nGive config.model and config.data.image_size as the source has them, or name what is "
        "to begin anew by config.transfer.fresh."
    )


def _shared_classes(there: Sequence[str], here: Sequence[str]) -> dict[int, int]:
    """Indices here -> indices there of the classes that both have."""
    index_of = {name: index for index, name in enumerate(there)}
    return {index: index_of[name] for index, name in enumerate(here) if name in index_of}


def _with_classes(
    initial: Mapping[str, np.ndarray], theirs: Mapping[str, Any], kept: Mapping[int, int]
) -> dict[str, np.ndarray]:
    """Leaves of output layers, whose last axis is the classes, with those that are kept."""
    variables = {}
    for path, values in initial.items():
        variables[path] = values.copy()
        variables[path][..., list(kept)] = np.asarray(theirs[path])[..., list(kept.values())]
    return variables
