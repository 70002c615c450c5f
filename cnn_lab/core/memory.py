"""The memory that there is for a program, on the host and on its devices."""

import contextlib
import os
from pathlib import Path
from typing import Any

# A container's limit, in the second and in the first version of control groups.
LIMIT_FILES = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


def host_bytes() -> int | None:
    """Bytes of memory of this machine, or of its container if that is less; None if unknown."""
    found = []
    with contextlib.suppress(OSError, ValueError):  # a system without these names
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for file in LIMIT_FILES:
        try:
            found.append(int(file.read_text()))
        except (OSError, ValueError):  # none, or `max`
            continue
    return min(found, default=None)


def device_bytes(device: Any) -> int | None:
    """Bytes that a JAX device may use; those of the host for a CPU, whose devices share them."""
    if device.platform == "cpu":
        return host_bytes()
    return (device.memory_stats() or {}).get("bytes_limit")
