"""Modules of a user's own, which a config names in `imports`: this is where they are imported.

They register models, losses and the like by the package's decorators. A module is found by its
name alone, among what is installed, in PYTHONPATH and beside an experiment file while that is
loaded; no code is ever taken from the folder of a run.
"""

import hashlib
import importlib
import importlib.util
import json
import shlex
import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cnn_lab.core.errors import CnnLabError, ConfigError

FIELD = "config.imports"
RECORD_FILE = "run.json"
EXPERIMENT_MODULE = "cnn_lab_experiment"  # the name that the code of an experiment file has
MODULE_NAMES = "names of modules, such as my_layers or my_package.layers (no path, no .py)"
# Modules that no other process could import by these names.
UNIMPORTABLE = (EXPERIMENT_MODULE, "__main__")


def import_modules(names: Iterable[str], run: Path | None = None, where: str = FIELD) -> None:
    """Imports modules by their dotted names, so that what they register is known.

    Args:
        names: those of a config, or of the flag `where`.
        run: folder of the run whose config it is, the record of which says where they were.
        where: field or flag of the names.

    Raises:
        ConfigError: no name of a module, a module that is not found, or one that fails while it is
            imported, with file and line.
    """
    for name in names:
        is_name = all(part.isidentifier() for part in name.split("."))
        if not is_name or name.endswith(".py") or name in UNIMPORTABLE:
            raise ConfigError(where=where, found=name, allowed=MODULE_NAMES)
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


def files_of(names: Iterable[str]) -> dict[str, str | None]:
    """The file of each module, which has been imported; None where it has none."""
    return {name: getattr(sys.modules[name], "__file__", None) for name in names}


def digests_of(names: Iterable[str]) -> dict[str, str]:
    """SHA-256 of the code of each module, which has been imported; of a package all its files."""
    digests = {}
    for name, file in files_of(names).items():
        digest = hashlib.sha256()
        if file is not None and Path(file).suffix == ".py":
            path = Path(file)
            package = path.name == "__init__.py"
            for part in sorted(path.parent.rglob("*.py")) if package else [path]:
                digest.update(part.name.encode() + b"\0" + part.read_bytes())
        digests[name] = digest.hexdigest()
    return digests


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
