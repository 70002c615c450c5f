"""The folder of one run: its owner, its config and its record."""

import errno
import json
import os
import platform
import secrets
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
from cnn_lab.config.load import (
    FORMAT_VERSION,
    check_format_version,
    config_from_json,
    config_to_json,
)
from cnn_lab.config.node import to_dict
from cnn_lab.config.rules import differences
from cnn_lab.core.errors import (
    CheckpointError,
    CnnLabError,
    ConfigError,
    WorkdirError,
    counted,
    system_errors_explained,
)
from cnn_lab.core.files import (
    WAIT_FOR_FILES,
    appears,
    finite_or_none,
    is_at,
    lock_file,
    write_json,
)
from cnn_lab.distributed.processes import SINGLE_PROCESS, Processes

CONFIG_FILE = "config.json"
RECORD_FILE = "run.json"
LOCK_FILE = ".lock"
RECORD_LOCK_FILE = ".record.lock"
LOCK_FILES = {LOCK_FILE, RECORD_LOCK_FILE}
CHECKPOINTS = "checkpoints"
DAMAGED = "damaged_checkpoints"
# What a scheduler, or a shell's redirection, makes in a folder before the run begins.
LOGS = {".err", ".log", ".out", ".txt"}


class RunDir:
    """A run's folder, held by this process until `release`.

    Of several processes the primary one holds it: it alone writes config, record and rows, and in
    the others the methods that write do nothing. Checkpoints are written by all, each its part.

    Attributes:
        path: where it is.
        is_primary: whether this process writes there.
        fresh: nothing was ever saved in it, so that there is nothing to go on from, and a corrected
            config may take it over.

    Args:
        path: created when missing.
        config: of the run.
        processes: that open the folder together, and must all see the same one.

    Raises:
        WorkdirError: unwritable, in use, made by another config, something else than a run, or
            another folder than that of the primary process.
    """

    def __init__(self, path: Path, config: ExperimentConfig, processes: Processes = SINGLE_PROCESS):
        self.path, self.is_primary, self.fresh = path, processes.is_primary, True
        self._made: list[Path] = []
        self._lock: IO[str] | None = None
        try:
            if self.is_primary:
                self._hold(config)
            if processes.count > 1:
                self.fresh = self._check_shared(processes)
        except BaseException:
            self.release()
            raise

    def _hold(self, config: ExperimentConfig) -> None:
        path = self.path
        try:
            _refuse_other_things(path)
            self._made = [folder for folder in (path, *path.parents) if not folder.exists()]
            self._lock = _acquire(path)
        except OSError as error:
            raise _unusable(path, error) from error
        self.fresh = not has_checkpoints(path) and "progress" not in read_record(path)
        if not self.fresh:
            check_config(path, config)

    def _check_shared(self, processes: Processes) -> bool:
        """Whether the folder is fresh for the primary process, whose folder all must see."""
        mark = f".{secrets.token_hex(8)}.shared"
        if self.is_primary:
            (self.path / mark).touch()
        try:
            mark, fresh, path = processes.broadcast([mark, self.fresh, str(self.path)])
            alike = processes.all_gather(appears(self.path / mark, WAIT_FOR_FILES))
        finally:
            if self.is_primary:
                (self.path / mark).unlink(missing_ok=True)
        if not all(alike):
            raise WorkdirError(
                f"The --workdir of process {alike.index(False)} is not the folder of process 0, "
                f"{path}; all processes must see the same files: give all of them the same one, "
                "on a file system that their machines share."
            )
        return fresh

    def claim(self, config: ExperimentConfig) -> None:
        """Makes the folder the run of `config`, once that is about to be trained.

        Raises:
            WorkdirError: unwritable.
        """
        if not self.is_primary:
            return
        try:
            if self.fresh and not _is_of(self.path, config):
                (self.path / RECORD_FILE).unlink(missing_ok=True)
            write_json(self.path / CONFIG_FILE, config_to_json(config))
        except OSError as error:
            raise _unusable(self.path, error) from error

    def release(self) -> None:
        """Lets other processes use the folder, and removes one made for a run that never began."""
        with suppress(OSError):
            if self._made and {file.name for file in self.path.iterdir()} <= LOCK_FILES:
                for name in LOCK_FILES:
                    (self.path / name).unlink(missing_ok=True)
                for folder in self._made:
                    folder.rmdir()
        self._made = []
        if self._lock is not None:
            self._lock.close()

    def update_record(self, **values: Any) -> None:
        """Changes top-level values of `run.json`."""
        if not self.is_primary:
            return
        with _record_held(self.path):
            record = {"format_version": FORMAT_VERSION, **read_record(self.path), **values}
            write_json(self.path / RECORD_FILE, record)


def has_checkpoints(path: Path) -> bool:
    """Whether a run has saved anything that is still there, damaged or not."""
    folders = (path / CHECKPOINTS, path / DAMAGED)
    saved = (file for folder in folders if folder.is_dir() for file in folder.iterdir())
    return any(file.name.partition("-")[0].isdecimal() for file in saved)


def missing_checkpoints(path: Path) -> CheckpointError:
    """The error of a run without a checkpoint to use."""
    record, again = read_record(path), f"cnn-lab train --config={path / CONFIG_FILE}"
    if (path / DAMAGED).exists():
        return CheckpointError(
            f"No checkpoint of {path} is left, and damaged ones are in {path / DAMAGED}; start "
            f"again with another --workdir: {again} --workdir=NEW."
        )
    if "progress" in record:
        return CheckpointError(
            f"{path} was {record['status']} at step {record['progress']['step']}, but its "
            f"checkpoints are gone from {path / CHECKPOINTS}; bring them back, or train again with "
            f"another --workdir: {again} --workdir=NEW."
        )
    return CheckpointError(f"{path} has no checkpoint yet; train it first: {again}.")


def lineage_in(record: Mapping[str, Any]) -> dict[str, Any] | None:
    """Where the weights of a run came from, None where they are its own.

    That is what `transfer` of its record says; of a mean of several networks, its `members`; of
    weights that came in a file, `imported`.
    """
    for name in ("members", "imported"):
        if name in record:
            return {name: record[name]}
    return record.get("transfer")


def changes_since(path: Path, config: ExperimentConfig) -> str:
    """Lines of how a config differs from the one a folder was made by, empty where it does not."""
    if not (path / CONFIG_FILE).exists():
        return ""
    different = differences(to_dict(read_config(path)), to_dict(config))
    return "\n".join(
        f"  {name}: {old!r} there, {new!r} now" for name, (old, new) in different.items()
    )


def check_config(path: Path, config: ExperimentConfig) -> None:
    """Raises a `WorkdirError` with the differences if the folder was made by another config."""
    if lines := changes_since(path, config):
        raise WorkdirError(
            f"{path} was made by another config:\n{lines}\nGive another --workdir for the new "
            f"config, or go on with the old one by --config={path / CONFIG_FILE} alone."
        )


def _is_of(path: Path, config: ExperimentConfig) -> bool:
    try:
        check_config(path, config)
    except WorkdirError:
        return False
    return True


def read_config(path: Path) -> ExperimentConfig:
    """Reads the config of a run.

    Raises:
        WorkdirError: the folder holds no run, or its config cannot be read.
    """
    file = path / CONFIG_FILE
    remedy = "restore it from a copy, or train again with another --workdir."
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise WorkdirError(
            f"{path} holds no run: {file} does not exist; give the --workdir of a training."
        ) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise WorkdirError(f"{file} cannot be read ({reason}); {remedy}") from error
    try:
        if isinstance(values, dict):
            check_format_version(values.get("format_version"), str(path))
    except ConfigError as error:
        raise WorkdirError(str(error), where=str(path)) from error
    try:
        return config_from_json(values)
    except ConfigError as error:
        raise WorkdirError(f"{file} was changed: {error} To use it, {remedy}") from error


def read_record(path: Path) -> dict[str, Any]:
    """Reads `run.json`; empty when there is none or it is damaged."""
    try:
        record = json.loads((path / RECORD_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


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
    with (path / RECORD_LOCK_FILE).open("a", encoding="utf-8") as file:
        lock_file(file, wait=True)
        yield


def _refuse_other_things(path: Path) -> None:
    """Raises a `WorkdirError` for a folder of other files, among which a run would be lost."""
    if not path.is_dir() or (path / CONFIG_FILE).exists():
        return
    found = sorted(
        file.name
        for file in path.iterdir()
        if not file.name.startswith(".") and file.suffix not in LOGS
    )
    if found:
        raise WorkdirError(
            f"{path} is not empty, and no run: it holds {found[0]}, but no {CONFIG_FILE}; give a "
            "new or empty folder, or that of a run, as --workdir."
        )


def _acquire(path: Path) -> IO[str]:
    path.mkdir(parents=True, exist_ok=True)
    file = (path / LOCK_FILE).open("a+", encoding="utf-8")
    try:
        lock_file(file, wait=False)
    except BlockingIOError:
        file.seek(0)
        owner = file.read().strip() or "unknown"
        file.close()
        raise WorkdirError(
            f"{path} is in use by another run (process {owner}); wait for it, stop it, or give "
            "another --workdir."
        ) from None
    if not is_at(file, path / LOCK_FILE):  # its owner has just removed it, with the folder
        file.close()
        return _acquire(path)
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file


def _unusable(path: Path, error: OSError) -> WorkdirError:
    """The error of a folder that cannot be made, or not be written."""
    if error.errno == errno.ENAMETOOLONG:
        return WorkdirError(
            f"The name of --workdir is too long for the file system ({len(str(path))} characters, "
            f"{str(path)[:40]}...); give a shorter one."
        )
    for place in (path, *path.parents):
        if place.is_symlink() and not place.exists():
            return WorkdirError(f"{place} is a link that leads nowhere; give another --workdir.")
        if place.exists() and not place.is_dir():
            made = "" if place == path else f"{path} cannot be made: "
            return WorkdirError(f"{made}{place} is a file; give the path of a folder as --workdir.")
    return WorkdirError(
        f"{path} cannot be written ({error.strerror}); make room or mend permissions there, or "
        "give another --workdir."
    )


PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "tensorflow-datasets", "numpy")


class Session:
    """An entry of the record's `sessions`; the next one corrects that of a process that was killed.

    Args:
        folder: the run's.
        started: from `environment`.
        first_step: where it begins.
        facts: values of the run for its record.
    """

    def __init__(self, folder: RunDir, started: Mapping[str, Any], first_step: int, **facts: Any):
        self._folder = folder
        earlier = read_record(folder.path).get("sessions", [])
        # The folder is held by one process at a time: these did not come to note their end.
        self._earlier = [
            {**entry, "status": "cut off"} if entry["status"] == "running" else entry
            for entry in earlier
        ]
        self._entry = {**started, "first_step": first_step}
        self._write("running", None, error=None, **facts)

    def end(self, status: str, progress: Mapping[str, Any]) -> None:
        """Notes how a training ended that goes on from here, or is done."""
        self._write(status, progress["step"], progress=progress)

    @contextmanager
    def failures_noted(self) -> Iterator[None]:
        """Notes a failure inside a `with` in the record."""
        try:
            with system_errors_explained(self._folder.path):
                yield
        except Exception as error:
            kind = "" if isinstance(error, CnnLabError) else f"{type(error).__name__}: "
            with suppress(OSError):  # a full disk, for one, takes no record either
                self._write("failed", None, error=f"{kind}{error}")
            raise

    def _write(self, status: str, last_step: int | None, **values: Any) -> None:
        entry = {**self._entry, "last_step": last_step, "status": status}
        self._folder.update_record(status=status, sessions=[*self._earlier, entry], **values)


def environment() -> dict[str, Any]:
    """Versions, devices, source revision and command of this process."""
    devices = jax.devices()
    return {
        "command": shlex.join(sys.argv),
        "python": platform.python_version(),
        "packages": versions(),
        "devices": f"{len(devices)} x {devices[0].device_kind}",
        "processes": jax.process_count(),
        "platform": platform.platform(),
        "git": _git_state(Path(__file__)),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def versions() -> dict[str, str]:
    """Installed versions of the packages that a training depends on."""
    return {name: version_of(name) for name in PACKAGES}


def devices_in_words(num_used: int) -> str:
    """The devices of a training among those of the process: `1 of 2 cpu devices`."""
    kind, num_devices = jax.devices()[0].device_kind, jax.device_count()
    others = "" if num_used == num_devices else f"{num_used} of "
    return f"{others}{counted(num_devices, f'{kind} device')}"


def version_of(name: str) -> str:
    """The installed version of a package."""
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
