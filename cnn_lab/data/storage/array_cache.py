"""Arrays cached as .npy files beside the data they were decoded from.

A cache may vanish, be damaged or be impossible to write, and nothing but speed changes: every
array carries a checksum, and one that fails it counts as absent. Nothing is ever unpickled.

Arrays that depend on how images are decoded are in a folder that names the decoder's version and
that of PIL.
"""

import contextlib
import math
import os
import re
import shutil
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Shaped, UInt8
from numpy.typing import DTypeLike

from cnn_lab.core.files import write_text

_FOLDER = re.compile(r"(?P<data>[0-9a-f]{16})-((?P<decoder>\w+-\w+)-)?(\d+x\d+x\d+|columns)")
_ALIGNMENT = 64  # bytes; a mapped .npy file has it too


def cache_folder(directory: Path, fingerprint: str, content: str) -> Path:
    """The cache folder of `content` (`columns`, or a decoder and a shape) of some data."""
    return directory / "cache" / f"{fingerprint[:16]}-{content}"


def remove_outdated(directory: Path, fingerprint: str, decoder: str) -> None:
    """Removes caches of other content or of another decoder from the folder of a data set.

    Two installations that share a data set but differ in PIL's major version take turns in decoding
    it; old caches would otherwise pile up for ever.
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


def load_array(
    folder: Path | None, name: str, shape: tuple[int, ...]
) -> Shaped[np.ndarray, "..."] | None:
    """A stored array, backed by its file; None if it is absent, damaged or of another shape."""
    if folder is None:
        return None
    try:
        array = np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
        described = _describe(zlib.crc32(_bytes_of(array)), array.dtype, array.shape)
        intact = described == (folder / f"{name}.crc32").read_text()
    except (OSError, ValueError, EOFError):
        return None
    return np.asarray(array) if intact and array.shape == shape else None


def store_arrays(folder: Path | None, arrays: Mapping[str, Shaped[np.ndarray, "..."]]) -> bool:
    """Stores arrays of numbers or text; a reader sees all of an array or none of it.

    Returns whether the folder, made if need be, could be written; there may be none.
    """
    return all(
        store_rows(folder, name, array.shape, (array,), array.dtype)
        for name, array in arrays.items()
    )


def store_rows(
    folder: Path | None,
    name: str,
    shape: tuple[int, ...],
    parts: Iterable[Shaped[np.ndarray, "..."]],
    dtype: DTypeLike = np.uint8,
) -> bool:
    """Stores an array of a shape that is never in memory as a whole, from its rows in order.

    Returns whether the folder could be written; if not, `parts` may be used up.
    """
    descr = np.lib.format.dtype_to_descr(np.dtype(dtype))
    header = {"descr": descr, "fortran_order": False, "shape": shape}
    checksum = 0
    if folder is None:
        return False
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(folder / f"{name}.npy") as temporary, temporary.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            for part in parts:
                values = _bytes_of(part)
                file.write(values)
                checksum = zlib.crc32(values, checksum)
        write_text(folder / f"{name}.crc32", _describe(checksum, np.dtype(dtype), shape))
    except OSError:
        return False
    return True


def aligned_empty(shape: tuple[int, ...]) -> UInt8[np.ndarray, "..."]:
    """An array of bytes, not set, that JAX's CPU devices share instead of copying it each."""
    num_bytes = math.prod(shape)
    memory = np.empty(num_bytes + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + num_bytes].reshape(shape)


def _bytes_of(array: Shaped[np.ndarray, "..."]) -> memoryview:
    return np.ascontiguousarray(array).view(np.uint8).reshape(-1).data


def _describe(checksum: int, dtype: np.dtype, shape: tuple[int, ...]) -> str:
    return f"{checksum:08x} {dtype.str} {shape}"


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path that replaces `path` if the block succeeds."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)  # mkstemp's 0600 would hide it from others who share the folder
        temporary.replace(path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
