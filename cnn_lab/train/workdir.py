"""The folder of one run: whose it is, what it was made with, what happened in it."""

import fcntl
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import IO, Any

import jax

from cnn_lab.config import ExperimentConfig
from cnn_lab.config_rules import differences
from cnn_lab.core.errors import ConfigError, WorkdirError
from cnn_lab.core.files import finite_or_none, write_json
from cnn_lab.core.typed import from_dict, to_dict

CONFIG_FILE = "config.json"
RECORD_FILE = "run.json"
LOCK_FILE = ".lock"
RECORD_LOCK_FILE = ".record.lock"
LOCK_FILES = {LOCK_FILE, RECORD_LOCK_FILE}
CHECKPOINTS = "checkpoints"
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "tensorflow-datasets", "numpy")


class Workdir:
    """A run's folder, held by this process until `release`.

    Args:
        path: created when missing.
        config: what the run is to compute.

    Raises:
        WorkdirError: unwritable, in use, or made by another config.
    """

    def __init__(self, path: Path, config: ExperimentConfig):
        self.path = path
        self._made = [folder for folder in (path, *path.parents) if not folder.exists()]
        self._lock = _acquire(path)
        try:
            check_config(path, config)
        except BaseException:
            self.release()
            raise

    def claim(self, config: ExperimentConfig) -> None:
        """Makes the folder the run of `config`.

        Only a config that is about to be trained may claim a folder: its corrected version would
        otherwise be refused as another one.

        Raises:
            WorkdirError: unwritable.
        """
        try:
            write_json(self.path / CONFIG_FILE, to_dict(config))
        except OSError as error:
            raise unwritable(self.path, error) from error

    def release(self) -> None:
        """Lets other processes use the folder, and removes one made for a run that never began."""
        with suppress(OSError):
            if self._made and {file.name for file in self.path.iterdir()} <= LOCK_FILES:
                for name in LOCK_FILES:
                    (self.path / name).unlink(missing_ok=True)
                for folder in self._made:
                    folder.rmdir()
        self._made = []
        self._lock.close()

    def update_record(self, **values: Any) -> dict[str, Any]:
        """Changes top-level values of `run.json` and returns it whole."""
        with _record_held(self.path):
            record = {**read_record(self.path), **values}
            write_json(self.path / RECORD_FILE, record)
            return record


def check_config(path: Path, config: ExperimentConfig) -> None:
    """Raises a `WorkdirError` with the differences if the folder was made by another config."""
    if not (path / CONFIG_FILE).exists():
        return
    different = differences(to_dict(read_config(path)), to_dict(config))
    if different:
        lines = "\n".join(
            f"  {name}: {old!r} there, {new!r} now" for name, (old, new) in different.items()
        )
        raise WorkdirError(
            f"{path} was made by another config:\n{lines}\nGive another --workdir for the new "
            f"config, or go on with the old one by --config={path / CONFIG_FILE} alone."
        )


def read_config(path: Path) -> ExperimentConfig:
    """Reads the config of a run.

    Raises:
        WorkdirError: the folder holds no run, or its config cannot be read.
    """
    file = path / CONFIG_FILE
    if not file.exists():
        raise WorkdirError(
            f"{path} holds no run: {file} does not exist; give the --workdir of a training."
        )
    try:
        return from_dict(ExperimentConfig, json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise WorkdirError(f"{file} cannot be read ({error}); restore it or start anew.") from error
    except ConfigError as error:
        raise WorkdirError(f"{file} was changed: {error} Restore it or start anew.") from error


def read_record(path: Path) -> dict[str, Any]:
    """Reads `run.json`; empty when there is none or it is damaged."""
    try:
        return json.loads((path / RECORD_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def count_test_opening(path: Path, metrics: Mapping[str, Any]) -> int:
    """Notes in `run.json` that the test split was opened, and returns how often that makes."""
    with _record_held(path):
        record = read_record(path)
        if not record and (path / RECORD_FILE).exists():
            raise WorkdirError(
                f"{path / RECORD_FILE} is damaged, so the opening of the test split cannot be "
                "counted in it; restore it or train again."
            )
        entry = {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **finite_or_none(metrics)}
        openings = [*record.get("test_openings", []), entry]
        write_json(path / RECORD_FILE, {**record, "test_openings": openings})
        return len(openings)


@contextmanager
def _record_held(path: Path) -> Iterator[None]:
    """Lets one process at a time read and write `run.json`: evaluations, and a live training."""
    with (path / RECORD_LOCK_FILE).open("a", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def environment() -> dict[str, Any]:
    """What this process runs on: versions, devices, source revision, command."""
    devices = jax.devices()
    return {
        "command": shlex.join(sys.argv),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "devices": f"{len(devices)} x {devices[0].device_kind}",
        "platform": platform.platform(),
        "git": _git_state(Path(__file__)),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def session(
    started: Mapping[str, Any], *, first_step: int, last_step: int | None, status: str
) -> dict[str, Any]:
    """One entry of the record's `sessions`; one that was killed keeps the status `running`."""
    return {**started, "first_step": first_step, "last_step": last_step, "status": status}


def _acquire(path: Path) -> IO[str]:
    if path.exists() and not path.is_dir():
        raise WorkdirError(f"{path} is a file; give the path of a folder as --workdir.")
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = (path / LOCK_FILE).open("a+", encoding="utf-8")
    except OSError as error:
        raise unwritable(path, error) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.seek(0)
        owner = lock.read().strip() or "unknown"
        lock.close()
        raise WorkdirError(
            f"{path} is in use by another run (process {owner}); wait for it, stop it, or give "
            "another --workdir."
        ) from None
    if not _is_at(lock, path / LOCK_FILE):  # its owner has just removed it, with the folder
        lock.close()
        return _acquire(path)
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()
    return lock


def _is_at(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def unwritable(path: Path, error: OSError) -> WorkdirError:
    """What to tell the user when the system refuses to write in a folder."""
    return WorkdirError(
        f"{path} cannot be written ({error.strerror}); free space or permissions there and run the "
        "same command again, or give another --workdir. What was saved before is intact."
    )


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _git_state(file: Path) -> dict[str, Any] | None:
    """The revision that a file is of, None where it is of none.

    An installation in an ignored folder of some repository must not pass for its revision.
    """

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(file.parent), *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=10
        ).stdout

    try:
        git("ls-files", "--error-unmatch", "--", file.name)
        revision = git("rev-parse", "HEAD").strip()
        return {"sha": revision, "dirty": bool(git("status", "--porcelain").strip())}
    except (OSError, subprocess.SubprocessError):
        return None
