"""Options of a named thing, checked against the signature of the function that makes it."""

import inspect
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from cnn_lab.config.values import check_value, parse_text
from cnn_lab.core.errors import ConfigError


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
