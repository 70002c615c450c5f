"""Sizes, checksums and digests of prepared files, so that damage is noticed before training.

A *manifest* notes the size and checksum of every file when it is written. A *fingerprint* is the
digest by which data are recognised, wherever they are stored and whatever they are called.
"""

import hashlib
import json
import os
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cnn_lab.core.errors import CnnLabError, DataError, SystemLimitError, explain_system_error
from cnn_lab.core.files import write_json

INFO_FILE = "dataset_info.json"
MANIFEST_FILE = "files.json"
MAX_CHECKED_BYTES = 2**32  # of a data set whose content is read for checksums; sizes always are
_BLOCK_BYTES = 2**20
_END_BYTES = 2**16


def is_prepared(directory: Path) -> bool:
    """Whether `directory` holds a prepared data set."""
    return (directory / INFO_FILE).is_file()


def write_manifest(directory: Path) -> None:
    """Notes every file of a data set that has just been prepared."""
    files = _files(directory)
    sizes = {file.name: file.stat().st_size for file in files}
    small = sum(sizes.values()) <= MAX_CHECKED_BYTES
    noted = {
        file.name: {"num_bytes": sizes[file.name], "crc32": _checksum(file) if small else None}
        for file in files
    }
    write_json(directory / MANIFEST_FILE, noted)


def check_manifest(directory: Path) -> bool:
    """Compares the files of a data set with its manifest.

    Returns:
        Whether there is a manifest.

    Raises:
        DataError: a file is missing or changed.
    """
    try:
        noted = json.loads((directory / MANIFEST_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return False
    except ValueError as error:
        raise _damaged(directory, f"{MANIFEST_FILE} cannot be read: {error}") from error
    for name, values in noted.items():
        file = directory / name
        if not file.is_file():
            raise _damaged(directory, f"{name} is missing")
        if (found := file.stat().st_size) != values["num_bytes"]:
            raise _damaged(directory, f"{name} has {found} bytes, not {values['num_bytes']}")
        if values["crc32"] not in (None, _checksum(file)):
            raise _damaged(directory, f"the bytes of {name} changed")
    return True


def fingerprint_of(content: Mapping[str, Any]) -> str:
    """Returns the sha256 in hex of a mapping of plain values, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def fingerprint_of_files(directory: str | os.PathLike[str]) -> str:
    """Returns a digest of a prepared directory that another program prepared.

    Hashing every byte of a large data set would take longer than opening it ever should, so each
    shard counts by its name, its size and its two ends.
    """
    ends = {}
    for path in sorted(Path(directory).iterdir()):
        if path.is_file() and (path.suffix == ".json" or ".array_record" in path.name):
            size = path.stat().st_size
            with path.open("rb") as file:
                head = file.read(_END_BYTES)
                file.seek(max(0, size - _END_BYTES))
                digest = hashlib.sha256(head + file.read()).hexdigest()
            ends[path.name] = [size, digest]
    return fingerprint_of(ends)


def unusable(what: str, directory: str, error: Exception) -> CnnLabError:
    """The error for a part of a prepared data set that cannot be read."""
    if refused := explain_system_error(error):  # no reason to delete anything
        return SystemLimitError(refused)
    return DataError(
        f"{what} in {directory} cannot be read ({error}); its files are damaged or incomplete: "
        "delete that folder and prepare the data again."
    )


def _files(directory: Path) -> list[Path]:
    """Files that a reader needs; the arrays beside them have checksums of their own and may go."""
    found: Iterable[Path] = (path for path in directory.iterdir() if path.is_file())
    return sorted(path for path in found if path.suffix not in (".npy", ".crc32"))


def _checksum(path: Path) -> str:
    checksum = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            checksum = zlib.crc32(block, checksum)
    return f"{checksum:08x}"


def _damaged(directory: Path, reason: str) -> DataError:
    return DataError(
        f"The data in {directory} are damaged ({reason}); delete that folder and prepare the data "
        "again."
    )
