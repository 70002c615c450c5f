"""Runs the Python file of an experiment or a study, and says where it went wrong."""

import contextlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

from cnn_lab.core.errors import CnnLabError, ConfigError


def call_in_file(path: Path, name: str, argument: str | None) -> object:
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
        raise ConfigError(f"{path} is no Python file; an experiment ends in .py or .json.")
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module
    try:
        with _no_bytecode():
            specification.loader.exec_module(module)
        function = _find(module, name, path, argument)
        return function() if argument is None else function(argument)
    except CnnLabError as error:
        raise type(error)(f"{_place(path, error)}: {error}") from error
    except (Exception, SystemExit) as error:
        text = error.msg if isinstance(error, SyntaxError) else str(error)
        raise ConfigError(
            f"{_place(path, error)}: {type(error).__name__}: {text or 'no message'}."
        ) from error


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
        raise ConfigError(f"{name}() takes no argument; {way}.") from None
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
