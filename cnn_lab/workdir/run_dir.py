"""The folder of one run: its owner, its config, and its record with an entry for each session."""

import errno
import json
import os
import platform
import secrets
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import IO, Any

import jax

from cnn_lab.config import ExperimentConfig
from cnn_lab.config.imports import RECORD_FILE, import_modules
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
    system_errors_explained,
)
from cnn_lab.core.files import WAIT_FOR_FILES, appears, finite_or_none, is_at, lock_file, write_json
from cnn_lab.core.text import counted
from cnn_lab.distributed.processes import SINGLE_PROCESS, Processes

CONFIG_FILE = "config.json"
LOCK_FILE = ".lock"
RECORD_LOCK_FILE = ".record.lock"
LOCK_FILES = {LOCK_FILE, RECORD_LOCK_FILE}
CHECKPOINTS = "checkpoints"
DAMAGED = "damaged_checkpoints"
# What a scheduler, or a shell's redirection, makes in a folder before the run begins.
LOGS = {".err", ".log", ".out", ".txt"}


class RunDir:
    """A run's folder, held by this process until `release`.

    Of several processes, which must all see the same folder, the primary one holds it: it alone
    writes config, record and rows, and in the others the methods that write do nothing. Checkpoints
    are written by all, each its part.

    Attributes:
        path: where it is; created when missing.
        is_primary: whether this process writes there.
        fresh: nothing was ever saved in it, so that there is nothing to go on from, and a corrected
            config may take it over.

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
            if path.is_dir() and not (path / CONFIG_FILE).exists():
                files = sorted(file for file in path.iterdir() if file.suffix not in LOGS)
                others = [file.name for file in files if not file.name.startswith(".")]
                if others:  # among which a run would be lost
                    raise _refused(
                        path,
                        f"{path} is not empty, and no run: it holds {others[0]}, but no "
                        f"{CONFIG_FILE}; give a new or empty folder, or that of a run, as "
                        "--workdir.",
                        allowed="a new or empty folder, or that of a run",
                    )
            self._made = [folder for folder in (path, *path.parents) if not folder.exists()]
            while self._lock is None:
                path.mkdir(parents=True, exist_ok=True)
                file = (path / LOCK_FILE).open("a+", encoding="utf-8")
                try:
                    lock_file(file, wait=False)
                except BlockingIOError:
                    file.seek(0)
                    owner = file.read().strip() or "unknown"
                    file.close()
                    raise _refused(
                        path,
                        f"{path} is in use by another run (process {owner}); wait for it, stop it, "
                        "or give another --workdir.",
                        allowed="a folder that no other run uses",
                    ) from None
                if is_at(file, path / LOCK_FILE):
                    self._lock = file
                else:  # its owner has just removed it, with the folder
                    file.close()
            self._lock.truncate(0)
            self._lock.write(str(os.getpid()))
            self._lock.flush()
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
            raise _refused(
                self.path,
                f"The --workdir of process {alike.index(False)} is not the folder of process 0, "
                f"{path}; all processes must see the same files: give all of them the same one, "
                "on a file system that their machines share.",
            )
        return fresh

    def claim(self, config: ExperimentConfig) -> None:
        """Makes the folder the run of `config`, once that is about to be trained."""
        if not self.is_primary:
            return
        try:
            if self.fresh:
                try:
                    check_config(self.path, config)
                except WorkdirError:  # the record is another config's
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
    folders = [folder for folder in (path / CHECKPOINTS, path / DAMAGED) if folder.is_dir()]
    saved = [file for folder in folders for file in folder.iterdir()]  # glob hides what is refused
    return any(file.name.partition("-")[0].isdecimal() for file in saved)


def missing_checkpoints(path: Path) -> CheckpointError:
    """The error of a run without a checkpoint to use."""
    record, again = read_record(path), f"cnn-lab train --config={path / CONFIG_FILE}"
    problem = f"{path} has no checkpoint yet; train it first: {again}."
    if (path / DAMAGED).exists():
        problem = (
            f"No checkpoint of {path} is left, and damaged ones are in {path / DAMAGED}; start "
            f"again with another --workdir: {again} --workdir=NEW."
        )
    elif "progress" in record:
        problem = (
            f"{path} was {record['status']} at step {record['progress']['step']}, but its "
            f"checkpoints are gone from {path / CHECKPOINTS}; bring them back, or train again with "
            f"another --workdir: {again} --workdir=NEW."
        )
    return CheckpointError(problem, where=str(path))


def lineage_in(record: Mapping[str, Any]) -> dict[str, Any] | None:
    """Where the weights of a run came from, None where they are its own.

    `transfer` of its record; of a mean of several networks, its `members`; of weights that came in
    a file, `imported`.
    """
    for name in ("members", "imported"):
        if name in record:
            return {name: record[name]}
    return record.get("transfer")


def trained_in_words(lineage: Mapping[str, Any]) -> str:
    """The strategy of a fine-tuning and what it trained, with factors of the learning rate."""
    plan = lineage["plan"]
    trained = [
        f"{group['name']} x{group['rate']:g}"
        + (f" from epoch {group['first_epoch'] + 1}" if group["first_epoch"] else "")
        for group in plan["groups"]
        if group["rate"]
    ]
    return f"{plan['strategy']}: {', '.join(trained)}"


def changes_since(path: Path, config: ExperimentConfig) -> str:
    """Lines of how a config differs from the one a folder was made by, empty where it does not."""
    if not (path / CONFIG_FILE).exists():
        return ""
    different = differences(to_dict(stored_config(path)), to_dict(config))
    return "\n".join(
        f"  {name}: {old!r} there, {new!r} now" for name, (old, new) in different.items()
    )


def check_config(path: Path, config: ExperimentConfig) -> None:
    """Raises a `WorkdirError` with the differences if the folder was made by another config."""
    if lines := changes_since(path, config):
        raise _refused(
            path,
            f"{path} was made by another config:\n{lines}\nGive another --workdir for the new "
            f"config, or go on with the old one by --config={path / CONFIG_FILE} alone.",
            allowed="a new folder, or that of a run with the same config",
        )


def read_config(path: Path) -> ExperimentConfig:
    """Reads the config of a run, and imports the modules that it names.

    Raises:
        WorkdirError: the folder holds no run, or its config cannot be read.
        ConfigError: a module cannot be imported here.
    """
    config = stored_config(path)
    import_modules(config.imports, path)
    return config


def stored_config(path: Path) -> ExperimentConfig:
    """The config of a run as `read_config` reads it; nothing is imported."""
    file, place = path / CONFIG_FILE, str(path)
    remedy = "restore it from a copy, or train again with another --workdir."
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        problem = f"{path} holds no run: {file} does not exist; give the --workdir of a training."
        raise WorkdirError(problem, where=place) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise WorkdirError(f"{file} cannot be read ({reason}); {remedy}", where=place) from error
    try:
        if isinstance(values, dict):
            check_format_version(values.get("format_version"), place)
    except ConfigError as error:
        raise WorkdirError(str(error), where=place) from error
    try:
        return config_from_json(values)
    except ConfigError as error:
        problem = f"{file} was changed: {error} To use it, {remedy}"
        raise WorkdirError(problem, where=place) from error


def read_record(path: Path) -> dict[str, Any]:
    """Reads `run.json`; empty when there is none or it is damaged."""
    try:
        record = json.loads((path / RECORD_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def count_test_opening(path: Path, metrics: Mapping[str, Any]) -> int:
    """Records in `run.json` that the test split was opened; returns how often it has been."""
    with _record_held(path):
        record = read_record(path)
        if not record and (path / RECORD_FILE).exists():
            raise WorkdirError(
                f"{path / RECORD_FILE} is damaged, so the opening of the test split cannot be "
                "counted in it; restore it or train again.",
                where=str(path / RECORD_FILE),
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


def _refused(path: Path, problem: str, allowed: str | None = None) -> WorkdirError:
    return WorkdirError(problem, where="--workdir", found=str(path), allowed=allowed)


def _unusable(path: Path, error: OSError) -> WorkdirError:
    """The error of a folder that cannot be made, or not be written."""
    if error.errno == errno.ENAMETOOLONG:
        return _refused(
            path,
            f"The name of --workdir is too long for the file system ({len(str(path))} characters, "
            f"{str(path)[:40]}...); give a shorter one.",
        )
    for place in (path, *path.parents):
        if place.is_symlink() and not place.exists():
            return _refused(path, f"{place} is a link that leads nowhere; give another --workdir.")
        if place.exists() and not place.is_dir():
            problem = f"{place} is a file; give the path of a folder as --workdir."
            return _refused(path, f"{path} cannot be made: {problem}" if place != path else problem)
    return _refused(
        path,
        f"{path} cannot be written ({error.strerror}); make room or mend permissions there, or "
        "give another --workdir.",
    )


PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "tensorflow-datasets", "numpy")


class Session:
    """An entry of the record's `sessions`; the next one corrects that of a process that was killed.

    It holds what `environment` found as the process started and the updates made before; `facts`
    are values of the run for its record.
    """

    def __init__(self, folder: RunDir, started: Mapping[str, Any], first_step: int, **facts: Any):
        self._folder = folder
        # The folder is held by one process at a time: those that run could not record their end.
        self._earlier = [
            {**entry, "status": "cut off"} if entry["status"] == "running" else entry
            for entry in read_record(folder.path).get("sessions", [])
        ]
        self._entry = {**started, "first_step": first_step}
        self.update("running", error=None, **facts)

    def update(self, status: str, last_step: int | None = None, **values: Any) -> None:
        """Records how the training stands, and values of the run."""
        entry = {**self._entry, "last_step": last_step, "status": status}
        self._folder.update_record(status=status, sessions=[*self._earlier, entry], **values)

    @contextmanager
    def failures_recorded(self) -> Iterator[None]:
        """Records a failure inside a `with`."""
        try:
            with system_errors_explained(self._folder.path):
                yield
        except Exception as error:
            kind = "" if isinstance(error, CnnLabError) else f"{type(error).__name__}: "
            with suppress(OSError):  # a full disk, for one, takes no record either
                self.update("failed", error=f"{kind}{error}")
            raise


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


def versions(packages: Iterable[str] = PACKAGES) -> dict[str, str]:
    """Installed versions of packages; by default those that a training depends on."""
    found = {}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def devices_in_words(num_used: int) -> str:
    """The devices of a training among those of the process: `1 of 2 cpu devices`."""
    kind, num_devices = jax.devices()[0].device_kind, jax.device_count()
    others = "" if num_used == num_devices else f"{num_used} of "
    return f"{others}{counted(num_devices, f'{kind} device')}"


def _git_state(file: Path) -> dict[str, Any] | None:
    """The revision that a file is of, None where it is of none, and whether tracked files differ.

    An installation in an ignored folder of some repository must not pass for its revision.
    """
    tracked = ("ls-files", "--error-unmatch", "--", file.name)
    outputs = []
    try:
        # Untracked files, such as data and runs, are no change of the code.
        status = ("status", "--porcelain", "--untracked-files=no")
        for arguments in (tracked, ("rev-parse", "HEAD"), status):
            command = ["git", "-C", str(file.parent), *arguments]
            done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
            outputs.append(done.stdout.strip())
    except (OSError, subprocess.SubprocessError):
        return None
    return {"sha": outputs[1], "dirty": bool(outputs[2])}
