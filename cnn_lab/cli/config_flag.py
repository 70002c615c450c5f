"""`--config=FILE[:ARGUMENT]` and `--config.a.b=value`.

`ml_collections.config_flags` offers the same syntax, but cannot set an optional back to none, does
not check tuple entries, and answers a misspelt field with a traceback; here every value passes the
one typed check of `cnn_lab.core.typed`.
"""

import importlib.util
import json
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from cnn_lab.config import ExperimentConfig
from cnn_lab.core.errors import CnnLabError, ConfigError, suggest
from cnn_lab.core.typed import from_dict, is_bool_field, override

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
        if not equals and is_bool_field(ExperimentConfig, path):
            text = "true"
        elif not equals:
            if position == len(arguments) or arguments[position].startswith("--"):
                raise ConfigError(f"{PREFIX}{path} needs a value: {PREFIX}{path}=VALUE.")
            text = arguments[position]
            position += 1
        overrides.append((path, text))
    return overrides, rest


def load_config(reference: str | None, overrides: Sequence[tuple[str, str]]) -> ExperimentConfig:
    """Loads an experiment and applies overrides, the last one winning.

    Args:
        reference: `FILE.py`, `FILE.py:ARGUMENT` or a `config.json` of an earlier run.
        overrides: (dotted path, text) pairs.

    Raises:
        ConfigError: no such file, or a field, name or type in it that cannot be.
    """
    if not reference:
        raise ConfigError(
            "--config is missing: give an experiment file, such as "
            "--config=experiments/digits/lenet5.py; `cnn-lab list experiments` shows them."
        )
    path, argument = _split_reference(reference)
    config = _read_json(path) if path.suffix == ".json" else _run_file(path, argument)
    for field, text in overrides:
        override(config, field, text)
    return config


def config_path(reference: str) -> Path:
    """The file of a `FILE[:ARGUMENT]` reference."""
    return _split_reference(reference)[0]


def _split_reference(reference: str) -> tuple[Path, str | None]:
    if Path(reference).is_file():
        return Path(reference), None
    name, colon, argument = reference.rpartition(":")
    path = Path(name if colon else reference)
    if not path.is_file():
        near = [str(p) for p in sorted(Path("experiments").glob("**/*.py"))]
        hint = suggest(str(path), near) if near else "give the path of an experiment file."
        raise ConfigError(f"There is no config file {str(path)!r}; {hint}")
    return path, argument if colon else None


def _read_json(path: Path) -> ExperimentConfig:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is not readable JSON ({error}).") from error
    return from_dict(ExperimentConfig, values)


def _run_file(path: Path, argument: str | None) -> ExperimentConfig:
    specification = importlib.util.spec_from_file_location("cnn_lab_experiment", path)
    if specification is None or specification.loader is None:
        raise ConfigError(f"{path} is no Python file; an experiment ends in .py or .json.")
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module
    try:
        specification.loader.exec_module(module)
        config = _call_get_config(module, path, argument)
    except CnnLabError as error:
        raise type(error)(f"{path}, line {_line_in(path, error)}: {error}") from error
    except Exception as error:
        line = getattr(error, "lineno", None) or _line_in(path, error)
        raise ConfigError(f"{path}, line {line}: {type(error).__name__}: {error}") from error
    if not isinstance(config, ExperimentConfig):
        raise ConfigError(
            f"get_config() in {path} must return an ExperimentConfig; it returned {config!r}."
        )
    return config


def _call_get_config(module: ModuleType, path: Path, argument: str | None) -> object:
    get_config = getattr(module, "get_config", None)
    if get_config is None:
        raise ConfigError(f"{path} defines no get_config(); an experiment must.")
    return get_config() if argument is None else get_config(argument)


def _line_in(path: Path, error: BaseException) -> int | str:
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename) == path or Path(frame.filename).resolve() == path.resolve()
    ]
    return lines[-1] or "?" if lines else "?"
