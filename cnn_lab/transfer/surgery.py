"""Weights of one network brought into another one of the same architecture.

The classes, the channels of the images and their size may differ; nothing else may, unless a rule
says that it begins anew.
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
from cnn_lab.core.errors import CheckpointError, ConfigError, suggest
from cnn_lab.core.formatting import counted
from cnn_lab.transfer.convert import layer_of
from cnn_lab.transfer.fit import output_layers
from cnn_lab.transfer.stages import Stage

MOST_LINES = 6
KERNEL_AXES = 4  # h w c out


@dataclasses.dataclass(frozen=True)
class Weights:
    """What a network has learned, and of what.

    Attributes:
        variables: by collection.
        class_names: label to name.
    """

    variables: Tree
    class_names: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Transplant:
    """What a network begins with.

    Attributes:
        given: variables by collection, numpy arrays; the others begin as the model says.
        taken: paths of the parameters that are the source's, unchanged.
        notes: what was changed or begins anew, in a few words each.
    """

    given: Tree
    taken: frozenset[str]
    notes: tuple[str, ...]


def transplant(
    source: Weights,
    make: Callable[[int], nn.Module],
    class_names: tuple[str, ...],
    image_shape: tuple[int, int, int],
    stages: Sequence[Stage],
    *,
    keep_classes: bool = True,
    fresh: str | None = None,
    seed: int = 0,
) -> Transplant:
    """Fits the weights of a source into a model.

    Args:
        source: what is brought.
        make: number of classes -> module.
        class_names: of the model.
        image_shape: (h, w, c) of what the model takes.
        stages: of the model.
        keep_classes: keep what belongs to classes that both have, by their names.
        fresh: regular expression of parameter paths that begin anew.
        seed: of what begins anew beside classes that are kept.

    Raises:
        CheckpointError: they do not fit; lists the differences.
        ConfigError: `fresh` matches no parameter.
    """
    model, image = make(len(class_names)), jnp.zeros((1, *image_shape))
    init = lambda key: dict(model.init(key, image, train=False))  # noqa: E731
    shapes = trees.flatten(jax.eval_shape(init, jax.random.key(0)))
    theirs = trees.flatten(source.variables)
    anew = _begin_anew(fresh, shapes)
    outputs: set[str] = set()
    if not (keep_classes and source.class_names == class_names):
        layers = output_layers(make, len(class_names), image_shape)
        outputs = {path for path in shapes if layer_of(path) in layers} - anew
    first = _first_kernel(stages, shapes, theirs)
    kept = _places(source.class_names, class_names) if keep_classes and outputs else {}
    _check(
        shapes, theirs, skipped=anew | outputs, reshaped={first}, rows=outputs if kept else set()
    )
    given = {p: np.asarray(theirs[p]) for p in shapes if p not in anew | outputs}
    taken = {path for path in given if path != first}
    notes = []
    if first:
        given[first] = other_channels(given[first], shapes[first].shape[-2])
        there, here = theirs[first].shape[-2], shapes[first].shape[-2]
        way = "summed" if here == 1 else "repeated"
        notes.append(f"{layer_of(first)}: {counted(there, 'input channel')} {way} to {here}")
    if outputs:
        number = counted(len(class_names), "class")
        notes.append(f"output layer: {len(kept)} of {number} kept by name, the others begin anew")
        if kept:
            given |= _with_classes(_begun(init, outputs, seed), theirs, kept)
    if anew:
        notes.append(f"{counted(len(anew), 'variable')} begin anew by config.transfer.fresh")
    params = frozenset(p.removeprefix("params/") for p in taken if p.startswith("params/"))
    return Transplant(trees.unflatten(given), params, tuple(notes))


def other_channels(kernel: np.ndarray, channels: int) -> np.ndarray:
    """A first convolution's kernel for images of other channels.

    For gray images the channels are summed: a gray image gives what three channels gave that were
    equal once normalised. For
    colour images its only channel is repeated and divided by their number: an image gives what the
    mean of its channels gave.

    Args:
        kernel: [h w c out].
        channels: of the images.
    """
    if channels == 1:
        return kernel.sum(axis=-2, keepdims=True)
    return np.repeat(kernel, channels, axis=-2) / np.float32(channels)


def _begin_anew(fresh: str | None, shapes: Mapping[str, Any]) -> set[str]:
    """Variables of the layers that `fresh` chooses."""
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
    """Refuses leaves that differ.

    Args:
        shapes: ours.
        theirs: the source's.
        skipped: leaves that begin anew.
        reshaped: leaves that are brought to our shape.
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
    more = [f"  ... and {len(lines) - MOST_LINES} more"] if len(lines) > MOST_LINES else []
    raise CheckpointError(
        "\n".join(["The weights of the source do not fit the model:", *lines[:MOST_LINES], *more])
        + "\nGive config.model and config.data.image_size as the source has them, or name what is "
        "to begin anew by config.transfer.fresh."
    )


def _places(there: Sequence[str], here: Sequence[str]) -> dict[int, int]:
    """Place here -> place there, of the classes that both have."""
    places = {name: place for place, name in enumerate(there)}
    return {place: places[name] for place, name in enumerate(here) if name in places}


def _begun(init: Callable[[Any], Tree], paths: set[str], seed: int) -> dict[str, np.ndarray]:
    """Initial values of some leaves; the others are never computed."""

    def begin(key: Any) -> dict[str, jax.Array]:
        return {path: leaf for path, leaf in trees.flatten(init(key)).items() if path in paths}

    return jax.tree.map(np.asarray, jax.jit(begin)(jax.random.key(seed)))


def _with_classes(
    begun: Mapping[str, np.ndarray], theirs: Mapping[str, Any], kept: Mapping[int, int]
) -> dict[str, np.ndarray]:
    """Leaves of output layers, whose last axis is the classes, with those that are kept."""
    given = {}
    for path, values in begun.items():
        given[path] = values.copy()
        given[path][..., list(kept)] = np.asarray(theirs[path])[..., list(kept.values())]
    return given
