"""The folder of compiled programs, kept between runs: bounded, and repaired when damaged."""

import contextlib
import importlib
import re
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

LIMIT_BYTES = 2 * 2**30
COMPILING = "compiling"  # name of the threads that compile
DAMAGED = re.compile(r"Error reading persistent compilation cache entry for '([^']+)'")
_ZSTD = b"\x28\xb5\x2f\xfd"
_enabled = False


def enable(log: Callable[[str], None] = lambda _: None) -> None:
    """Keeps compiled programs between runs, in JAX's own folder if one is set, else in ours.

    Only the first call of a process does so: what the user sets afterwards stays.

    A program that JAX warns it cannot read is compiled anew, but JAX never overwrites the damaged
    entry, which a run killed while writing leaves behind: it is removed here, and `log` takes a
    line about it.
    """
    global _enabled
    if _enabled:
        return
    _enabled = True
    import jax

    settings: Any = jax.config
    if settings.jax_compilation_cache_dir is None:
        folder = Path.home() / ".cache" / "cnn_lab" / "xla"
        jax.config.update("jax_compilation_cache_dir", str(folder))
        trim(folder)
    show = warnings.showwarning

    def show_or_repair(message: Warning | str, *arguments: Any, **options: Any) -> None:
        found = DAMAGED.match(str(message))
        if found and remove_damaged(Path(settings.jax_compilation_cache_dir), found[1]):
            log("A damaged entry of the compilation cache was removed.")
        else:
            show(message, *arguments, **options)

    warnings.showwarning = show_or_repair
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


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


def remove_damaged(folder: Path, name: str) -> int:
    """Deletes the entries of programs called `name` that cannot be unpacked, and counts them.

    JAX's warning has the name, which the programs of all experiments share, but no entry. If all of
    them unpack, the damage is inside one of them, and all go: a compilation costs less than a
    warning at every start. If one cannot even be read, nothing is known, and none goes.
    """
    try:
        # One after the other: all of them together may be larger than the memory.
        whole = {path: _unpacks(path.read_bytes()) for path in folder.glob(f"{name}-*cache")}
    except OSError:
        return 0
    damaged = [path for path, unpacks in whole.items() if not unpacks]
    removed = 0
    for path in damaged or whole:
        with contextlib.suppress(OSError):  # another process may repair at the same time
            path.unlink()
            removed += 1
    return removed


def _unpacks(content: bytes) -> bool:
    unpack = _zstd_unpack() if content.startswith(_ZSTD) else zlib.decompress
    try:
        if unpack is not None:  # else written by a Python that has what this one lacks
            unpack(content)
    except Exception:  # every library has its own
        return False
    return True


def _zstd_unpack() -> Any:
    """The function that unpacks zstandard here, as JAX chooses it; None without one."""
    for module in ("compression.zstd", "zstandard"):
        with contextlib.suppress(ImportError):
            return importlib.import_module(module).decompress
    return None
