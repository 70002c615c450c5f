"""Experiments and studies from files: Python files that are run, and the JSON of earlier runs."""

import contextlib
import importlib.util
import inspect
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from cnn_lab.config.data import DataConfig
from cnn_lab.config.experiment import ExperimentConfig
from cnn_lab.config.node import from_dict, override, to_dict
from cnn_lab.config.study import Study
from cnn_lab.core.errors import CnnLabError, ConfigError

FORMAT_VERSION = 1  # of config.json and of all else in the folder of a run
EXPERIMENTS = Path("experiments")
STUDIES = EXPERIMENTS / "studies"


def load_config(
    reference: str | None, overrides: Sequence[tuple[str, str]] = ()
) -> ExperimentConfig:
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
            "--config=experiments/digits/lenet5.py; `cnn-lab list experiments` shows them.",
            where="--config",
        )
    path, argument = split_reference(reference)
    if path.suffix == ".json":
        config = read_json_config(path)
    else:
        config = _call_in_file(path, "get_config", argument)
        if not isinstance(config, ExperimentConfig):
            raise _wrong_return(path, "get_config", ExperimentConfig, config)
    for field, text in overrides:
        override(config, field, text)
    anchor_paths(config.data)
    return config


def split_reference(reference: str) -> tuple[Path, str | None]:
    """The file and the argument of a `FILE[:ARGUMENT]` reference."""
    if Path(reference).is_file():
        return Path(reference), None
    name, colon, argument = reference.rpartition(":")
    path = Path(name if colon else reference)
    if path.is_dir() and (path / "config.json").is_file():
        raise ConfigError(
            f"{path} is the folder of a run; its config is {path / 'config.json'}.",
            where="--config",
            found=str(path),
            allowed=str(path / "config.json"),
        )
    if not path.is_file():
        near = [str(file) for file in sorted(EXPERIMENTS.glob("**/*.py")) if file.parent != STUDIES]
        problem = f"There is no config file {str(path)!r}"
        if not near:
            problem, near = f"{problem}; give the path of an experiment file.", None
        raise ConfigError(problem, where="--config", found=str(path), allowed=near)
    return path, argument if colon else None


def anchor_paths(data: DataConfig) -> None:
    """Makes the paths of a config absolute, so that the run finds its data from any directory."""
    kind, _, place = data.name.partition(":")
    path = _absolute(place)
    # `tfds:mnist/3.0.1` may be a name; it is a path where the data set's own file lies there.
    is_path = place.startswith((".", "~")) or (path / "dataset_info.json").is_file()
    if place and (kind == "folder" or (kind == "tfds" and is_path)):
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
    """The config in the values that `json.load` returned; without a version, this one is assumed.

    Raises:
        ConfigError: it has another format version, an unknown field, or a value of a wrong type.
    """
    if isinstance(values, dict) and "format_version" in values:
        check_format_version(values["format_version"], where)
        values = {name: value for name, value in values.items() if name != "format_version"}
    return from_dict(ExperimentConfig, values, where)


def check_format_version(found: Any, where: str) -> None:
    """Raises a `ConfigError` for files that another version of cnn-lab wrote.

    Args:
        found: the `format_version` in the file; None where there is none.
        where: the file or folder, for the message.
    """
    if found != FORMAT_VERSION or isinstance(found, bool):
        raise ConfigError(
            f"{where} has format version {json.dumps(found)}, but this version of cnn-lab reads "
            f"and writes format {FORMAT_VERSION}; use the version that wrote it, or train anew.",
            where=where,
            found=found,
            allowed=str(FORMAT_VERSION),
        )


def read_json_config(path: Path) -> ExperimentConfig:
    """Reads a config.json.

    Raises:
        ConfigError: names the file, and what in it cannot be.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is not readable JSON ({error}).", where=str(path)) from error
    try:
        return config_from_json(values)
    except ConfigError as error:
        raise error.inside(str(path)) from error


def study_files() -> dict[str, Path]:
    """The files of all studies, by name."""
    return {path.stem: path for path in sorted(STUDIES.glob("*.py"))}


def load_study(reference: str, data: str | None = None) -> tuple[str, Study]:
    """A study's name and the study that its file returns.

    Args:
        reference: a name, or the path of a file.
        data: the data set that its `get_study` is given; None leaves it its own.

    Raises:
        ConfigError: there is none, or its file cannot be used.
    """
    files: Mapping[str, Path] = study_files()
    path = files.get(reference, Path(reference))
    if not path.is_file():
        problem = f"There is no study named {reference!r}"
        if not files:
            problem = f"{problem}; {STUDIES} is empty."
        raise ConfigError(problem, found=reference, allowed=files or None)
    study = _call_in_file(path, "get_study", data)
    if not isinstance(study, Study):
        raise _wrong_return(path, "get_study", Study, study)
    return path.stem, study


def _wrong_return(path: Path, name: str, kind: type, found: object) -> ConfigError:
    article = "an" if kind.__name__[0] == "E" else "a"
    return ConfigError(
        f"{name}() in {path} must return {article} {kind.__name__}; it returned {found!r}.",
        where=str(path),
        found=found,
        allowed=kind.__name__,
    )


def _call_in_file(path: Path, name: str, argument: str | None) -> object:
    """Runs a Python file and calls one of its functions.

    Args:
        path: an experiment or a study.
        name: `get_config` or `get_study`.
        argument: given to the function; None calls it without any.

    Raises:
        ConfigError: no such function, or whatever went wrong in it, with the line.
    """
    specification = importlib.util.spec_from_file_location("cnn_lab_experiment", path)
    if specification is None or specification.loader is None:
        raise ConfigError(
            f"{path} is no Python file; an experiment ends in .py or .json.", where=str(path)
        )
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module
    try:
        with _no_bytecode():
            specification.loader.exec_module(module)
        function = _find(module, name, path, argument)
        return function() if argument is None else function(argument)
    except CnnLabError as error:
        raise error.inside(_place(path, error)) from error
    except (Exception, SystemExit) as error:
        text = error.msg if isinstance(error, SyntaxError) else str(error)
        problem = f"{type(error).__name__}: {text or 'no message'}."
        raise ConfigError(problem).inside(_place(path, error)) from error


@contextlib.contextmanager
def _no_bytecode() -> Iterator[None]:
    """Leaves no __pycache__: one made in the second of an edit hides the edit."""
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        yield
    finally:
        sys.dont_write_bytecode = before


def _find(module: ModuleType, name: str, path: Path, argument: str | None) -> Callable[..., object]:
    function = getattr(module, name, None)
    if function is None and name == "get_config" and hasattr(module, "get_study"):
        raise ConfigError(f"it is a study, not an experiment; run it by cnn-lab study {path.stem}.")
    if function is None:
        kind = name.removeprefix("get_").replace("config", "experiment")
        raise ConfigError(f"it defines no {name}(); {'an' if kind[0] == 'e' else 'a'} {kind} must.")
    try:
        inspect.signature(function).bind(*([] if argument is None else [argument]))
    except TypeError:
        study = name == "get_study"
        if argument is None:
            way = "--data=NAME" if study else f"--config={path}:ARGUMENT"
            raise ConfigError(f"{name}() needs an argument; give it as {way}.") from None
        way = f"leave out --data={argument}" if study else f"leave :{argument} out of --config"
        raise ConfigError(f"{name}() takes no argument; {way}.", found=argument) from None
    return function


def _place(path: Path, error: BaseException) -> str:
    """The file, and the line of it where the error came from, as far as that is known."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return f"{path}, line {error.lineno}"
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).resolve() == path.resolve()
    ]
    return f"{path}, line {lines[-1]}" if lines else str(path)
