"""Flags of a config or a model: `--config.a.b=value`, sizes, the default folder.

`ml_collections.config_flags` offers the same syntax for a config, but cannot set an optional back
to none, does not check tuple entries, and answers a misspelt field with a traceback; here every
value passes the one typed check of `cnn_lab.config.values`.
"""

from collections.abc import Sequence
from pathlib import Path

from cnn_lab.config import ExperimentConfig
from cnn_lab.config.node import annotation_at
from cnn_lab.config.values import alternatives
from cnn_lab.core.errors import ConfigError

PREFIX = "--config."


def split_overrides(arguments: Sequence[str]) -> tuple[list[tuple[str, str]], list[str]]:
    """Separates `--config.a.b=value` (or `--config.a.b value`) from the other arguments.

    Returns:
        (path, text) pairs in order, and what is left.

    Raises:
        ConfigError: an override without a value.
    """
    overrides, rest, position = [], [], 0
    while position < len(arguments):
        argument = arguments[position]
        position += 1
        if argument == "--":
            rest += arguments[position - 1 :]
            break
        name = argument if argument.startswith("--") else f"-{argument}"
        if not name.startswith(PREFIX):
            rest.append(argument)
            continue
        path, equals, text = name[len(PREFIX) :].partition("=")
        flag = f"{PREFIX}{path}"
        if not equals and bool in alternatives(annotation_at(ExperimentConfig, path)):
            text = "true"
        elif not equals:
            if position == len(arguments) or arguments[position].startswith("--"):
                raise ConfigError(f"{flag} needs a value: {flag}=VALUE.", where=flag)
            text = arguments[position]
            position += 1
        if not text:
            raise ConfigError(
                f"{flag}= is empty; give it a value, or leave it out (`none` clears an optional "
                "field).",
                where=flag,
                found="",
            )
        overrides.append((path, text))
    return overrides, rest


def default_workdir(config_path: Path, argument: str | None = None) -> Path:
    """The folder of a run without --workdir: `runs/` and the experiment's own path and argument.

    The config.json of a run belongs to the run in its folder.
    """
    if config_path.suffix == ".json":
        return config_path.parent
    if argument:
        config_path = config_path.with_name(f"{config_path.stem}-{argument}.py")
    parts = config_path.with_suffix("").parts
    below = parts[parts.index("experiments") + 1 :] if "experiments" in parts else parts[-1:]
    return Path("runs", *below)


def parse_shape(text: str, usual: tuple[int, ...]) -> tuple[int, ...]:
    """The sizes in `224x224x3` of `--input`."""
    parts = text.lower().split("x")
    if len(parts) != len(usual) or not all(p.isdecimal() and int(p) > 0 for p in parts):
        sizes = f"{len(usual)} sizes such as {'x'.join(map(str, usual))}"
        raise ConfigError(where="--input", found=text, allowed=sizes)
    return tuple(map(int, parts))
