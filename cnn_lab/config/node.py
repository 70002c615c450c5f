"""Typed, typo-proof configuration nodes: the mechanism behind `cnn_lab.config`.

A node is a dataclass that inherits `Node`. Every way a value can enter it (constructor,
assignment, JSON, command line) passes the same check against the field's annotation, so a wrong
name offers the nearest fields and a wrong type says what was found and what was expected.
Only the standard library is used here.

Annotations understood: bool, int, float, str, `Literal[...]`, `tuple[T, ...]`, `tuple[T, U]`,
`dict[str, Any]`, a `Node` subclass, and any of these `| None`. A number's bounds are part of its
annotation, as `cnn_lab.config.ranges` has them. Numbers are finite.
"""

import ast
import copy
import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from cnn_lab.config.annotations import alternatives, describe, expected, ranges
from cnn_lab.core.errors import ConfigError, suggest

NodeType = TypeVar("NodeType", bound="Node")
NONE_WORDS = ("none", "null")
BOOL_WORDS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


class Node:
    """Base of configuration dataclasses; subclasses are `@dataclasses.dataclass(kw_only=True)`."""

    __dataclass_fields__: ClassVar[dict[str, Any]]
    _frozen = False

    def __new__(cls, *_, **values: Any):
        """Rejects unknown field names before the generated constructor sees them."""
        for name in values:
            _require_field(cls, name, cls.__name__)
        return super().__new__(cls)

    def __setattr__(self, name: str, value: Any) -> None:
        if self._frozen:
            raise ConfigError(
                f"{type(self).__name__}.{name} cannot be changed: the config is frozen once the "
                "run has been built; change it before."
            )
        annotation = _require_field(type(self), name, type(self).__name__)
        path = f"{type(self).__name__}.{name}"
        object.__setattr__(self, name, check_value(value, annotation, path))


def freeze(node: NodeType) -> NodeType:
    """Makes `node` and every node below it read-only, and returns it."""
    for field in dataclasses.fields(node):  # pyright: ignore[reportArgumentType]
        value = getattr(node, field.name)
        if isinstance(value, Node):
            freeze(value)
        elif isinstance(value, dict):
            object.__setattr__(node, field.name, types.MappingProxyType(value))
    object.__setattr__(node, "_frozen", True)
    return node


def to_dict(node: Node) -> dict[str, Any]:
    """Returns `node` as nested plain dicts, ready for JSON (tuples stay tuples)."""
    values = {f.name: getattr(node, f.name) for f in dataclasses.fields(node)}  # pyright: ignore[reportArgumentType]
    return {
        name: to_dict(value) if isinstance(value, Node) else _plain_copy(value)
        for name, value in values.items()
    }


def _plain_copy(value: Any) -> Any:
    return copy.deepcopy(dict(value) if isinstance(value, Mapping) else value)


def from_dict(node_type: type[NodeType], values: Any, path: str = "config") -> NodeType:
    """Builds a node from nested dicts, as `json.load` returns them.

    Raises:
        ConfigError: a field is unknown, or a value has the wrong type.
    """
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must be a table of fields; found {values!r}.")
    checked = {}
    for name, value in values.items():
        annotation = _require_field(node_type, name, path)
        checked[name] = check_value(value, annotation, f"{path}.{name}")
    return node_type(**checked)


def override(node: Node, path: str, text: str) -> None:
    """Sets the field at dotted `path` from command-line text, in place.

    A sub-node that is None is created with its defaults when one of its fields is set; a key of
    a `dict` field needs not exist before.

    Raises:
        ConfigError: no such field (offers the nearest), or the text does not fit its type.
    """
    *parents, last = path.split(".")
    seen = "config"
    for position, name in enumerate(parents):
        annotation = _require_field(type(node), name, seen)
        seen = f"{seen}.{name}"
        child = getattr(node, name)
        if isinstance(child, Mapping):
            key = ".".join([*parents[position + 1 :], last])
            setattr(node, name, {**child, key: parse_literal(text)})
            return
        if child is None:
            node_type = node_in(annotation)
            if node_type is None:
                raise ConfigError(f"{seen} is {describe(annotation)}, not a group of fields.")
            child = node_type()
            setattr(node, name, child)
        if not isinstance(child, Node):
            missing = [*parents[position + 1 :], last][0]
            raise ConfigError(f"{seen} is a single value, so {seen}.{missing} does not exist.")
        node = child
    annotation = _require_field(type(node), last, seen)
    setattr(node, last, parse_text(text, annotation, f"{seen}.{last}"))


def is_bool_field(root: type[Node], path: str) -> bool:
    """Tells whether the field at dotted `path` is a bool, so that its flag may stand alone."""
    annotation: Any = root
    for name in path.split("."):
        node_type = node_in(annotation)
        if node_type is None:
            return False
        annotation = typing.get_type_hints(node_type).get(name)
    return bool in alternatives(annotation)


def require_field(root: type[Node], path: str) -> None:
    """Raises a `ConfigError` with the nearest names where there is no field at dotted `path`."""
    node_type, seen = root, "config"
    for name in path.split("."):
        annotation, seen = _require_field(node_type, name, seen), f"{seen}.{name}"
        node_type = node_in(annotation)
        if node_type is None:  # a value, or the keys of a table
            return


def node_in(annotation: Any) -> type[Node] | None:
    """The node type among the alternatives of an annotation, None where there is none."""
    return next((option for option in alternatives(annotation) if _is_node(option)), None)


def check_value(value: Any, annotation: Any, path: str) -> Any:
    """Returns `value` if it fits `annotation` (ints become floats, lists tuples), else raises."""
    options = alternatives(annotation)
    for option in options:
        try:
            return _fit(value, option, path)
        except _MisfitError:
            continue
    raise ConfigError(f"{path} must be {expected(annotation)}; found {value!r}.")


def parse_text(text: str, annotation: Any, path: str) -> Any:
    """Turns command-line text into a value that fits `annotation`."""
    options = alternatives(annotation)
    if types.NoneType in options and text.lower() in NONE_WORDS:
        return None
    if bool in options and text.lower() in BOOL_WORDS:
        return BOOL_WORDS[text.lower()]
    if str in options or any(
        typing.get_origin(o) is Literal and text in o.__args__ for o in options
    ):
        return check_value(text, annotation, path)
    if node_in(annotation) is not None:
        raise ConfigError(f"{path} is a group of fields: set one of them, such as {path}.NAME=...")
    value = parse_literal(text)
    if any(typing.get_origin(option) is tuple for option in options) and not isinstance(
        value, tuple | list
    ):
        pieces = text.split(",") if "," in text else [text]
        value = tuple(parse_literal(piece.strip()) for piece in pieces)
    try:
        return check_value(value, annotation, path)
    except ConfigError:
        raise ConfigError(f"{path} must be {expected(annotation)}; found {text!r}.") from None


def parse_literal(text: str) -> Any:
    """Reads a Python literal; `true`, `false`, `none` in any case; anything else is a string."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if text.lower() in NONE_WORDS:
        return None
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text


class _MisfitError(Exception):
    """The value does not fit this alternative of the annotation; another one may."""


def _fit(value: Any, option: Any, path: str) -> Any:
    origin, arguments = typing.get_origin(option), typing.get_args(option)
    if option is types.NoneType and value is None:
        return None
    if option is float and isinstance(value, int | float) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise _MisfitError
        return float(value)
    if option is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if option in (bool, str) and isinstance(value, option):
        return value
    # True equals 1, but is no choice of a number.
    if origin is Literal and any(value == a and type(value) is type(a) for a in arguments):
        return value
    if origin is Annotated:
        value = _fit(value, arguments[0], path)
        if all(value in bounds for bounds in ranges(option)):
            return value
    if origin is tuple and isinstance(value, tuple | list):
        kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else arguments
        if len(kinds) == len(value):
            entries = zip(value, kinds, strict=True)
            return tuple(_fit_any(v, k, f"{path}[{i}]") for i, (v, k) in enumerate(entries))
    if origin is dict and isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return _with_tuples(value)
    if _is_node(option) and isinstance(value, option):
        return value
    if _is_node(option) and isinstance(value, dict):
        return from_dict(typing.cast(type[Node], option), value, path)
    raise _MisfitError


def _with_tuples(value: Any) -> Any:
    """A copy with tuples for lists: JSON knows lists only, and a config read back must be equal."""
    if isinstance(value, dict):
        return {name: _with_tuples(entry) for name, entry in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list | tuple) else value


def _fit_any(value: Any, annotation: Any, path: str) -> Any:
    for option in alternatives(annotation):
        try:
            return _fit(value, option, path)
        except _MisfitError:
            continue
    raise _MisfitError


def _is_node(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Node)


def _require_field(node_type: type[Node], name: str, path: str) -> Any:
    """Returns the annotation of a field, or raises with the nearest names."""
    hints = typing.get_type_hints(node_type, include_extras=True)
    names = [field.name for field in dataclasses.fields(node_type)]  # pyright: ignore[reportArgumentType]
    if name not in names:
        raise ConfigError(f"{path} has no field {name!r}; {suggest(name, names)}")
    return hints[name]
