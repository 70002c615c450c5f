"""TFDS builders that need no TensorFlow.

Examples are stored in the order they were published in, so index i here is index i everywhere.
The classes stay out of TFDS's registry, where their names would collide with its own.
"""

import functools
import hashlib
import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from cnn_lab.core.errors import DataError
from cnn_lab.core.targets import TargetSpec
from cnn_lab.data.datasets.check_images import CheckedFolder
from cnn_lab.data.datasets.description import PREPARED_VERSION, DatasetDescription
from cnn_lab.data.parallel import Log, ThrottledLog, map_in_order
from cnn_lab.data.storage.array_cache import store_arrays

Examples = Iterator[tuple[int, dict[str, Any]]]
Shards = dict[str, list[Callable[[], Examples]]]
"""Split to one function per shard, which yields its examples; called in order."""

_FILES_AT_ONCE = 16


class QuietBuilder(tfds.core.ShardBasedBuilder, skip_registration=True):
    """Base of our builders: order kept, digests recorded, nothing printed.

    Shards are written one after the other. TFDS's GeneratorBasedBuilder would sort all examples
    by key: in memory, and, beyond a gigabyte, by way of files that only TensorFlow can write.
    """

    VERSION = tfds.core.Version(PREPARED_VERSION)

    def _log_download_bytes(self) -> None:
        """Prints nothing, as TFDS would."""

    def _log_download_done(self) -> None:
        """Prints nothing, as TFDS would."""

    def _describe(
        self, features: dict[str, Any], licence: str, citation: str, **metadata: Any
    ) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(features),
            citation=citation,
            license=licence,
            disable_shuffling=True,
            metadata=tfds.core.MetadataDict({"content_sha256": {}, **metadata}),
        )

    def _record_split(self, split: str, digest: str, **columns: np.ndarray) -> None:
        """Records a split's digest, and its columns as arrays that are quick to read."""
        metadata: Any = self.info.metadata
        metadata["content_sha256"][split] = digest
        arrays = {f"{name}-{split}": column for name, column in columns.items()}
        store_arrays(Path(self.data_dir), arrays)


class ArraysBuilder(QuietBuilder, skip_registration=True):
    """A published data set that fits in memory as arrays, from the folder of its files.

    It is checked against its description, and written below `data_dir`.
    """

    def __init__(self, description: DatasetDescription, folder: Path, *, data_dir: Path) -> None:
        builder: Any = self  # TFDS declares `name` for classes; files are named by it
        builder.name = description.name
        self.description = description
        self.folder = folder
        super().__init__(data_dir=data_dir)

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "image": tfds.features.Tensor(shape=self.description.image_shape, dtype=np.uint8),
            "label": tfds.features.ClassLabel(names=list(self.description.class_names)),
        }
        return self._describe(features, self.description.licence, self.description.citation)

    def _shard_iterators_per_split(self, dl_manager: Any) -> Shards:
        del dl_manager  # files are obtained beforehand
        shards: Shards = {}
        for split, arrays in self.description.read(self.description, self.folder).items():
            self._check(split, *arrays)
            shards[split] = [functools.partial(self._generate_examples, split, *arrays)]
        return shards

    def _generate_examples(self, split: str, images: np.ndarray, labels: np.ndarray) -> Examples:
        digest = hashlib.sha256(labels.astype("<i4").tobytes())
        digest.update(np.ascontiguousarray(images).data)
        self._record_split(split, digest.hexdigest(), labels=labels)
        for index, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
            yield index, {"image": image, "label": label}

    def _check(self, split: str, images: np.ndarray, labels: np.ndarray) -> None:
        where, expected = f"split {split!r} of {self.description.name}", self.description
        size, num_classes = expected.split_sizes[split], expected.num_classes
        found, allowed = "", ""
        if len(images) != size or len(labels) != size:
            found, allowed = f"{len(images)} images and {len(labels)} labels", f"{size} of each"
        elif images.shape[1:] != expected.image_shape:
            found, allowed = f"images of shape {images.shape[1:]}", f"{expected.image_shape}"
        elif not 0 <= labels.min() <= labels.max() < num_classes:
            found, allowed = f"the label {labels.max()}", f"0 to {num_classes - 1}"
        if found:
            problem = f"The files of {where} hold {found}, expected {allowed}"
            remedy = "they are damaged, or of another data set"
            raise DataError(f"{problem}; {remedy}.", where=where, found=found, allowed=allowed)


class FileImages(QuietBuilder, skip_registration=True):
    """The checked image files of a folder or table, stored with their original bytes."""

    shard_bytes = 2**29  # TFDS holds a shard in memory, and each is a file to keep open

    def __init__(
        self,
        root: Path,
        checked: CheckedFolder,
        target: TargetSpec,
        *,
        progress: Log | None,
        data_dir: Path,
    ) -> None:
        self.root = root
        self.checked = checked
        self.target = target
        self._log_progress, self._num_stored = ThrottledLog(progress), 0
        files = [file for part in checked.files.values() for file in part]
        self._num_files = len(files)
        self.grouped = any(file.group is not None for file in files)
        super().__init__(data_dir=data_dir)

    def _info(self) -> tfds.core.DatasetInfo:
        features: dict[str, Any] = {
            "image": tfds.features.Image(shape=self.checked.image_shape),
            "label": tfds.features.Tensor(shape=self.target.shape, dtype=np.float32)
            if self.target.kind == "numbers"
            else tfds.features.ClassLabel(names=list(self.target.names)),
            "path": tfds.features.Text(),
        }
        if self.grouped:
            features["group"] = tfds.features.Text()
        metadata: dict[str, Any] = {"folder": os.fspath(self.root)}
        metadata["num_skipped"] = len(self.checked.bad)
        if self.target.kind == "numbers":
            metadata["value_names"] = list(self.target.names)
        return self._describe(features, "not stated", "", **metadata)

    def _shard_iterators_per_split(self, dl_manager: Any) -> Shards:
        del dl_manager  # the files are there
        shards: Shards = {}
        for split, files in self.checked.files.items():
            shard = np.cumsum([file.num_bytes for file in files]) // self.shard_bytes
            starts = [0, *(np.flatnonzero(np.diff(shard)) + 1).tolist(), len(files)]
            digest = hashlib.sha256()
            shards[split] = [
                functools.partial(self._generate_examples, split, start, stop, digest)
                for start, stop in itertools.pairwise(starts)
            ]
        return shards

    def _generate_examples(self, split: str, start: int, stop: int, digest: Any) -> Examples:
        files = self.checked.files[split]
        contents = map_in_order(
            lambda file: (self.root / file.name).read_bytes(),
            itertools.islice(files, start, stop),
            chunk_size=_FILES_AT_ONCE,
        )
        for index, encoded in enumerate(contents, start):
            file, group = files[index], files[index].group or ""
            digest.update(hashlib.sha256(encoded).digest())
            digest.update(f"{file.label} {group}".encode())
            # As bytes, since a file's name need not be valid text.
            label = file.label
            if self.target.kind == "numbers":
                label = np.asarray(label, np.float32)
            example = {"image": encoded, "label": label, "path": os.fsencode(file.name)}
            self._num_stored += 1
            self._log_progress(f"stored {self._num_stored:,} of {self._num_files:,} files")
            yield index, example | ({"group": group} if self.grouped else {})
        if stop == len(files):
            columns = {"labels": np.asarray([file.label for file in files], self.target.dtype)}
            if self.grouped:
                columns["groups"] = np.asarray([file.group or "" for file in files])
            self._record_split(split, digest.hexdigest(), **columns)
