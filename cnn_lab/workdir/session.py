"""The record of one process that trains a run: its environment and its end."""

import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from cnn_lab.core.errors import CnnLabError
from cnn_lab.core.formatting import counted
from cnn_lab.core.system_errors import system_errors_explained
from cnn_lab.workdir.run_dir import RunDir, read_record

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
