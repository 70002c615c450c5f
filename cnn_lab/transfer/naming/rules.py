"""How one library's names for the layers of a family are told.

A layer is the path that its leaves share, without the collection and the leaf's own name
(`backbone/stem_conv`); a leaf that is no usual one, such as `layer_scale`, is a layer of its own.
Theirs are the names of torch modules, without `weight` and the like.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Layers = Sequence[str]
Names = Callable[[Any, Layers], dict[str, str]]
Rules = Sequence[tuple[str, Callable[[re.Match[str]], str]]]


@dataclasses.dataclass(frozen=True)
class Naming:
    """How one library lays out the layers of one family of models.

    Attributes:
        names: (model, our layers) -> what they are called there.
        map_sides: model -> the side of the map that a dense layer reads, flattened channels first
            there and last here; dense layers that are not listed read vectors.
        as_convolutions: whether hidden dense layers are convolutions there, over the whole map.
        scales_as_maps: whether factors of channels have axes for rows and columns there.
    """

    names: Names
    map_sides: Callable[[Any], Mapping[str, int]] = lambda _: {}
    as_convolutions: bool = False
    scales_as_maps: bool = False


def by_rules(rules: Rules) -> Names:
    """Names by the first rule whose pattern matches the whole layer; a `KeyError` without one."""

    def name_of(layer: str) -> str:
        for pattern, name in rules:
            if match := re.fullmatch(pattern, layer):
                return name(match)
        raise KeyError(layer)

    return lambda _, layers: {layer: name_of(layer) for layer in layers}


def before(number: str) -> int:
    """Ours begin with 1, theirs with 0."""
    return int(number) - 1
