"""`--config=FILE[:ARGUMENT]` and `--config.a.b=value`.

`ml_collections.config_flags` offers the same syntax, but cannot set an optional back to none, does
not check tuple entries, and answers a misspelt field with a traceback; here every value passes the
one typed check of `cnn_lab.config.node`.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from cnn_lab.cli.experiment_file import call_in_file
from cnn_lab.config import DataConfig, ExperimentConfig
from cnn_lab.config.node import from_dict, is_bool_field, override, require_field
from cnn_lab.core.errors import ConfigError, suggest

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
                require_field(ExperimentConfig, path)
                raise ConfigError(f"{PREFIX}{path} needs a value: {PREFIX}{path}=VALUE.")
            text = arguments[position]
            position += 1
        if not text:
            raise ConfigError(
                f"{PREFIX}{path}= is empty; give it a value, or leave it out (`none` clears an "
                "optional field)."
            )
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
    path, argument = split_reference(reference)
    config = _read_json(path) if path.suffix == ".json" else _run_file(path, argument)
    for field, text in overrides:
        override(config, field, text)
    anchor_paths(config.data)
    return config


def anchor_paths(data: DataConfig) -> None:
    """Makes the paths of a config absolute, so that the run finds its data from any directory."""
    kind, _, place = data.name.partition(":")
    path = _absolute(place)
    # `tfds:mnist/3.0.1` may be a name; it is a path where the data set's own file says so.
    is_path = place.startswith((".", "~")) or (path / "dataset_info.json").is_file()
    if place and (kind == "folder" or (kind == "tfds" and is_path)):
        data.name = f"{kind}:{path}"
    if data.data_dir is not None:
        data.data_dir = str(_absolute(data.data_dir))


def _absolute(path: str) -> Path:
    # Path.expanduser raises where there is no such user.
    return Path(os.path.expanduser(path)).resolve()  # noqa: PTH111


def split_reference(reference: str) -> tuple[Path, str | None]:
    """The file and the argument of a `FILE[:ARGUMENT]` reference."""
    if Path(reference).is_file():
        return Path(reference), None
    name, colon, argument = reference.rpartition(":")
    path = Path(name if colon else reference)
    if path.is_dir() and (path / "config.json").is_file():
        raise ConfigError(f"{path} is the folder of a run; its config is {path / 'config.json'}.")
    if not path.is_file():
        files = sorted(Path("experiments").glob("**/*.py"))
        near = [str(file) for file in files if file.parent.name != "studies"]
        hint = suggest(str(path), near) if near else "give the path of an experiment file."
        raise ConfigError(f"There is no config file {str(path)!r}; {hint}")
    return path, argument if colon else None


def default_workdir(config_path: Path, argument: str | None = None) -> Path:
    """Where a run goes when nobody says: `runs/` and the experiment's own path and argument.

    The config.json of a run belongs to the run in its folder.
    """
    if config_path.suffix == ".json":
        return config_path.parent
    if argument:
        config_path = config_path.with_name(f"{config_path.stem}-{argument}.py")
    parts = config_path.with_suffix("").parts
    kept = parts[parts.index("experiments") + 1 :] if "experiments" in parts else parts[-1:]
    return Path("runs", *kept)


def _read_json(path: Path) -> ExperimentConfig:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is not readable JSON ({error}).") from error
    try:
        return from_dict(ExperimentConfig, values)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def _run_file(path: Path, argument: str | None) -> ExperimentConfig:
    config = call_in_file(path, "get_config", argument)
    if not isinstance(config, ExperimentConfig):
        raise ConfigError(
            f"get_config() in {path} must return an ExperimentConfig; it returned {config!r}."
        )
    return config
