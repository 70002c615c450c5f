"""The folder of compiled programs: bounded, and mended when an entry is damaged."""

import contextlib
import re
import sys
import warnings
from pathlib import Path
from typing import Any

LIMIT_BYTES = 2 * 2**30
DAMAGED = re.compile(r"Error reading persistent compilation cache entry for '([^']+)'")


def trim(folder: Path, limit_bytes: int = LIMIT_BYTES) -> None:
    """Deletes the oldest entries until the folder holds at most `limit_bytes`."""
    entries = []
    for path in folder.glob("*-cache"):
        with contextlib.suppress(OSError):  # another process may trim at the same time
            entries.append((path.stat().st_mtime, path.stat().st_size, path))
    excess = sum(size for _, size, _ in entries) - limit_bytes
    for _, size, path in sorted(entries):
        if excess <= 0:
            break
        with contextlib.suppress(OSError):
            path.unlink()
            excess -= size


def mend(folder: Path) -> None:
    """From now on, deletes the entries of a program that JAX warns it cannot read.

    JAX compiles anew then, but never overwrites the damaged entry, which a run killed while writing
    leaves behind: every later run would compile again.
    """
    show = warnings.showwarning

    def show_or_mend(message: Warning | str, *arguments: Any, **options: Any) -> None:
        if found := DAMAGED.match(str(message)):
            for path in folder.glob(f"{found[1]}-*"):
                path.unlink(missing_ok=True)
            sys.stderr.write("A damaged entry of the compilation cache was removed.\n")
        else:
            show(message, *arguments, **options)

    warnings.showwarning = show_or_mend
