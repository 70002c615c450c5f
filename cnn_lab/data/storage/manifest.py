"""Sizes and checksums of a prepared data set's files, so that damage is noticed before training."""

import json
import zlib
from collections.abc import Iterable
from pathlib import Path

from cnn_lab.core.errors import CnnLabError, DataError, RefusedError
from cnn_lab.core.files import write_json
from cnn_lab.core.refusals import refusal

MANIFEST_FILE = "files.json"
MOST_BYTES = 2**32  # of a data set whose content is read again for this; sizes are always checked
_BLOCK_BYTES = 2**20


def write_manifest(directory: Path) -> None:
    """Notes every file of a data set that has just been prepared."""
    files = _files(directory)
    sizes = {file.name: file.stat().st_size for file in files}
    small = sum(sizes.values()) <= MOST_BYTES
    noted = {
        file.name: {"num_bytes": sizes[file.name], "crc32": _checksum(file) if small else None}
        for file in files
    }
    write_json(directory / MANIFEST_FILE, noted)


def check_manifest(directory: Path) -> bool:
    """Compares the files of a data set with what was noted of them.

    Returns:
        Whether anything was noted.

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


def unusable(what: str, directory: str, error: Exception) -> CnnLabError:
    """What to tell of a part of a prepared data set that cannot be read."""
    if refused := refusal(error):  # no reason to delete anything
        return RefusedError(refused)
    return DataError(
        f"{what} in {directory} cannot be read ({error}); its files are damaged or incomplete: "
        "delete that folder and prepare the data again."
    )


def _files(directory: Path) -> list[Path]:
    """What a reader needs; the arrays beside it carry checksums of their own and may vanish."""
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
