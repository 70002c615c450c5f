"""Pretrained weights adapted to another network of the same architecture.

The classes, the channels of the images and their size may differ; nothing else may, unless a rule
leaves it at its initial values.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import numpy as np

from cnn_lab.core import trees
from cnn_lab.core.arrays import Tree
from cnn_lab.core.errors import CheckpointError, ConfigError
from cnn_lab.core.text import counted
from cnn_lab.layers.initialize import trace_module
from cnn_lab.transfer.convert import initial_values, layer_of, output_layers
from cnn_lab.transfer.plan import Stage

MAX_LINES = 6  # of a list of differences


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """Pretrained values of a network's variables.

    Attributes:
        variables: by collection, numpy arrays; the others get the model's initial values.
        unchanged: paths of the parameters that are the source's, bit for bit.
        notes: changed and new variables, in a few words each.
    """

    variables: Tree
    unchanged: frozenset[str]
    notes: tuple[str, ...]


def adapt_pretrained(
    source: Tree,
    source_classes: tuple[str, ...],
    make: Callable[[int], nn.Module],
    class_names: tuple[str, ...],
    image_shape: tuple[int, int, int],
    stages: Sequence[Stage],
    *,
    keep_classes: bool = True,
    fresh: str | None = None,
    seed: int = 0,
) -> Pretrained:
    """Adapts the variables of a source to a model.

    Args:
        source: variables by collection.
        source_classes: label to name.
        make: number of classes -> module.
        class_names: of the model, as are `image_shape` (h, w, c) and `stages`.
        keep_classes: keep the output weights of classes that both have, by their names.
        fresh: regular expression of the paths of parameters that are initialised.
        seed: of the initial values beside classes that are kept.

    Raises:
        CheckpointError: they do not fit; lists the differences.
        ConfigError: `fresh` matches no parameter.
    """
    init = trace_module(make(len(class_names)), image_shape)
    shapes = trees.flatten(init.shapes)
    theirs = trees.flatten(source)
    anew = _chosen_by(fresh, shapes)
    outputs: set[str] = set()
    if not (keep_classes and source_classes == class_names):
        layers = output_layers(make, len(class_names), image_shape)
        outputs = {path for path in shapes if layer_of(path) in layers} - anew
    first = _first_kernel(stages, shapes, theirs)
    kept: dict[int, int] = {}  # indices here -> indices there of the classes that both have
    if keep_classes and outputs:
        index_of = {name: index for index, name in enumerate(source_classes)}
        kept = {i: index_of[name] for i, name in enumerate(class_names) if name in index_of}
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
            places, sources = list(kept), list(kept.values())
            for path, initial in initial_values(init, outputs, seed).items():
                variables[path] = initial.copy()  # its last axis is the classes
                variables[path][..., places] = np.asarray(theirs[path])[..., sources]
    if anew:
        notes.append(f"{counted(len(anew), 'variable')} begin anew by config.transfer.fresh")
    params = frozenset(p.removeprefix("params/") for p in unchanged if p.startswith("params/"))
    return Pretrained(trees.unflatten(variables), params, tuple(notes))


def other_channels(kernel: np.ndarray, channels: int) -> np.ndarray:
    """A first convolution's kernel for images of other channels.

    For gray images the channels are summed: a gray image gives the same as three channels that are
    equal once normalised. For colour images the only channel is repeated and divided by their
    number: an image gives the same as the mean of its channels. The kernel is [h w c out].
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
        raise ConfigError(
            f"config.transfer.fresh is {fresh!r}, which matches no parameter",
            where="config.transfer.fresh",
            found=fresh.strip("^$.*/"),
            allowed={"/".join(p.split("/")[1:3]) for p in shapes},
        )
    return {path for path in shapes if layer_of(path) in chosen}


def _first_kernel(
    stages: Sequence[Stage], shapes: Mapping[str, Any], theirs: Mapping[str, Any]
) -> str:
    """The first convolution's kernel where only its channels differ, between gray and colour."""
    for path in (f"params/{path}" for path in stages[0].paths if path.endswith("kernel")):
        here = shapes[path].shape
        there = theirs[path].shape if path in theirs else ()
        if len(here) == 4 and len(there) == 4:  # h w c out
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

    Leaves that are skipped are initialised, those that are reshaped are brought to the model's
    shape, and of `rows` some classes are kept: all but their last axis must be alike.
    """
    lines = {p: f"only in the source: {p} {theirs[p].shape}" for p in theirs if p not in shapes}
    for path, leaf in shapes.items():
        if path not in theirs:
            if path not in skipped:
                lines[path] = f"missing in the source: {path} {leaf.shape}"
        elif path not in (skipped - rows) | reshaped:
            there, here = theirs[path].shape, leaf.shape
            fits = there[:-1] == here[:-1] if path in rows else there == here
            if not fits:
                lines[path] = f"other shape: {path} is {there} in the source, {here} here"
    if not lines:
        return
    # The parameters, which users chose, first.
    found = sorted(lines, key=lambda path: not path.startswith("params/"))
    shown = [lines[path] for path in found[:MAX_LINES]]
    more = [f"... and {len(found) - MAX_LINES} more"] if len(found) > MAX_LINES else []
    problem = (
        "\n  ".join(["The weights of the source do not fit the model:", *shown, *more])
        + "\nGive config.model and config.data.image_size as the source has them, or match what is "
        "to be initialised by config.transfer.fresh."
    )
    raise CheckpointError(problem, where="config.transfer.source", found=found)
