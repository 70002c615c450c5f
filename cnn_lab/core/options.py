"""Options of a named thing, checked against the signature of the function that makes it."""

import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any

from cnn_lab.core.errors import ConfigError, suggest
from cnn_lab.core.typed import check_value


def check_options(
    function: Callable[..., Any], options: Mapping[str, Any], path: str
) -> dict[str, Any]:
    """Returns `options` if `function` declares each of them and each value fits.

    Args:
        function: its parameters with a default are the options; their annotations say what fits.
        options: from a config.
        path: where they stand in the config, for messages.

    Raises:
        ConfigError: an option that is not declared (offers the nearest) or does not fit.
    """
    parameters = inspect.signature(function).parameters.values()
    declared = [p.name for p in parameters if p.default is not inspect.Parameter.empty]
    hints = typing.get_type_hints(function, include_extras=True)
    checked = {}
    for name, value in options.items():
        if name not in declared:
            raise ConfigError(
                f"{path}: {function.__name__} has no option {name!r}; {suggest(name, declared)}"
            )
        checked[name] = check_value(value, hints[name], f"{path}.{name}")
    return checked
