"""Experiments and studies from files: Python files that are run, and the JSON of earlier runs."""

import inspect
import json
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from cnn_lab.config.data import DataConfig
from cnn_lab.config.experiment import ExperimentConfig
from cnn_lab.config.experiments import EXPERIMENTS, experiment_files, study_files
from cnn_lab.config.imports import (
    EXPERIMENT_MODULE,
    failures_located,
    import_modules,
    importable,
)
from cnn_lab.config.node import from_dict, override, to_dict
from cnn_lab.config.study import Study
from cnn_lab.core.errors import ConfigError

FORMAT_VERSION = 2  # of config.json and of all else in the folder of a run
Loaded = TypeVar("Loaded", ExperimentConfig, Study)


def load_config(
    reference: str | None, overrides: Sequence[tuple[str, str]] = ()
) -> ExperimentConfig:
    """Loads an experiment, applies overrides, the last one winning, and imports what it names.

    Args:
        reference: `FILE.py`, `FILE.py:ARGUMENT`, `NAME` or `NAME:ARGUMENT` of an experiment that
            ships with the package, or a `config.json` of an earlier run.
        overrides: (dotted path, text) pairs.

    Raises:
        ConfigError: no such file, or a field, name or type in it that cannot be.
    """
    if not reference:
        raise ConfigError(
            "--config is missing: give an experiment file, such as "
            "--config=experiments/digits/lenet5.py; `cnn-lab list experiments` shows them.",
            where="--config",
        )
    path, argument = split_reference(reference)
    run = path.parent if path.suffix == ".json" else None
    with nullcontext() if run else importable(path.parent):
        config = _read_json(path) if run else _call_in_file(path, ExperimentConfig, argument)
        for field, text in overrides:
            override(config, field, text)
        import_modules(config.imports, run)
    anchor_paths(config.data)
    return config


def _read_json(path: Path) -> ExperimentConfig:
    """The config of an earlier run."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is not readable JSON ({error}).", where=str(path)) from error
    try:
        return config_from_json(values)
    except ConfigError as error:
        raise error.inside(str(path)) from error


def split_reference(reference: str) -> tuple[Path, str | None]:
    """The file and the argument of a `FILE[:ARGUMENT]` or `NAME[:ARGUMENT]` reference."""
    if Path(reference).is_file():
        return Path(reference), None
    name, colon, argument = reference.rpartition(":")
    given = argument if colon else None
    path, named = Path(name if colon else reference), experiment_files()
    if path.is_dir() and (path / "config.json").is_file():
        raise ConfigError(
            f"{path} is the folder of a run; its config is {path / 'config.json'}.",
            where="--config",
            found=str(path),
            allowed=str(path / "config.json"),
        )
    if path.is_file():
        return path, given
    if str(path) in named:
        return named[str(path)], given
    if not path.suffix:
        problem = f"There is no experiment named {str(path)!r}"
        raise ConfigError(problem, where="--config", found=str(path), allowed=named)
    problem = f"There is no config file {str(path)!r}"
    near = [str(file) for file in named.values() if file.is_relative_to(EXPERIMENTS)]
    if path.is_relative_to(EXPERIMENTS):
        near = near or list(named)
    if not near:
        problem, near = f"{problem}; give the path of an experiment file.", None
    raise ConfigError(problem, where="--config", found=str(path), allowed=near)


def anchor_paths(data: DataConfig) -> None:
    """Makes the paths of a config absolute, so that the run finds its data from any directory."""
    kind, _, place = data.name.partition(":")
    path = _absolute(place)
    # `tfds:mnist/3.0.1` may be a name; it is a path where the data set's own file lies there.
    is_path = place.startswith((".", "~")) or (path / "dataset_info.json").is_file()
    if place and (kind in ("folder", "table") or (kind == "tfds" and is_path)):
        data.name = f"{kind}:{path}"
    if data.data_dir is not None:
        data.data_dir = str(_absolute(data.data_dir))


def _absolute(path: str) -> Path:
    # Path.expanduser raises where there is no such user.
    return Path(os.path.expanduser(path)).resolve()  # noqa: PTH111


def config_to_json(config: ExperimentConfig) -> dict[str, Any]:
    """The values that a run's config.json holds: the version of its format, then all fields."""
    return {"format_version": FORMAT_VERSION, **to_dict(config)}


def config_from_json(values: Any, where: str = "config") -> ExperimentConfig:
    """The config in the values of a config.json; without a version, this one is assumed."""
    if isinstance(values, dict) and "format_version" in values:
        check_format_version(values["format_version"], where)
        values = {name: value for name, value in values.items() if name != "format_version"}
    return from_dict(ExperimentConfig, values, where)


def check_format_version(found: Any, where: str) -> None:
    """Raises a `ConfigError` where the `format_version` found in a file is another one, or None."""
    if found != FORMAT_VERSION or isinstance(found, bool):
        raise ConfigError(
            f"{where} has format version {json.dumps(found)}, but this version of cnn-lab reads "
            f"and writes format {FORMAT_VERSION}; use the version that wrote it, or train anew.",
            where=where,
            found=found,
            allowed=str(FORMAT_VERSION),
        )


def load_study(reference: str, data: str | None = None) -> tuple[str, Study]:
    """A study's name and the study that its file returns, found by name or path.

    Its `get_study` is given the data set; None leaves it its own.

    Raises:
        ConfigError: there is none, or its file cannot be used.
    """
    files = study_files()
    path = files.get(reference, Path(reference))
    if not path.is_file():
        raise ConfigError(f"There is no study named {reference!r}", found=reference, allowed=files)
    with importable(path.parent):
        study = _call_in_file(path, Study, data)
        for variant in study.variants:
            import_modules(variant.config.imports)
    return path.stem, study


def _call_in_file(path: Path, kind: type[Loaded], argument: str | None) -> Loaded:
    """Runs a Python file, and calls its `get_config` or `get_study` with an argument if given one.

    Raises:
        ConfigError: no such function, another result, or whatever went wrong in it, with the line.
    """
    if path.suffix != ".py":
        raise ConfigError(
            f"{path} is no Python file; an experiment ends in .py or .json.", where=str(path)
        )
    name = "get_study" if kind is Study else "get_config"
    arguments = () if argument is None else (argument,)
    module = ModuleType(EXPERIMENT_MODULE)
    module.__file__ = str(path)
    sys.modules[module.__name__] = module
    with failures_located(path):
        # Not by an import: a __pycache__ made in the second of an edit would hide the edit.
        exec(compile(path.read_bytes(), str(path), "exec"), vars(module))
        found = _find(module, name, path, arguments)(*arguments)
    if not isinstance(found, kind):
        article = "a" if kind is Study else "an"
        raise ConfigError(
            f"{name}() in {path} must return {article} {kind.__name__}; it returned {found!r}.",
            where=str(path),
            found=found,
            allowed=kind.__name__,
        )
    return found


def _find(
    module: ModuleType, name: str, path: Path, arguments: tuple[str, ...]
) -> Callable[..., object]:
    """The function of that name, which can be called with these arguments."""
    function, of_study = getattr(module, name, None), name == "get_study"
    if function is None and not of_study and hasattr(module, "get_study"):
        raise ConfigError(f"it is a study, not an experiment; run it by cnn-lab study {path.stem}.")
    if function is None:
        kind = "a study" if of_study else "an experiment"
        raise ConfigError(f"it defines no {name}(); {kind} must.")
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError:
        if not arguments:
            way = "--data=NAME" if of_study else f"--config={path}:ARGUMENT"
            raise ConfigError(f"{name}() needs an argument; give it as {way}.") from None
        found = arguments[0]
        way = f"leave out --data={found}" if of_study else f"leave :{found} out of --config"
        raise ConfigError(f"{name}() takes no argument; {way}.", found=found) from None
    return function
