"""Options of a named thing, checked against the signature of the function that makes it."""

import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any

from cnn_lab.config.node import check_value
from cnn_lab.core.errors import ConfigError, suggest


def check_options(
    function: Callable[..., Any],
    options: Mapping[str, Any],
    path: str,
    chosen_by: str | None = None,
) -> dict[str, Any]:
    """Returns `options` if `function` declares each of them and each value fits.

    Args:
        function: its parameters with a default are the options; their annotations say what fits.
        options: from a config.
        path: where they stand in the config, for messages.
        chosen_by: the field that names the function; `name` beside the options by default.

    Raises:
        ConfigError: an option that is not declared (offers the nearest) or does not fit.
    """
    declared = declared_options(function)
    checked = {}
    for name, value in options.items():
        if name not in declared:
            field = chosen_by or f"{path.rpartition('.')[0]}.name"
            hint = suggest(name, declared).removesuffix(".")
            raise ConfigError(
                f"{path}: {function.__name__} has no option {name!r}; {hint} (if "
                f"{field} was changed, the options of the old one are still set: "
                f"--{path}={{}} clears them)."
            )
        annotation, _ = declared[name]
        checked[name] = check_value(value, annotation, f"{path}.{name}")
    return checked


def declared_options(function: Callable[..., Any]) -> dict[str, tuple[Any, Any]]:
    """The options that a function declares: name to annotation and default."""
    hints = typing.get_type_hints(function, include_extras=True)
    return {
        name: (hints[name], parameter.default)
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }
