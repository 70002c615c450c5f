"""One value against its annotation: what fits, in words, and how text becomes a value.

Annotations understood: bool, int, float, str, `Literal[...]`, `tuple[T, ...]`, `tuple[T, U]`,
`dict[str, Any]`, a group of fields (`cnn_lab.config.node.Node`), and any of these `| None`. A
number's bounds are part of its annotation, as `cnn_lab.config.values` has them. Numbers are finite.
"""

import ast
import dataclasses
import functools
import inspect
import math
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal

from cnn_lab.core.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Range:
    """The values a number may have: `min` and `max` are among them, `above` and `below` are not."""

    min: int | float | None = None
    above: int | float | None = None
    max: int | float | None = None
    below: int | float | None = None

    def __contains__(self, value: int | float) -> bool:
        return (
            (self.min is None or value >= self.min)
            and (self.above is None or value > self.above)
            and (self.max is None or value <= self.max)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        bounds = {"of at least": self.min, "above": self.above}
        bounds |= {"at most": self.max, "below": self.below}
        return " and ".join(f"{word} {b}" for word, b in bounds.items() if b is not None)


Natural = Annotated[int, Range(min=0)]
Count = Annotated[int, Range(min=1)]
NonNegative = Annotated[float, Range(min=0)]
Positive = Annotated[float, Range(above=0)]
Fraction = Annotated[float, Range(min=0, max=1)]
ProperFraction = Annotated[float, Range(min=0, below=1)]
Share = Annotated[float, Range(above=0, max=1)]
Seed = Annotated[int, Range(min=0, below=2**32)]


def declared_options(function: Callable[..., Any]) -> dict[str, tuple[Any, Any]]:
    """The options that a function declares, its parameters with a default.

    Returns:
        Name to annotation and default.

    Raises:
        ConfigError: an option without an annotation.
    """
    options = {
        name: parameter
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }
    for name, parameter in options.items():
        if parameter.annotation is inspect.Parameter.empty:
            raise ConfigError(
                f"{function.__name__}: its option {name!r} has no annotation, which says what "
                f"fits; write one, such as {name}: {type(parameter.default).__name__}.",
                where=f"{function.__module__}.{function.__qualname__}",
                found=name,
            )
    hints = typing.get_type_hints(function, include_extras=True) if options else {}
    return {name: (hints[name], parameter.default) for name, parameter in options.items()}


def check_options(
    function: Callable[..., Any],
    options: Mapping[str, Any],
    where: str,
    chosen_by: str | None = None,
) -> dict[str, Any]:
    """Returns `options` if `function` declares each of them and each value fits.

    Args:
        function: its parameters with a default are the options; their annotations say what fits.
        options: from a config.
        where: their field in the config.
        chosen_by: the field that names the function; `name` beside the options by default.

    Raises:
        ConfigError: an option that is not declared (offers the nearest) or does not fit.
    """
    declared = declared_options(function)
    chosen_by = chosen_by or f"{where.rpartition('.')[0]}.name"
    for name in options:
        if name not in declared:
            raise ConfigError(
                f"{where}: {function.__name__} has no option {name!r}",
                where=where,
                found=name,
                allowed=declared,
                advice=f"if {chosen_by} was changed, the options of the old one are still set: "
                f"--{where}={{}} clears them",
            )
    return {
        name: check_value(value, declared[name][0], f"{where}.{name}")
        for name, value in options.items()
    }


def parse_options(
    function: Callable[..., Any], texts: Iterable[str], flag: str, name: str
) -> dict[str, Any]:
    """Options given on the command line, as `NAME=VALUE`.

    Args:
        function: declares them.
        texts: one each.
        flag: that they were given by, such as `--option`.
        name: of the model that the function makes.

    Raises:
        ConfigError: an option that is not declared (offers the nearest) or does not fit.
    """
    declared, options = declared_options(function), {}
    for text in texts:
        option, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(where=flag, found=text, allowed="NAME=VALUE")
        if option not in declared:
            problem = f"{flag}: {name} has no option {option!r}"
            raise ConfigError(problem, where=flag, found=option, allowed=declared)
        options[option] = parse_text(value, declared[option][0], f"{flag}={option}")
    return options


NONE_WORDS = ("none", "null")
BOOL_WORDS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
_WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a finite number",
    str: "a text",
    types.NoneType: "none",
}


def alternatives(annotation: Any) -> tuple[Any, ...]:
    """The members of a union; any other annotation alone."""
    if typing.get_origin(annotation) in (types.UnionType, typing.Union):
        return typing.get_args(annotation)
    return (annotation,)


def group_in(annotation: Any) -> Any:
    """The group of fields among the alternatives of an annotation, None where there is none."""
    return next((option for option in alternatives(annotation) if _is_group(option)), None)


@functools.cache
def annotations_of(group: type) -> dict[str, Any]:
    """Name to annotation, bounds included, of the fields of a group."""
    hints = typing.get_type_hints(group, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(group)}


def field_annotation(group: type, name: str, where: str) -> Any:
    """The annotation of a field; a `ConfigError` with the nearest names where there is none."""
    known = annotations_of(group)
    if name not in known:
        raise ConfigError(f"{where} has no field {name!r}", where=where, found=name, allowed=known)
    return known[name]


def describe(annotation: Any) -> str:
    """An annotation in words: `a whole number or none`."""
    texts = [_describe_one(option) for option in alternatives(annotation)]
    return (", or " if "," in "".join(texts) or " and " in "".join(texts) else " or ").join(texts)


def _describe_one(option: Any) -> str:
    origin, arguments = typing.get_origin(option), typing.get_args(option)
    if option in _WORDS:
        return _WORDS[option]
    if origin is Annotated:
        return f"{_describe_one(arguments[0])} {' and '.join(map(str, _ranges(option)))}"
    if origin is Literal:
        return "one of " + ", ".join(map(str, arguments))
    if origin is tuple and arguments[-1] is Ellipsis:
        return f"a tuple, each entry {describe(arguments[0])}"
    if origin is tuple:
        entries = dict.fromkeys(map(describe, arguments))
        each = "each " if len(entries) == 1 else ""
        return f"a tuple of {len(arguments)}, {each}{', '.join(entries)}"
    if origin is dict or option is dict:
        return "a table of named options"
    return f"a {getattr(option, '__name__', option)}"


def expected(annotation: Any) -> str:
    """The same words, and how a tuple is written, on the command line as well as in a file."""
    text = describe(annotation)
    for option in alternatives(annotation):
        if typing.get_origin(option) is tuple:
            entries = typing.get_args(option)
            one = _example(entries[0])
            if entries[-1] is Ellipsis:
                return f"{text}, written like {one},{one} (one alone: {one},)"
            return f"{text}, written like {','.join(map(_example, entries))}"
    return text


def _example(annotation: Any) -> str:
    """Some value, as it is written inside a tuple."""
    option = alternatives(annotation)[0]
    origin, arguments = typing.get_origin(option), typing.get_args(option)
    if origin is Annotated:
        return _example(arguments[0])
    if origin is Literal:
        return repr(arguments[0])
    if origin is tuple:
        one = _example(arguments[0])
        return f"({one},{one})" if arguments[-1] is Ellipsis else f"({one},)"
    return {int: "32", float: "0.5"}.get(option, "'name'")


def check_value(value: Any, annotation: Any, where: str) -> Any:
    """Returns `value` if it fits `annotation` (ints become floats, lists tuples), else raises."""
    try:
        return _fit(value, annotation, where)
    except _MisfitError:
        raise ConfigError(where=where, found=value, allowed=expected(annotation)) from None


def parse_text(text: str, annotation: Any, where: str) -> Any:
    """Turns command-line text into a value that fits `annotation`."""
    options = alternatives(annotation)
    choices = [c for o in options if typing.get_origin(o) is Literal for c in typing.get_args(o)]
    if types.NoneType in options and text.lower() in NONE_WORDS:
        return None
    if bool in options and text.lower() in BOOL_WORDS:
        return BOOL_WORDS[text.lower()]
    if str in options or text in choices:
        return check_value(text, annotation, where)
    if group_in(annotation) is not None:
        raise ConfigError(
            f"{where} is a group of fields: set one of them, such as {where}.NAME=...",
            where=where,
            found=text,
        )
    value = parse_literal(text)
    is_tuple = any(typing.get_origin(option) is tuple for option in options)
    if is_tuple and not isinstance(value, tuple | list):
        value = tuple(parse_literal(piece.strip()) for piece in text.split(","))
    try:
        return _fit(value, annotation, where)
    except _MisfitError:
        raise ConfigError(where=where, found=text, allowed=expected(annotation)) from None


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


def _fit(value: Any, annotation: Any, where: str) -> Any:
    """The value as a member of the first alternative that it fits."""
    for option in alternatives(annotation):
        try:
            return _fit_one(value, option, where)
        except _MisfitError:
            continue
    raise _MisfitError


def _fit_one(value: Any, option: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(option), typing.get_args(option)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if option is types.NoneType and value is None:
        return None
    if option is float and number and _is_finite(value):
        return float(value)
    if option is int and number and isinstance(value, int):
        return value
    if option in (bool, str) and isinstance(value, option):
        return value
    # True equals 1, but is no choice of a number.
    if origin is Literal and any(value == a and type(value) is type(a) for a in arguments):
        return value
    if origin is Annotated:
        value = _fit_one(value, arguments[0], where)
        if all(value in bounds for bounds in _ranges(option)):
            return value
    if origin is tuple and isinstance(value, tuple | list):
        kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else arguments
        if len(kinds) == len(value):
            entries = enumerate(zip(value, kinds, strict=True))
            return tuple(_fit(entry, kind, f"{where}[{i}]") for i, (entry, kind) in entries)
    if origin is dict and isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return _with_tuples(value)
    if _is_group(option) and isinstance(value, option):
        return value
    if _is_group(option) and isinstance(value, dict):
        fields = {name: field_annotation(option, name, where) for name in value}
        return option(
            **{name: check_value(value[name], fields[name], f"{where}.{name}") for name in fields}
        )
    raise _MisfitError


def _is_finite(number: int | float) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:  # a whole number beyond all floats
        return False


def _with_tuples(value: Any) -> Any:
    """A copy with tuples for lists: JSON knows lists only, and a config read back must be equal."""
    if isinstance(value, dict):
        return {name: _with_tuples(entry) for name, entry in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list | tuple) else value


def _ranges(annotated: Any) -> list[Range]:
    return [entry for entry in annotated.__metadata__ if isinstance(entry, Range)]


def _is_group(option: Any) -> bool:
    return isinstance(option, type) and dataclasses.is_dataclass(option)
