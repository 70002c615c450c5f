"""Arrays kept as .npy files beside the data they were decoded from.

A cache may vanish, be damaged or be impossible to write, and nothing but speed changes: every
array carries a checksum, and one that fails it counts as absent. Nothing is ever unpickled.

What depends on how images are decoded lies in a folder that names the rules and the version of PIL.
"""

import contextlib
import math
import os
import re
import shutil
import tempfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Shaped, UInt8

_FOLDER = re.compile(r"(?P<data>[0-9a-f]{16})-((?P<decoder>\w+-\w+)-)?(\d+x\d+x\d+|columns)")
_ALIGNMENT = 64  # bytes; a mapped .npy file has it too


def cache_folder(directory: Path, fingerprint: str, content: str) -> Path:
    """Where `content` (`columns`, or a decoder and a shape) of some data is kept."""
    return directory / "cache" / f"{fingerprint[:16]}-{content}"


def remove_outdated(directory: Path, fingerprint: str, decoder: str) -> None:
    """Removes what other data or other rules of decoding left in the cache of a data set.

    Two installations that share a data set but differ in PIL's major version take turns in decoding
    it; caches that nobody reads any more would otherwise pile up for ever.
    """
    with contextlib.suppress(OSError):
        for folder in (directory / "cache").iterdir():
            found = _FOLDER.fullmatch(folder.name)
            if found is None:
                continue  # not ours
            columns = folder.name.endswith("-columns")
            if found["data"] == fingerprint[:16] and (columns or found["decoder"] == decoder):
                continue
            shutil.rmtree(folder, ignore_errors=True)


def load_arrays(
    folder: Path, names: tuple[str, ...]
) -> dict[str, Shaped[np.ndarray, "..."]] | None:
    """Loads arrays that were kept.

    Args:
        folder: where they were kept.
        names: all of the arrays wanted.

    Returns:
        Read-only arrays backed by the files, or None if any is absent or damaged.
    """
    arrays = {}
    try:
        for name in names:
            array = np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
            if _checksum(array) != (folder / f"{name}.crc32").read_text():
                return None
            arrays[name] = np.asarray(array)
    except (OSError, ValueError, EOFError):
        return None
    return arrays


def store_arrays(folder: Path, arrays: Mapping[str, Shaped[np.ndarray, "..."]]) -> bool:
    """Keeps arrays for a later `load_arrays`; a reader sees all of an array or none of it.

    Args:
        folder: made if need be.
        arrays: name to array, of numbers or text.

    Returns:
        Whether the folder could be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, array in arrays.items():
            with _replacing(folder / f"{name}.npy") as temporary, temporary.open("wb") as file:
                np.save(file, array, allow_pickle=False)
            with _replacing(folder / f"{name}.crc32") as temporary:
                temporary.write_text(_checksum(array))
    except OSError:
        return False
    return True


def store_rows(
    folder: Path,
    name: str,
    shape: tuple[int, ...],
    parts: Iterable[UInt8[np.ndarray, "..."]],
) -> bool:
    """Keeps an array that is never in memory as a whole.

    Args:
        folder: made if need be.
        name: for `load_arrays`.
        shape: of the whole array.
        parts: its rows, in order, several at a time.

    Returns:
        Whether the folder could be written; if not, `parts` may be used up.
    """
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    checksum = 0
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _replacing(folder / f"{name}.npy") as temporary, temporary.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            for part in parts:
                values = np.ascontiguousarray(part).data
                file.write(values)
                checksum = zlib.crc32(values, checksum)
        with _replacing(folder / f"{name}.crc32") as temporary:
            temporary.write_text(_describe(checksum, np.dtype(np.uint8), shape))
    except OSError:
        return False
    return True


def aligned_empty(shape: tuple[int, ...]) -> UInt8[np.ndarray, "..."]:
    """An array of bytes, not set, that JAX's CPU devices share instead of copying it each."""
    num_bytes = math.prod(shape)
    memory = np.empty(num_bytes + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + num_bytes].reshape(shape)


def _checksum(array: Shaped[np.ndarray, "..."]) -> str:
    contiguous = np.ascontiguousarray(array)
    checksum = zlib.crc32(contiguous.view(np.uint8).reshape(-1).data)
    return _describe(checksum, array.dtype, array.shape)


def _describe(checksum: int, dtype: np.dtype, shape: tuple[int, ...]) -> str:
    return f"{checksum:08x} {dtype.str} {shape}"


@contextlib.contextmanager
def _replacing(path: Path):
    """Gives a temporary path that takes the place of `path` if the block succeeds."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)  # mkstemp's 0600 would hide the file from others who share the data
        temporary.replace(path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
