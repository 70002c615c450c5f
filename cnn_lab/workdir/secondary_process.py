"""What takes the place of the writing parts of a run in processes that do not lead it.

The first process owns the folder: it alone writes config, record and rows, and shows how far the
run is. Checkpoints are written by all, each its part.
"""

import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cnn_lab.config import ExperimentConfig
from cnn_lab.core.errors import WorkdirError
from cnn_lab.core.files import WAIT_FOR_FILES, appears
from cnn_lab.distributed.processes import Processes
from cnn_lab.workdir.run_dir import RunDir


class FollowedWorkdir:
    """A run's folder as a process sees it that does not write there.

    Attributes:
        path: where it is.
        fresh: as that of the `RunDir` of the process that leads.
    """

    def __init__(self, path: Path, fresh: bool):
        self.path, self.fresh = path, fresh

    def claim(self, config: ExperimentConfig) -> None:
        """The leading process does."""

    def release(self) -> None:
        """Nothing is held."""


class Unrecorded:
    """In place of a `Session`."""

    def end(self, status: str, progress: Mapping[str, Any]) -> None:
        """The leading process notes it."""

    @contextmanager
    def failures_noted(self) -> Iterator[None]:
        """The leading process notes them."""
        yield


class Unseen:
    """In place of a `Display`, where nobody watches."""

    def __init__(self, log: Callable[[str], None]):
        self._say = log

    def log(self, text: str) -> None:
        """One line for whoever reads the log."""
        self._say(text)

    def advance(self, step: int, epoch: float, metrics: Mapping[str, float]) -> None:
        """Nobody watches."""

    def row(self, row: Mapping[str, Any]) -> None:
        """Nobody watches."""

    def close(self) -> None:
        """Nothing is shown."""


def open_workdir(
    processes: Processes, path: Path, config: ExperimentConfig
) -> RunDir | FollowedWorkdir:
    """The folder of a run, which the leading process makes and all must see.

    Raises:
        WorkdirError: as `RunDir`, or another process sees another folder.
    """
    if processes.count == 1:
        return RunDir(path, config)
    folder = RunDir(path, config) if processes.is_primary else None
    try:
        with _marked(path, folder is not None) as mark:
            mark, fresh, first = processes.broadcast(
                [mark, folder is None or folder.fresh, str(path)]
            )
            alike = processes.all_gather(appears(path / mark, WAIT_FOR_FILES))
        if not all(alike):
            raise WorkdirError(
                f"The --workdir of process {alike.index(False)} is not the folder of process 0, "
                f"{first}; all processes must see the same files: give all of them the same one, "
                "on a file system that their machines share."
            )
    except BaseException:
        if folder is not None:
            folder.release()
        raise
    return folder or FollowedWorkdir(path, fresh)


@contextmanager
def _marked(path: Path, marks: bool) -> Iterator[str]:
    """A name that the folder holds a file of inside a `with`, if this process is to mark it."""
    mark = f".{secrets.token_hex(8)}.shared"
    if marks:
        (path / mark).touch()
    try:
        yield mark
    finally:
        if marks:
            (path / mark).unlink(missing_ok=True)
