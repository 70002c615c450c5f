"""Finds and loads the files of studies."""

from pathlib import Path

from cnn_lab.cli.experiment_file import call_in_file
from cnn_lab.config import Study
from cnn_lab.core.errors import ConfigError, suggest

STUDIES = Path("experiments", "studies")


def study_files() -> dict[str, Path]:
    """Name to file of all studies there are."""
    return {path.stem: path for path in sorted(STUDIES.glob("*.py"))}


def load_study(reference: str, data: str | None = None) -> tuple[str, Study]:
    """A study's name and what its file returns.

    Args:
        reference: a name, or the path of a file.
        data: the data set that its `get_study` is given; None leaves it its own.

    Raises:
        ConfigError: there is none, or its file cannot be used.
    """
    path = study_files().get(reference, Path(reference))
    if not path.is_file():
        hint = suggest(reference, study_files()) if study_files() else f"{STUDIES} is empty."
        raise ConfigError(f"There is no study named {reference!r}; {hint}")
    study = call_in_file(path, "get_study", data)
    if not isinstance(study, Study):
        raise ConfigError(f"get_study() in {path} must return a Study; it returned {study!r}.")
    return path.stem, study
