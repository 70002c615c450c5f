"""Prepares a data set once, and opens prepared data, ours or those of any other TFDS user.

A preparation happens in a temporary folder that takes its final name when it is complete, under a
lock: a killed one leaves nothing that looks prepared, and of two at once one waits for the other.

A *manifest* notes the size and checksum of every file when it is written, so that damage is noticed
before training. A *fingerprint* is the digest by which data are recognised, wherever they are
stored and whatever they are called.
"""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import logging

from cnn_lab.core.errors import DataError, explain_system_error, is_out_of_open_files
from cnn_lab.core.files import is_at, lock_file, write_json
from cnn_lab.data.parallel import Log
from cnn_lab.data.source import ImageShape, Source, SourceInfo, Storage

if TYPE_CHECKING:  # slow, and a listing never reads
    import tensorflow_datasets as tfds

INFO_FILE = "dataset_info.json"
MANIFEST_FILE = "files.json"
MAX_CHECKED_BYTES = 2**32  # of a data set whose content is read for checksums; sizes always are
_BLOCK_BYTES = 2**20
_END_BYTES = 2**16
_PATH_KEYS = ("path", "file_name", "filename")  # ours, and those of published data sets
_OTHER_PLACE = "free some space, or choose another place with --data_dir or CNN_LAB_DATA_DIR"


def is_prepared(directory: Path) -> bool:
    """Whether `directory` holds a prepared data set."""
    return (directory / INFO_FILE).is_file()


def prepare(
    make_builder: "Callable[[Path], tfds.core.DatasetBuilder]",
    directory: Path,
    *,
    num_bytes: int = 0,
    progress: Log | None = None,
) -> None:
    """Prepares a data set into `directory`, unless it is there already.

    Args:
        make_builder: (temporary folder) -> a builder that writes below it. Long work belongs in
            here, so that of many processes one does it.
        directory: for the finished data set.
        num_bytes: space that it will take, about.
        progress: receives a line if another process prepares the same data.

    Raises:
        DataError: the directory cannot be written, has too little space, or holds something else.
    """
    lock = directory.with_name(f".{directory.name}.lock")
    new_folders = [folder for folder in directory.parents if not folder.exists()]
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        with _lock(lock, progress) as locked:
            try:
                if not is_prepared(directory):  # by another process, while this one waited
                    _prepare(make_builder, directory, num_bytes, locked)
            except BaseException:
                with contextlib.suppress(OSError):  # no empty folders where nothing was prepared
                    if locked and not directory.exists():
                        lock.unlink()
                    for folder in new_folders:
                        folder.rmdir()
                raise
    except OSError as error:
        if is_out_of_open_files(error):
            raise  # room elsewhere is no remedy
        problem = f"Preparing {directory} failed ({error}); {_OTHER_PLACE}."
        raise DataError(problem, where=str(directory)) from error


def _prepare(
    make_builder: "Callable[[Path], tfds.core.DatasetBuilder]",
    directory: Path,
    num_bytes: int,
    locked: bool,
) -> None:
    import tensorflow_datasets as tfds

    prefix = f".{directory.name}.preparing-"
    if locked:  # nobody else is at work here, so these are left from one that was killed
        for leftover in directory.parent.glob(f"{prefix}*"):
            shutil.rmtree(leftover, ignore_errors=True)
    free = shutil.disk_usage(directory.parent).free
    if free < num_bytes:  # a full disk now, instead of after an hour of copying
        raise DataError(
            f"{directory.parent} has {free / 1e9:.1f} GB free, but the prepared data take about "
            f"{num_bytes / 1e9:.1f} GB; {_OTHER_PLACE}.",
            where=str(directory.parent),
            found=free,
        )
    temporary = Path(tempfile.mkdtemp(prefix=prefix, dir=directory.parent))
    try:
        tfds.disable_progress_bar()
        builder = make_builder(temporary)
        builder.download_and_prepare(file_format="array_record")
        write_manifest(Path(builder.data_dir))
        try:
            Path(builder.data_dir).rename(directory)
        except OSError:
            if is_prepared(directory):
                return  # another process was quicker, on a file system without locks
            if directory.is_dir() and any(directory.iterdir()):
                problem = f"{directory} is there but holds no complete data set"
                remedy = "delete it and try again."
                raise DataError(f"{problem}; {remedy}", where=str(directory)) from None
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def _lock(path: Path, progress: Log | None) -> Iterator[bool]:
    """Waits for an exclusive lock; yields False where the file system has none."""
    with contextlib.ExitStack() as stack:
        while True:
            file = stack.enter_context(path.open("a"))
            try:
                locked = lock_file(file, wait=False)
            except BlockingIOError:
                if progress is not None:
                    progress(f"waiting for another process to prepare {path.parent.name}")
                locked = lock_file(file, wait=True)
            if not locked:
                yield False
                return
            if is_at(file, path):  # else its owner has just removed it, for want of data
                break
        yield True


def write_manifest(directory: Path) -> None:
    """Notes every file of a data set that has just been prepared."""
    files = sorted(path for path in directory.iterdir() if path.is_file())
    # Cached arrays have checksums of their own, and may go.
    sizes = {f: f.stat().st_size for f in files if f.suffix not in (".npy", ".crc32")}
    small = sum(sizes.values()) <= MAX_CHECKED_BYTES
    noted = {
        file.name: {"num_bytes": size, "crc32": _checksum(file) if small else None}
        for file, size in sizes.items()
    }
    write_json(directory / MANIFEST_FILE, noted)


def check_files_of(storage: Storage, info: SourceInfo) -> None:
    """Compares the files of a prepared data set with its manifest.

    Data without one (others' data) have the ends of every split read: a file cut short lacks them.

    Raises:
        DataError: a file is missing, changed or cut short.
    """
    directory, reason = Path(storage.name), ""
    try:
        noted = json.loads((directory / MANIFEST_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        for split, size in info.split_sizes.items():
            for index in {0, size - 1} if size else ():
                Source(storage, split, info)[index]
        return
    except ValueError as error:
        noted, reason = {}, f"{MANIFEST_FILE} cannot be read: {error}"
    for name, values in noted.items():
        file = directory / name
        if not file.is_file():
            reason = f"{name} is missing"
        elif (found := file.stat().st_size) != values["num_bytes"]:
            reason = f"{name} has {found} bytes, not {values['num_bytes']}"
        elif values["crc32"] not in (None, _checksum(file)):
            reason = f"the bytes of {name} changed"
        if reason:
            break
    if reason:
        raise DataError(
            f"The data in {directory} are damaged ({reason}); delete that folder and prepare the "
            "data again.",
            where=str(directory),
        )


def read_prepared(directory: Path, name: str) -> tuple[Storage, SourceInfo]:
    """Reads the description in the folder of a prepared data set, which was asked for by `name`.

    Raises:
        DataError: it is damaged, or cannot be read without TensorFlow, or is no classification
            data set of images.
    """
    import tensorflow_datasets as tfds

    try:
        file_format = json.loads((directory / INFO_FILE).read_text()).get("fileFormat", "tfrecord")
        if file_format != "array_record":
            raise DataError(
                f"{directory} was prepared as {file_format}, which needs TensorFlow to read; "
                "prepare it again with tfds's download_and_prepare(file_format='array_record').",
                where=str(directory),
                found=file_format,
                allowed="array_record",
            )
        info: Any = tfds.builder_from_directory(directory).info
        splits = {split: int(part.num_examples) for split, part in info.splits.items()}
        shards = [Path(path) for part in info.splits.values() for path in part.filepaths]
    except DataError:
        raise
    except Exception as error:
        raise DataError(
            explain_system_error(error, directory)
            or f"{directory / INFO_FILE} cannot be read ({error}); delete {directory} and prepare "
            "the data again.",
            where=str(directory / INFO_FILE),
        ) from error
    if absent := [path.name for path in shards if not path.is_file()]:
        problem = f"{directory} lacks {', '.join(absent[:3])}"
        remedy = "delete it and prepare the data again."
        raise DataError(f"{problem}; {remedy}", where=str(directory / absent[0]))
    metadata: dict[str, Any] = dict(info.metadata or {})
    storage, shape, class_names, value_names = _features(directory, info.features, metadata)
    if "content_sha256" in metadata:
        content = {"classes": class_names, "splits": metadata["content_sha256"]}
        content |= {"values": value_names} if value_names else {}
    else:
        content = _ends_of_files(directory)
    if num_skipped := metadata.get("num_skipped", 0):
        logging.warning("%s was prepared without %d bad files.", name, num_skipped)
    return storage, SourceInfo(
        name=name,
        class_names=class_names,
        value_names=value_names,
        image_shape=shape,
        split_sizes=splits,
        licence=info.redistribution_info.license or "not stated",
        citation=info.citation or "",
        fingerprint=hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest(),
    )


def _ends_of_files(directory: Path) -> Mapping[str, Any]:
    """Size and digest of the ends of each file by which data of another program are recognised.

    Hashing every byte of a large data set would take longer than opening it ever should, so each
    shard counts by its name, its size and its two ends.
    """
    ends = {}
    for path in sorted(directory.iterdir()):
        if path.is_file() and (path.suffix == ".json" or ".array_record" in path.name):
            size = path.stat().st_size
            with path.open("rb") as file:
                head = file.read(_END_BYTES)
                file.seek(max(0, size - _END_BYTES))
                digest = hashlib.sha256(head + file.read()).hexdigest()
            ends[path.name] = [size, digest]
    return ends


def _features(
    directory: Path, features: Any, metadata: Mapping[str, Any]
) -> tuple[Storage, ImageShape, tuple[str, ...], tuple[str, ...]]:
    """Storage and shape of the images, and the names of their classes or of their numbers."""
    import tensorflow_datasets as tfds

    by_name = dict(features.items()) if isinstance(features, tfds.features.FeaturesDict) else {}
    listing = ", ".join(f"{key} ({type(value).__name__})" for key, value in sorted(by_name.items()))
    image: Any = by_name.get("image")
    shape = getattr(image, "shape", ())
    if len(shape) != 3 or image.np_dtype != np.uint8 or shape[2] not in (None, 1, 3):
        allowed = "8-bit gray or RGB feature named 'image'"
        problem = f"{directory} has no {allowed} (it has {listing})"
        remedy = "only such data sets can be used."
        raise DataError(
            f"{problem}; {remedy}", where=str(directory), found=listing, allowed=allowed
        )
    label: Any = by_name.get("label")
    class_names: tuple[str, ...] = ()
    value_names: tuple[str, ...] = ()
    if isinstance(label, tfds.features.ClassLabel) and label.num_classes:
        class_names = tuple(label.names)
    elif len(sides := getattr(label, "shape", ())) == 1 and label.np_dtype == np.float32:
        given = metadata.get("value_names")
        value_names = tuple(given or (f"label_{index}" for index in range(sides[0])))
    else:
        allowed = "ClassLabel or float32 [d] feature named 'label'"
        problem = f"{directory} has no {allowed} (it has {listing})"
        remedy = "only data sets with classes or numbers can be used."
        raise DataError(
            f"{problem}; {remedy}", where=str(directory), found=listing, allowed=allowed
        )
    storage = Storage(
        directory=os.fspath(directory.absolute()),
        group_key="group" if "group" in by_name else None,
        path_key=next((key for key in _PATH_KEYS if key in by_name), None),
        encoded=isinstance(image, tfds.features.Image),
    )
    return storage, (shape[0], shape[1], shape[2] or 3), class_names, value_names


def _checksum(path: Path) -> str:
    checksum = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            checksum = zlib.crc32(block, checksum)
    return f"{checksum:08x}"
