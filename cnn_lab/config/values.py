"""One value against its annotation: what fits, in words, and how text becomes a value.

Annotations understood: bool, int, float, str, `Literal[...]`, `tuple[T, ...]`, `tuple[T, U]`,
`dict[str, Any]`, a group of fields (`cnn_lab.config.node.Node`), and any of these `| None`. Numbers
are finite; their bounds are part of the annotation: `Annotated[float, Range(min=0, below=1)]`.
Fields of the config and options of models, optimizers and the like are checked in the same way.
"""

import ast
import dataclasses
import functools
import inspect
import sys
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


def alternatives(annotation: Any) -> tuple[Any, ...]:
    """The members of a union; any other annotation alone."""
    if typing.get_origin(annotation) in (types.UnionType, typing.Union):
        return typing.get_args(annotation)
    return (annotation,)


def group_in(annotation: Any) -> Any:
    """The group of fields among the alternatives of an annotation, None where there is none."""
    return next(filter(dataclasses.is_dataclass, alternatives(annotation)), None)


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


_MISFIT = object()


def check_value(value: Any, annotation: Any, where: str, text: str | None = None) -> Any:
    """Returns `value` if it fits `annotation` (ints become floats, lists tuples).

    Else raises a `ConfigError`, with the `text` that it was read from.
    """
    fitting = _fit(value, annotation, where)
    if fitting is _MISFIT:
        found = value if text is None else text
        raise ConfigError(where=where, found=found, allowed=_written(annotation))
    return fitting


def _fit(value: Any, annotation: Any, where: str) -> Any:
    """The value as a member of the first alternative that it fits, else `_MISFIT`."""
    number = value if isinstance(value, int | float) and not isinstance(value, bool) else None
    for option in alternatives(annotation):
        origin, arguments = typing.get_origin(option), typing.get_args(option)
        if option is types.NoneType and value is None:
            return None
        if option is float and number is not None and abs(number) <= sys.float_info.max:
            return float(number)
        if option is int and isinstance(number, int):
            return number
        if option in (bool, str) and isinstance(value, option):
            return value
        # True equals 1, but is no choice of a number.
        if origin is Literal and any(value == a and type(value) is type(a) for a in arguments):
            return value
        if origin is Annotated:
            inner = _fit(value, arguments[0], where)
            bounds = [entry for entry in arguments[1:] if isinstance(entry, Range)]
            if inner is not _MISFIT and all(inner in allowed for allowed in bounds):
                return inner
        if origin is tuple and isinstance(value, tuple | list):
            kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else arguments
            if len(kinds) == len(value):
                pairs = enumerate(zip(value, kinds, strict=True))
                entries = tuple(_fit(entry, kind, f"{where}[{i}]") for i, (entry, kind) in pairs)
                if all(entry is not _MISFIT for entry in entries):
                    return entries
        if (
            origin is dict
            and isinstance(value, dict)
            and all(isinstance(key, str) for key in value)
        ):
            return with_tuples(value)
        if dataclasses.is_dataclass(option) and isinstance(option, type):
            if isinstance(value, option):
                return value
            if isinstance(value, dict):
                fields = {name: field_annotation(option, name, where) for name in value}
                values = {n: check_value(value[n], fields[n], f"{where}.{n}") for n in fields}
                return option(**values)
    return _MISFIT


def with_tuples(value: Any) -> Any:
    """A copy with tuples for lists: JSON knows lists only, and a config read back must be equal."""
    if isinstance(value, dict):
        return {name: with_tuples(entry) for name, entry in value.items()}
    return tuple(map(with_tuples, value)) if isinstance(value, list | tuple) else value


LITERALS = {"none": None, "null": None, "true": True, "false": False}
BOOL_WORDS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def parse_text(text: str, annotation: Any, where: str) -> Any:
    """Turns command-line text into a value that fits `annotation`."""
    options = alternatives(annotation)
    choices = [c for o in options if typing.get_origin(o) is Literal for c in typing.get_args(o)]
    literal = LITERALS.get(text.lower(), text)
    if types.NoneType in options and literal is None:
        return None
    if bool in options and text.lower() in BOOL_WORDS:
        return BOOL_WORDS[text.lower()]
    if str in options or text in choices:
        return check_value(text, annotation, where)
    if group_in(annotation) is not None:
        problem = f"{where} is a group of fields: set one of them, such as {where}.NAME=..."
        raise ConfigError(problem, where=where, found=text)
    value = parse_literal(text)
    is_tuple = any(typing.get_origin(option) is tuple for option in options)
    if is_tuple and not isinstance(value, tuple | list):
        value = tuple(parse_literal(piece.strip()) for piece in text.split(","))
    return check_value(value, annotation, where, text)


def parse_literal(text: str) -> Any:
    """Reads a Python literal; `true`, `false`, `none` in any case; anything else is a string."""
    if text.lower() in LITERALS:
        return LITERALS[text.lower()]
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text


def declared_options(function: Callable[..., Any]) -> dict[str, tuple[Any, Any]]:
    """Name to annotation and default of the options of a function: its parameters with a default.

    A `ConfigError` where one has no annotation.
    """
    parameters = inspect.signature(function).parameters.values()
    options = [p for p in parameters if p.default is not p.empty]
    for option in options:
        if option.annotation is option.empty:
            raise ConfigError(
                f"{function.__name__}: its option {option.name!r} has no annotation, which says "
                f"what fits; write one, such as {option.name}: {type(option.default).__name__}.",
                where=f"{function.__module__}.{function.__qualname__}",
                found=option.name,
            )
    annotated = function.__init__ if isinstance(function, type) else function
    hints = typing.get_type_hints(annotated, include_extras=True) if options else {}
    return {option.name: (hints[option.name], option.default) for option in options}


def check_options(
    function: Callable[..., Any], options: Mapping[str, Any], where: str, chosen_by: str = ""
) -> dict[str, Any]:
    """Returns the options of field `where` if `function` declares each, and each value fits.

    `chosen_by` is the field that names the function; `name` beside the options by default.

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
                f"--{where}={{}} clears them"
                if where.startswith("config.")
                else "",
            )
    return {n: check_value(value, declared[n][0], f"{where}.{n}") for n, value in options.items()}


def parse_options(
    function: Callable[..., Any], texts: Iterable[str], flag: str, name: str
) -> dict[str, Any]:
    """Options of the function that makes model `name`, given as `NAME=VALUE` by a flag; checked."""
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


_WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a finite number",
    str: "a text",
    types.NoneType: "none",
}


def describe(annotation: Any) -> str:
    """An annotation in words: `a whole number or none`."""
    texts = [_describe_one(option) for option in alternatives(annotation)]
    return (", or " if "," in "".join(texts) or " and " in "".join(texts) else " or ").join(texts)


def _describe_one(option: Any) -> str:
    origin, arguments = typing.get_origin(option), typing.get_args(option)
    if option in _WORDS:
        return _WORDS[option]
    if origin is Annotated:
        bounds = [str(entry) for entry in arguments[1:] if isinstance(entry, Range)]
        return f"{_describe_one(arguments[0])} {' and '.join(bounds)}"
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


def _written(annotation: Any) -> str:
    """An annotation in words, and how a tuple is written in a file and on the command line."""
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
    return {int: "32", float: "0.5"}.get(option, "'name'")
