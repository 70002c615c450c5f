"""The files of experiments and studies, by name: one's own, and those that ship with the package.

The name is the path below the folder `experiments`, without `.py`: `mnist/lenet5`. In a checkout
that folder stands beside the package, in an installation inside it.
"""

from pathlib import Path

EXPERIMENTS = Path("experiments")  # of the current directory
STUDIES = "studies/"


def shipped_folder() -> Path:
    """The folder of the experiments that ship with the package."""
    package = Path(__file__).parents[1]
    inside = package / "experiments"
    return inside if inside.is_dir() else package.parent / "experiments"


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
    return path.resolve().is_relative_to(shipped_folder().resolve())


def name_of(path: Path) -> Path:
    """The name of the experiment in a file, as a path; the file's own where none is known."""
    if is_shipped(path):
        below = path.resolve().relative_to(shipped_folder().resolve())
    elif EXPERIMENTS.name in path.parts:
        below = Path(*path.parts[path.parts.index(EXPERIMENTS.name) + 1 :])
    else:
        below = Path(path.name)
    return below.with_suffix("")


def _files() -> dict[str, Path]:
    found = {
        path.relative_to(folder).with_suffix("").as_posix(): path
        for folder in (shipped_folder(), EXPERIMENTS)
        for path in folder.glob("**/*.py")
        if path.is_file()
    }
    return dict(sorted(found.items()))
