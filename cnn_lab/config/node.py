"""Typed, typo-proof groups of fields: the mechanism behind `cnn_lab.config`.

A node is a dataclass that inherits `Node`. Every way a value can enter it (constructor,
assignment, JSON, command line) passes the one check of `cnn_lab.config.values`, so a wrong name
is refused with the nearest fields, and a wrong type with what was found and what was expected.
"""

import copy
import dataclasses
import types
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

from cnn_lab.config.values import (
    annotations_of,
    check_value,
    field_annotation,
    group_in,
    parse_literal,
    parse_text,
)
from cnn_lab.core.errors import ConfigError

NodeType = TypeVar("NodeType", bound="Node")
RUNTIME = {"runtime": True}


def runtime(default: Any) -> Any:
    """A field that does not change what is computed, such as a folder or a device count."""
    return dataclasses.field(default=default, metadata=RUNTIME)


class Node:
    """Base of configuration dataclasses; subclasses are `@dataclasses.dataclass(kw_only=True)`."""

    __dataclass_fields__: ClassVar[dict[str, Any]]
    _frozen = False

    def __new__(cls, *_, **values: Any):
        """Rejects unknown field names before the generated constructor sees them."""
        for name in values:
            field_annotation(cls, name, cls.__name__)
        return super().__new__(cls)

    def __setattr__(self, name: str, value: Any) -> None:
        where = f"{type(self).__name__}.{name}"
        if self._frozen:
            raise ConfigError(
                f"{where} cannot be changed: the config is frozen once the run has been built; "
                "change it before.",
                where=where,
                found=value,
            )
        annotation = field_annotation(type(self), name, type(self).__name__)
        object.__setattr__(self, name, check_value(value, annotation, where))


def freeze(node: NodeType) -> NodeType:
    """Makes `node` and every node below it read-only, and returns it."""
    for name in annotations_of(type(node)):
        value = getattr(node, name)
        if isinstance(value, Node):
            freeze(value)
        elif isinstance(value, dict):
            object.__setattr__(node, name, types.MappingProxyType(value))
    object.__setattr__(node, "_frozen", True)
    return node


def to_dict(node: Node) -> dict[str, Any]:
    """Returns `node` as nested plain dicts, ready for JSON (tuples stay tuples)."""
    values = {}
    for name in annotations_of(type(node)):
        value = getattr(node, name)
        if isinstance(value, Node):
            values[name] = to_dict(value)
        else:
            values[name] = copy.deepcopy(dict(value) if isinstance(value, Mapping) else value)
    return values


def from_dict(node_type: type[NodeType], values: Any, where: str = "config") -> NodeType:
    """Builds a node from nested dicts, as `json.load` returns them."""
    if not isinstance(values, dict):
        raise ConfigError(where=where, found=values, allowed="a table of fields")
    return check_value(values, node_type, where)


def override(node: Node, path: str, text: str) -> None:
    """Sets the field at dotted `path` from command-line text, in place.

    A sub-node that is None is created with its defaults when one of its fields is set; a key of
    a `dict` field needs not exist before. A `ConfigError` where there is no such field, or the text
    does not fit its type.
    """
    *parents, last = path.split(".")
    where = "config"
    for position, name in enumerate(parents):
        group = group_in(field_annotation(type(node), name, where))
        where = f"{where}.{name}"
        below = [*parents[position + 1 :], last]
        child = getattr(node, name)
        if isinstance(child, Mapping):
            setattr(node, name, {**child, ".".join(below): parse_literal(text)})
            return
        if child is None and group is not None:
            child = group()
            setattr(node, name, child)
        if not isinstance(child, Node):
            raise ConfigError(
                f"{where} is a single value, so {where}.{below[0]} does not exist.",
                where=where,
                found=below[0],
            )
        node = child
    annotation = field_annotation(type(node), last, where)
    setattr(node, last, parse_text(text, annotation, f"{where}.{last}"))


def annotation_at(node_type: type[Node], path: str) -> Any:
    """The annotation of the field at dotted `path`, or of the single value or table on the way."""
    group, annotation, where = node_type, None, "config"
    for name in path.split("."):
        annotation, where = field_annotation(group, name, where), f"{where}.{name}"
        group = group_in(annotation)
        if group is None:
            break
    return annotation
