"""How much memory there is for a program, on the host and on its devices."""

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
    """Memory of this machine, or of this container where it gets less; None where unknown."""
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
    """Memory that a JAX device may use; that of the host for a CPU, whose devices all share it."""
    if device.platform == "cpu":
        return host_bytes()
    return (device.memory_stats() or {}).get("bytes_limit")
