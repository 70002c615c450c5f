"""Modules of a user's own, which a config names in `imports`: this is where they are imported.

They register models, losses and the like by the package's decorators. A module is found by its
name alone, among what is installed, in PYTHONPATH and beside an experiment file while that is
loaded; no code is ever taken from the folder of a run, also where Python would look there, as in a
notebook that was started in it.

The config of a stranger's run names modules of your environment, which are imported, and so are
run, when it is read; look at `imports` in its config.json first.
"""

import hashlib
import importlib
import importlib.util
import itertools
import json
import operator
import os
import shlex
import sys
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from importlib.machinery import EXTENSION_SUFFIXES, SOURCE_SUFFIXES, ModuleSpec
from pathlib import Path
from types import ModuleType

from absl import logging

from cnn_lab.core.errors import CnnLabError, ConfigError

FIELD = "config.imports"
RECORD_FILE = "run.json"
EXPERIMENT_MODULE = "cnn_lab_experiment"  # the name that the code of an experiment file has
MODULE_NAMES = "names of modules, such as my_layers or my_package.layers (no path, no .py)"
SESSION = "__main__"  # the module of a notebook's cells, and of a script
# Modules that no other process could import by these names.
UNIMPORTABLE = (EXPERIMENT_MODULE, SESSION)
# The place and the digest of each module, as it was when a config first named it.
_AS_IMPORTED: dict[str, tuple[ModuleSpec | None, str]] = {}


def import_modules(names: Iterable[str], run: Path | None = None, where: str = FIELD) -> None:
    """Imports modules by their dotted names, so that what they register is known.

    Args:
        names: those of a config, or of the flag `where`. A config of a stranger names modules of
            your environment, which are imported.
        run: folder of the run whose config it is, the record of which says where they were; a
            module in it is refused, and so is one that they import.
        where: field or flag of the names.

    Raises:
        ConfigError: no name of a module, a module that is not found or lies in the run's folder,
            or one that fails while it is imported, with file and line.
    """
    for name in names:
        is_name = all(part.isidentifier() for part in name.split("."))
        if not is_name or name.endswith(".py") or name in UNIMPORTABLE:
            raise ConfigError(where=where, found=name, allowed=MODULE_NAMES)
        with nullcontext() if run is None else _nothing_from(run, name, where):
            _import(name, run, where)
        _warn_if_edited(name)


def _import(name: str, run: Path | None, where: str) -> None:
    spec = importlib.util.find_spec(name.partition(".")[0])
    if spec is None:
        raise _missing(name, run, where)
    places = [*(spec.submodule_search_locations or ()), *([spec.origin] if spec.origin else [])]
    try:
        with failures_located(*map(Path, places)):
            importlib.import_module(name)
    except ConfigError as error:
        cause = error.__cause__
        # Of the module itself or a package that it is in, and not of one that it imports.
        if isinstance(cause, ModuleNotFoundError) and f"{name}.".startswith(f"{cause.name}."):
            raise _missing(name, run, where) from None
        raise


@contextmanager
def _nothing_from(run: Path, name: str, where: str) -> Iterator[None]:
    """Refuses whatever would be imported inside a `with` from the folder of a run."""
    finder = _OutsideFinder(run, where)
    for part in itertools.accumulate(name.split("."), "{}.{}".format):  # was imported before
        finder.check(part, getattr(sys.modules.get(part), "__spec__", None))
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


class _OutsideFinder:
    """Finds modules as Python does otherwise, and refuses those in the folder of a run.

    As a finder, because a module may import others, and no module must be executed before its
    place is known. Namespace packages have no code, only modules that are found in their turn.
    """

    def __init__(self, run: Path, where: str) -> None:
        self._run, self._where, self._finders = run.resolve(), where, list(sys.meta_path)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The place of a module, as the first of the other finders knows it."""
        for finder in self._finders:
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                self.check(name, spec)
                return spec
        return None

    def check(self, name: str, spec: ModuleSpec | None) -> None:
        """Raises a `ConfigError` for a module of which the file, or a link to it, is in the run."""
        if spec is None or not spec.has_location or spec.origin is None:
            return
        file = Path(spec.origin)
        written = Path(os.path.abspath(file))  # noqa: PTH100 - links are not followed
        places = (file.resolve(), file.parent.resolve(), written)
        if any(place.is_relative_to(self._run) for place in places):
            raise ConfigError(
                f"The module {name!r} is {file}, in the folder of a run, from which no code is "
                "taken; move it elsewhere and set PYTHONPATH to the folder that holds it, or "
                "install it.",
                where=self._where,
                found=name,
            )


def files_of(names: Iterable[str]) -> dict[str, str | None]:
    """The file of each module, which has been imported; None where it has none."""
    return {name: getattr(sys.modules[name], "__file__", None) for name in names}


def digests_of(names: Iterable[str]) -> dict[str, str]:
    """SHA-256 of the code of each module, which has been imported; of a package all its files.

    Code is source and compiled extensions; the names of files count too, those of a package from
    its folder on, so that copies of a module in other places have one digest.
    """
    return {name: _digest_as_imported(name) for name in names}


def _digest_as_imported(name: str) -> str:
    """The digest of a module's code as it was when it was imported, or reloaded, by a config."""
    spec = sys.modules[name].__spec__  # a reload makes another one
    if name not in _AS_IMPORTED or _AS_IMPORTED[name][0] is not spec:
        _AS_IMPORTED[name] = (spec, _digest(name))
    return _AS_IMPORTED[name][1]


def _digest(name: str) -> str:
    digest = hashlib.sha256()
    for path, file in _code_of(sys.modules[name]):
        digest.update(f"{path}\0{hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def _warn_if_edited(name: str) -> None:
    """Warns of a module whose file changed after it was imported: the old code goes on running."""
    if _digest_as_imported(name) != _digest(name):
        logging.warning(
            "The code of %s changed since it was imported, and what was imported is used; reload "
            "it by importlib.reload, or start anew.",
            name,
        )


def _code_of(module: ModuleType) -> list[tuple[str, Path]]:
    """The files of a module, each with its path from the module's folder on; none if built in."""
    file = getattr(module, "__file__", None)
    if not hasattr(module, "__path__"):
        return [] if file is None else [(Path(file).name, Path(file))]
    suffixes = (*SOURCE_SUFFIXES, *EXTENSION_SUFFIXES)
    files = [
        (path.relative_to(folder).as_posix(), path)
        for folder in map(Path, module.__path__)  # of a namespace package several
        for path in folder.rglob("*")
        if path.name.endswith(suffixes) and path.is_file()
    ]
    return sorted(files, key=operator.itemgetter(0))


@contextmanager
def importable(folder: Path) -> Iterator[None]:
    """Lets the modules in a folder be imported inside a `with`.

    Those that are installed come first, as they do for commands that do not know the folder.
    """
    entry = str(folder.resolve())
    importlib.invalidate_caches()  # a file may be as new as the last look at its folder
    sys.path.append(entry)
    try:
        yield
    finally:
        with suppress(ValueError):
            # The last one: the entry may have been there before.
            del sys.path[len(sys.path) - 1 - sys.path[::-1].index(entry)]


@contextmanager
def failures_located(*places: Path) -> Iterator[None]:
    """Turns whatever goes wrong in a user's code inside a `with` into a sentence with its line.

    The innermost line in one of the places is named: files, or folders of packages; the first
    place where there is no such line.
    """
    try:
        yield
    except CnnLabError as error:
        raise error.inside(_place(places, error)) from error
    except (Exception, SystemExit) as error:
        text = error.msg if isinstance(error, SyntaxError) else str(error)
        problem = f"{type(error).__name__}: {text or 'no message'}."
        raise ConfigError(problem).inside(_place(places, error)) from error


def _place(places: tuple[Path, ...], error: BaseException) -> str:
    """The file, and the line of it where the error came from, as far as that is known."""
    # A file's own path is written as the user wrote it.
    written = {path.resolve(): path for path in places}
    lines = [(f.filename, f.lineno) for f in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError) and error.filename is not None:
        lines.append((error.filename, error.lineno))
    for name, line in reversed(lines):
        file = Path(name).resolve()
        if not written.keys().isdisjoint((file, *file.parents)):
            return f"{written.get(file, file)}, line {line}"
    return str(places[0]) if places else "its code"


def _missing(name: str, run: Path | None, where: str) -> ConfigError:
    """The error of a module that cannot be found, with where it was as far as a run recorded it."""
    problem = f"{where} names {name!r}, which cannot be imported here"
    recorded = {}
    if run is not None:
        with suppress(OSError, ValueError):
            recorded = json.loads((run / RECORD_FILE).read_text(encoding="utf-8"))
    imports = recorded.get("imports") if isinstance(recorded, dict) else None
    file = imports.get(name) if isinstance(imports, dict) else None
    if not isinstance(file, str):
        remedy = "; install it, or set PYTHONPATH to the folder that holds it."
        if where == FIELD:
            remedy = (
                "; install it, set PYTHONPATH to the folder that holds it, or put it beside the "
                "experiment file."
            )
    else:
        # One folder up for each part of the name, and one more from the file of a package.
        num_levels = name.count(".") + (Path(file).name == "__init__.py")
        folder = shlex.quote(str(Path(file).parents[num_levels]))
        remedy = f"; when the run was trained it was {file}: install it or set PYTHONPATH={folder}."
    return ConfigError(f"{problem}{remedy}", where=where, found=name)
