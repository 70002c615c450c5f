"""Files written whole or not at all, and locks on files."""

import errno
import fcntl
import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

WAIT_FOR_FILES = 10.0  # seconds that a shared file system may take to show what another process saw
# How file systems of some clusters (Lustre, NFS) answer where they were mounted without locks.
NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP}


def write_text(path: Path, text: str) -> None:
    """Replaces `path` by `text` atomically: readers see the old or the new content."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Replaces `path` by `content` atomically."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def lock_file(file: IO[Any], *, wait: bool) -> bool:
    """Locks an open file for this process until it is closed; whether that could be done.

    It cannot on a file system without locks. A `BlockingIOError` where another process holds the
    file and `wait` is False.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno in NO_LOCKS:
            return False
        raise
    return True


def appears(path: Path, seconds: float) -> bool:
    """Whether there is something at `path`, or comes to be so within some seconds.

    A file system that several machines share may show late what another one wrote.
    """
    until = time.monotonic() + seconds
    while not (found := path.exists()) and time.monotonic() < until:
        time.sleep(0.2)
    return found


def is_at(file: IO[Any], path: Path) -> bool:
    """Whether an open file, such as a lock, is still the one at `path`."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def write_json(path: Path, values: Any) -> None:
    """Writes indented JSON atomically; a `ValueError` for NaN and infinities, which it lacks."""
    write_text(path, json.dumps(values, indent=2, allow_nan=False) + "\n")


def finite_or_none(value: Any) -> Any:
    """The same value with None in place of NaN and infinities, at any depth, for strict JSON."""
    if isinstance(value, Mapping):
        return {name: finite_or_none(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite_or_none(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
