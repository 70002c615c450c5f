"""Annotations of fields and options, in words for messages and listings."""

import types
import typing
from typing import Annotated, Any, Literal

from cnn_lab.config.ranges import Range


def describe(annotation: Any) -> str:
    """Words an annotation for an error message: `a whole number or none`."""
    words = {
        bool: "true or false",
        int: "a whole number",
        float: "a finite number",
        str: "a text",
        types.NoneType: "none",
    }

    def one(option: Any) -> str:
        if option in words:
            return words[option]
        origin, arguments = typing.get_origin(option), typing.get_args(option)
        if origin is Annotated:
            return f"{one(arguments[0])} {' and '.join(map(str, ranges(option)))}"
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

    texts = [one(option) for option in alternatives(annotation)]
    return (", or " if "," in "".join(texts) or " and " in "".join(texts) else " or ").join(texts)


def expected(annotation: Any) -> str:
    """What fits, and how a tuple is written, on the command line as well as in a file."""
    text = describe(annotation)
    for option in alternatives(annotation):
        if typing.get_origin(option) is tuple:
            one = _example(typing.get_args(option)[0])
            if typing.get_args(option)[-1] is Ellipsis:
                return f"{text}, written like {one},{one} (one alone: {one},)"
            return f"{text}, written like {','.join(map(_example, typing.get_args(option)))}"
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


def ranges(annotated: Any) -> list[Range]:
    """The bounds in an `Annotated[...]`."""
    return [entry for entry in annotated.__metadata__ if isinstance(entry, Range)]


def alternatives(annotation: Any) -> tuple[Any, ...]:
    """What a union allows; any other annotation alone."""
    origin = typing.get_origin(annotation)
    if origin in (types.UnionType, typing.Union):
        return typing.get_args(annotation)
    return (annotation,)
