"""What flags say about a model: its options and the shape of its images."""

from collections.abc import Callable
from typing import Any

from cnn_lab.config.node import parse_text
from cnn_lab.config.options import check_options, declared_options
from cnn_lab.core.errors import ConfigError, suggest


def parse_options(model: str, make: Callable[..., Any], texts: list[str]) -> dict[str, Any]:
    """`NAME=VALUE` texts of `--option` as the options of a model."""
    declared, options = declared_options(make), {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--option must be NAME=VALUE; found {text!r}.")
        if name not in declared:
            raise ConfigError(
                f"--option: {model} has no option {name!r}; {suggest(name, declared)}"
            )
        options[name] = parse_text(value, declared[name][0], f"--option={name}")
    return check_options(make, options, "--option")


def parse_shape(text: str, usual: tuple[int, ...]) -> tuple[int, ...]:
    """The sizes in `224x224x3` of `--input`."""
    parts = text.lower().split("x")
    if len(parts) != len(usual) or not all(p.isdecimal() and int(p) > 0 for p in parts):
        example = "x".join(map(str, usual))
        raise ConfigError(f"--input must be {len(usual)} sizes such as {example}; found {text!r}.")
    return tuple(map(int, parts))
