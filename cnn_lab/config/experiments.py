"""The files of experiments and studies, by name: one's own, and those that ship with the package.

The name is the path below the folder `experiments`, without `.py`: `mnist/lenet5`. In a checkout
that folder stands beside the package, in an installation inside it.
"""

import functools
import tomllib
from contextlib import suppress
from pathlib import Path

EXPERIMENTS = Path("experiments")  # of the current directory
STUDIES = "studies/"


@functools.cache
def shipped_folder() -> Path | None:
    """The folder of the experiments that ship with the package; None where there is none.

    Beside the package it counts only in a checkout, which its pyproject.toml tells: an installation
    stands among other packages, one of which may be called `experiments`.
    """
    package = Path(__file__).parents[1]
    inside, beside = package / "experiments", package.parent / "experiments"
    if inside.is_dir():
        return inside
    project = {}
    with suppress(OSError, ValueError):  # no file, or none in TOML
        text = (package.parent / "pyproject.toml").read_text(encoding="utf-8")
        project = tomllib.loads(text).get("project", {})
    is_checkout = project.get("name") == "cnn-lab"
    return beside if is_checkout and beside.is_dir() else None


def experiment_files() -> dict[str, Path]:
    """Name to file of all experiments; those of the current directory come before shipped ones."""
    return {name: path for name, path in _files().items() if not name.startswith(STUDIES)}


def study_files() -> dict[str, Path]:
    """Name to file of all studies, likewise."""
    return {
        name.removeprefix(STUDIES): path
        for name, path in _files().items()
        if name.startswith(STUDIES)
    }


def is_shipped(path: Path) -> bool:
    """Whether a file is one of those that ship with the package."""
    return _below_shipped(path) is not None


def name_of(path: Path) -> Path:
    """The name of the experiment in a file, as a path; the file's own where none is known."""
    below = _below_shipped(path)
    if below is None and EXPERIMENTS.name in path.parts:
        below = Path(*path.parts[path.parts.index(EXPERIMENTS.name) + 1 :])
    return (below or Path(path.name)).with_suffix("")


def _below_shipped(path: Path) -> Path | None:
    """The path of a file below the folder of shipped ones; None of any other file."""
    folder = shipped_folder()
    if folder is None or not path.resolve().is_relative_to(folder.resolve()):
        return None
    return path.resolve().relative_to(folder.resolve())


def _files() -> dict[str, Path]:
    found = {
        path.relative_to(folder).with_suffix("").as_posix(): path
        for folder in (shipped_folder(), EXPERIMENTS)
        if folder is not None
        for path in folder.glob("**/*.py")
        if path.is_file()
    }
    return dict(sorted(found.items()))
