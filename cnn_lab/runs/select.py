"""Selection of runs, and of their checkpoints, by folders, lists of folders and patterns."""

import difflib
import itertools
import os
import re
from collections.abc import Sequence
from pathlib import Path

from cnn_lab.core.errors import ConfigError
from cnn_lab.core.text import counted
from cnn_lab.workdir.run_dir import CONFIG_FILE

PATTERN = re.compile(r"[*?\[]")
MAX_SEARCHED = 2000  # folders that are looked through for the nearest names
MAX_SHOWN = 5


def find_workdirs(text: str) -> list[Path]:
    """The folders that `--workdir` names, each once, patterns in natural order.

    That is a folder, a pattern such as `runs/seed*`, or several of these between commas; a folder
    of exactly that name is itself. A pattern without a run is an error, as is a folder of runs.
    """
    if not ("," in text or PATTERN.search(text)) or os.path.exists(text):  # noqa: PTH110 - no raise
        _refuse_folder_of_runs(Path(text))
        return [Path(text)]
    found: list[Path] = []
    for part in (part.strip() for part in text.split(",")):
        if not part:
            problem = f"--workdir={text} has nothing between two commas; leave one out."
            raise ConfigError(problem, where="--workdir", found=text)
        is_pattern = PATTERN.search(part) and not os.path.exists(part)  # noqa: PTH110
        found += _matching(part) if is_pattern else [Path(part)]
    return list({path.resolve(): path for path in found}.values())


def find_checkpoints(text: str) -> list[str]:
    """The names in `--checkpoint`, each once: `best`, `latest`, steps or `all`."""
    names = list(dict.fromkeys(part.strip() for part in text.split(",")))
    if "" in names or ("all" in names and len(names) > 1):
        allowed = "best, latest, a step, several of these between commas, or all"
        raise ConfigError(where="--checkpoint", found=text, allowed=allowed)
    return names


def common_folder(workdirs: Sequence[Path]) -> Path:
    """The one run's own folder, or the deepest one that holds all, as the first path names it."""
    if len(workdirs) == 1:
        return workdirs[0]
    folder = Path(os.path.commonpath([path.resolve().parent for path in workdirs]))
    named = [path for path in workdirs[0].parents if path != Path()]
    return next((path for path in named if path.resolve() == folder), folder)


def folder_of_results(workdirs: Sequence[Path]) -> Path:
    """The default folder of results: `common_folder`, if that is none of other things too."""
    folder = common_folder(workdirs)
    place = folder.resolve()
    places = [path.resolve().parent for path in workdirs]
    if len(workdirs) > 1 and (
        place == Path(place.anchor) or any(place not in (p, p.parent) for p in places)
    ):
        raise ConfigError(
            f"The runs have no folder of their own in common, only {place}; say by --out where "
            "their figures and page are to go.",
            where="--out",
        )
    return folder


def short_names(workdirs: Sequence[Path]) -> list[str]:
    """The folders as seen from the one that holds all."""
    if len(workdirs) == 1:
        return [str(workdirs[0])]
    folder = common_folder(workdirs).resolve()
    return [str(path.resolve().relative_to(folder)) for path in workdirs]


def _refuse_folder_of_runs(folder: Path) -> None:
    """Refuses one such as that of `train --seeds`; the error says how to name the runs."""
    # Path.is_file raises where a name is too long for the file system.
    if os.path.isfile(folder / CONFIG_FILE) or not os.path.isdir(folder):  # noqa: PTH112, PTH113
        return
    runs = sorted((file.parent for file in folder.glob(f"*/{CONFIG_FILE}")), key=_natural)
    if runs:
        problem = (
            f"{folder} is no run, but holds {counted(len(runs), 'run')}; give one of them, as "
            f"--workdir={runs[0]}, or all of them, as --workdir='{folder}/*'."
        )
        raise ConfigError(problem, where="--workdir", found=str(folder))


def _matching(pattern: str) -> list[Path]:
    """The runs that a pattern matches, in natural order."""
    parts = Path(pattern).parts
    first = next(index for index, part in enumerate(parts) if PATTERN.search(part))
    root = Path(*parts[:first])
    found = [
        path for path in root.glob(str(Path(*parts[first:]))) if (path / CONFIG_FILE).is_file()
    ]
    if not found:
        runs = sorted(_runs_below(root), key=_natural)
        near = difflib.get_close_matches(pattern, runs, n=MAX_SHOWN, cutoff=0.4) or runs[:MAX_SHOWN]
        problem = f"No run matches --workdir={pattern}"
        raise ConfigError(problem, where="--workdir", found=pattern, allowed=near)
    return sorted(found, key=_natural)


def _runs_below(folder: Path) -> list[str]:
    """Runs in a folder and two levels below it, or in the nearest one above that exists."""
    while not folder.is_dir():
        folder = folder.parent
    found = (
        file for depth in ("*", "*/*", "*/*/*") for file in folder.glob(f"{depth}/{CONFIG_FILE}")
    )
    return [str(file.parent) for file in itertools.islice(found, MAX_SEARCHED)]


def _natural(path: Path | str) -> list[tuple[int, int | str]]:
    """Sorts seed2 before seed10."""
    parts = re.split(r"(\d+)", str(path))
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in parts]
