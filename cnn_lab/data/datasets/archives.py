"""Reads the published archives: gzipped IDX files and the binary CIFAR tar balls.

Members are read by name, straight from the archive into memory, and parsed with numpy: nothing is
extracted, so no archive can write anywhere, and nothing is unpickled.
"""

import gzip
import hashlib
import struct
import tarfile
import zlib
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import Int32, UInt8

from cnn_lab.core.errors import DataError
from cnn_lab.data.datasets.description import DATASETS, ArchiveMember, RemoteFile

CIFAR_IMAGE_BYTES = 3 * 32 * 32
_DAMAGED = (gzip.BadGzipFile, tarfile.TarError, EOFError, zlib.error)


def unpacked_paths(remote: RemoteFile, folder: Path) -> dict[str, Path] | None:
    """Paths of the unpacked members of a file, with or without the archive's folder.

    None unless every member is there.
    """
    paths = {}
    for member in remote.members:
        candidates = (folder / member.name, folder / PurePosixPath(member.name).name)
        path = next((path for path in candidates if path.is_file()), None)
        if path is None:
            return None
        paths[member.name] = path
    return paths


def read_members(remote: RemoteFile, folder: Path) -> dict[str, bytes]:
    """Member name to bytes, sizes and digests checked, of one published file.

    Args:
        remote: the published file.
        folder: holds the archive, or else its members unpacked.

    Raises:
        DataError: the file is missing, damaged, or not the one that was published.
    """
    archive = folder / remote.name
    if archive.is_file():
        # Digests of the members are better than one of the archive, which depends on the packer.
        if any(member.sha256 is None for member in remote.members):
            with archive.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if remote.sha256 not in (None, found):
                raise DataError(
                    f"{archive} has sha256 {found}, but {remote.name} was published with "
                    f"{remote.sha256}; the file is damaged or another one: delete it and download "
                    "it again.",
                    where=str(archive),
                    found=found,
                    allowed=remote.sha256,
                )
        read = _read_tar if ".tar" in remote.name else _read_gzip
        try:
            contents = read(archive, remote)
        except _DAMAGED as error:
            problem = f"{archive} cannot be unpacked ({error})"
            remedy = "it is damaged or cut short: get it again"
            raise DataError(f"{problem}; {remedy}.", where=str(archive)) from error
    else:
        paths = unpacked_paths(remote, folder)
        if paths is None:
            problem = f"{folder} holds neither {remote.name} nor its unpacked content."
            raise DataError(problem, where=str(folder))
        contents = {name: path.read_bytes() for name, path in paths.items()}
    for member in remote.members:
        _check_member(member, contents[member.name], remote, folder)
    return contents


def _check_member(member: ArchiveMember, content: bytes, remote: RemoteFile, folder: Path) -> None:
    where = f"{member.name} of {folder / remote.name}"
    if len(content) != member.num_bytes:
        raise DataError(
            f"{where} holds {len(content)} bytes or more, expected {member.num_bytes}; the file is "
            "damaged or another one: get it again.",
            where=where,
            found=len(content),
            allowed=f"{member.num_bytes} bytes",
        )
    found = hashlib.sha256(content).hexdigest()
    if member.sha256 is not None and found != member.sha256:
        raise DataError(
            f"{where} has sha256 {found} once unpacked, expected {member.sha256}; the file is "
            "damaged or another one: get it again.",
            where=where,
            found=found,
            allowed=member.sha256,
        )
    # Fashion-MNIST copies the file names of MNIST, so a mix-up would pass every other check.
    for description in DATASETS.values():
        known = {m.sha256 for file in description.files for m in file.members}
        if member.sha256 is None and found in known:
            problem = f"{where} is the file of {description.name}; point at the right folder."
            raise DataError(problem, where=where, found=description.name)


def _read_gzip(path: Path, remote: RemoteFile) -> dict[str, bytes]:
    (member,) = remote.members
    with gzip.open(path) as file:
        # One byte too many is enough to see a wrong size, and caps what a bomb can unpack to.
        return {member.name: file.read(member.num_bytes + 1)}


def _read_tar(path: Path, remote: RemoteFile) -> dict[str, bytes]:
    wanted = {member.name: member for member in remote.members}
    contents: dict[str, bytes] = {}
    with tarfile.open(path, "r|gz") as archive:
        for entry in archive:
            name = entry.name.removeprefix("./")
            if name in wanted and entry.isreg():
                file = archive.extractfile(entry)
                assert file is not None
                contents[name] = file.read(wanted[name].num_bytes + 1)
    if missing := sorted(wanted.keys() - contents.keys()):
        problem = f"{path} lacks {', '.join(missing)}; it is not the binary version of the archive"
        remedy = f"get {remote.urls[0]}"
        raise DataError(f"{problem}: {remedy}.", where=str(path), allowed=remote.urls[0])
    return contents


def parse_idx(content: bytes, name: str, num_dims: int) -> UInt8[np.ndarray, "..."]:
    """The array of `num_dims` axes in an unpacked IDX file of unsigned bytes."""
    header_bytes = 4 + 4 * num_dims
    magic = 0x0800 + num_dims
    if len(content) < header_bytes or struct.unpack(">I", content[:4])[0] != magic:
        raise DataError(
            f"{name} starts with {content[:4].hex() or 'nothing'}, expected {magic:08x}; it is not "
            f"an IDX file of bytes with {num_dims} axes: get it again.",
            where=name,
            found=content[:4].hex(),
            allowed=f"{magic:08x}",
        )
    shape = struct.unpack(f">{num_dims}I", content[4:header_bytes])
    if len(content) != header_bytes + int(np.prod(shape, dtype=object)):
        found = len(content) - header_bytes
        problem = f"{name} announces shape {shape} but holds {found} values; it is damaged"
        raise DataError(f"{problem}: get it again.", where=name, found=found)
    return np.frombuffer(content, np.uint8, offset=header_bytes).reshape(shape)


def parse_cifar(
    content: bytes, name: str, num_label_bytes: int
) -> tuple[UInt8[np.ndarray, "n 32 32 3"], Int32[np.ndarray, " n"]]:
    """Images and labels of a binary CIFAR file: label bytes and three planes of colour, per record.

    Args:
        content: the unpacked file.
        name: the file's name, for messages.
        num_label_bytes: 1 for CIFAR-10; 2 for CIFAR-100, of which the last (fine) one is used.

    Raises:
        DataError: the length is not a whole number of records.
    """
    record_bytes = num_label_bytes + CIFAR_IMAGE_BYTES
    if not content or len(content) % record_bytes:
        allowed = f"whole number of records of {record_bytes}"
        problem = f"{name} holds {len(content)} bytes, which is no {allowed}"
        remedy = "it is damaged or another file: get it again"
        raise DataError(f"{problem}; {remedy}.", where=name, found=len(content), allowed=allowed)
    records = np.frombuffer(content, np.uint8).reshape(-1, record_bytes)
    planes = records[:, num_label_bytes:].reshape(-1, 3, 32, 32)
    return planes.transpose(0, 2, 3, 1), records[:, num_label_bytes - 1].astype(np.int32)
