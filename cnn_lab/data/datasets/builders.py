"""TFDS builders that need no TensorFlow.

Examples are stored in the order they were published in, so index i here is index i everywhere.
The classes stay out of TFDS's registry, where their names would collide with its own.
"""

import abc
import functools
import hashlib
import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Int32, UInt8

from cnn_lab.core.errors import DataError
from cnn_lab.data.datasets.archives import join_parts, parse_idx, read_members
from cnn_lab.data.datasets.descriptions import PREPARED_VERSION, DatasetDescription
from cnn_lab.data.datasets.folder import ImageFile
from cnn_lab.data.parallel import map_in_order
from cnn_lab.data.progress import Progress, Ticker
from cnn_lab.data.splits import stratified_split
from cnn_lab.data.storage.array_cache import store_arrays

Arrays = tuple[UInt8[np.ndarray, "n h w c"], Int32[np.ndarray, " m"]]
"""Images and labels as read; that there are as many of each is checked afterwards."""

Examples = Iterator[tuple[int, dict[str, Any]]]
Shards = dict[str, list[Callable[[], Examples]]]
"""Split to one function per shard, which yields its examples; called in order."""

DIGITS_SPLIT_SEED = 0
_FILES_AT_ONCE = 16


class QuietBuilder(tfds.core.ShardBasedBuilder, skip_registration=True):
    """What our builders share: order kept, digests recorded, nothing printed.

    Shards are written one after the other. TFDS's GeneratorBasedBuilder would sort all examples
    by key: in memory, and, beyond a gigabyte, by way of files that only TensorFlow can write.
    """

    VERSION = tfds.core.Version(PREPARED_VERSION)

    def _log_download_bytes(self) -> None:
        """Keeps TFDS from printing; the caller reports progress."""

    def _log_download_done(self) -> None:
        """Keeps TFDS from printing; the caller reports progress."""

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

    def _keep(self, split: str, digest: str, **columns: np.ndarray) -> None:
        """Records a split's digest, and its columns as arrays that are quick to read."""
        metadata: Any = self.info.metadata
        metadata["content_sha256"][split] = digest
        arrays = {f"{name}-{split}": column for name, column in columns.items()}
        store_arrays(Path(self.data_dir), arrays)


class ArraysBuilder(QuietBuilder, skip_registration=True):
    """Base of the data sets that fit in memory as arrays.

    Args:
        description: what the data should be.
        folder: holds the published files.
        options: passed on to TFDS.
    """

    def __init__(self, *, description: DatasetDescription, folder: Path, **options: Any) -> None:
        self.description = description
        self.folder = folder
        super().__init__(**options)

    @abc.abstractmethod
    def read_splits(self) -> dict[str, Arrays]:
        """Returns images and labels of every split, in the published order."""

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "image": tfds.features.Tensor(shape=self.description.image_shape, dtype=np.uint8),
            "label": tfds.features.ClassLabel(names=list(self.description.class_names)),
        }
        return self._describe(features, self.description.licence, self.description.citation)

    def _shard_iterators_per_split(self, dl_manager: Any) -> Shards:
        del dl_manager  # files are obtained beforehand
        splits = self.read_splits()
        for split, (images, labels) in splits.items():
            self._check(split, images, labels)
        return {
            split: [functools.partial(self._generate_examples, split, *arrays)]
            for split, arrays in splits.items()
        }

    def _generate_examples(self, split: str, images: np.ndarray, labels: np.ndarray) -> Examples:
        digest = hashlib.sha256(labels.astype("<i4").tobytes())
        digest.update(np.ascontiguousarray(images).data)
        self._keep(split, digest.hexdigest(), labels=labels)
        for index, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
            yield index, {"image": image, "label": label}

    def _check(self, split: str, images: np.ndarray, labels: np.ndarray) -> None:
        name, expected = self.description.name, self.description.split_sizes[split]
        if len(images) != expected or len(labels) != expected:
            raise DataError(
                f"Split {split!r} of {name} holds {len(images)} images and {len(labels)} labels, "
                f"expected {expected} of each; the files are damaged or do not belong together."
            )
        if images.shape[1:] != self.description.image_shape:
            raise DataError(
                f"The images of {name} have shape {images.shape[1:]}, expected "
                f"{self.description.image_shape}; the files belong to another data set."
            )
        if not 0 <= labels.min() <= labels.max() < self.description.num_classes:
            raise DataError(
                f"Split {split!r} of {name} holds the label {labels.max()}, expected 0 to "
                f"{self.description.num_classes - 1}; the files are damaged or of another data set."
            )


class Digits(ArraysBuilder, skip_registration=True):
    """The 1797 digits of scikit-learn, split once and for all."""

    def read_splits(self) -> dict[str, Arrays]:
        """Returns the stratified split; values 0..16 are stretched to 0..255."""
        from sklearn.datasets import load_digits  # slow, and rarely needed

        bunch: Any = load_digits()
        images = np.rint(bunch.images * 255.0 / 16.0).astype(np.uint8)[..., None]
        labels = bunch.target.astype(np.int32)
        train, test = stratified_split(
            labels,
            num_validation=self.description.split_sizes["test"],
            seed=DIGITS_SPLIT_SEED,
        )
        return {"train": (images[train], labels[train]), "test": (images[test], labels[test])}


class Mnist(ArraysBuilder, skip_registration=True):
    """MNIST from its four IDX files."""

    def read_splits(self) -> dict[str, Arrays]:
        """Returns the published splits."""
        contents: dict[str, bytes] = {}
        for file in self.description.files:
            contents |= read_members(file, self.folder)
        splits: dict[str, Arrays] = {}
        for split, prefix in (("train", "train"), ("test", "t10k")):
            images, labels = f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte"
            splits[split] = (
                parse_idx(contents[images], images, 3)[..., None],
                parse_idx(contents[labels], labels, 1).astype(np.int32),
            )
        return splits


class FashionMnist(Mnist, skip_registration=True):
    """Fashion-MNIST, which comes in files of the same form."""


class Cifar10(ArraysBuilder, skip_registration=True):
    """CIFAR-10 from its binary version."""

    num_label_bytes = 1

    def read_splits(self) -> dict[str, Arrays]:
        """Returns the published splits; the last file of the archive is the test split."""
        (archive,) = self.description.files
        contents = read_members(archive, self.folder)
        names = [member.name for member in archive.members]
        return {
            "train": join_parts(contents, names[:-1], self.num_label_bytes),
            "test": join_parts(contents, names[-1:], self.num_label_bytes),
        }


class Cifar100(Cifar10, skip_registration=True):
    """CIFAR-100 with its fine labels; each record starts with a coarse one."""

    num_label_bytes = 2


class FolderImages(QuietBuilder, skip_registration=True):
    """A folder of image files, stored with their original bytes.

    Args:
        root: the folder.
        files: split to its files, checked already.
        class_names: label to class name.
        image_shape: height and width None where the images differ.
        metadata: what to remember about the folder.
        progress: told how many files were stored.
        options: passed on to TFDS.
    """

    shard_bytes = 2**29  # TFDS holds a shard in memory, and each is a file to keep open

    def __init__(
        self,
        *,
        root: Path,
        files: dict[str, list[ImageFile]],
        class_names: tuple[str, ...],
        image_shape: tuple[int | None, int | None, int],
        metadata: dict[str, Any],
        progress: Progress | None = None,
        **options: Any,
    ) -> None:
        self.root = root
        self.files = files
        self._tick, self._num_stored = Ticker(progress), 0
        self._num_files = sum(map(len, files.values()))
        self.class_names = class_names
        self.image_shape = image_shape
        self.folder_metadata = metadata
        self.grouped = any(file.group is not None for part in files.values() for file in part)
        super().__init__(**options)

    def _info(self) -> tfds.core.DatasetInfo:
        features: dict[str, Any] = {
            "image": tfds.features.Image(shape=self.image_shape),
            "label": tfds.features.ClassLabel(names=list(self.class_names)),
            "path": tfds.features.Text(),
        }
        if self.grouped:
            features["group"] = tfds.features.Text()
        return self._describe(features, "not stated", "", **self.folder_metadata)

    def _shard_iterators_per_split(self, dl_manager: Any) -> Shards:
        del dl_manager  # the files are there
        return {split: self._shards(split) for split in self.files}

    def _shards(self, split: str) -> list[Callable[[], Examples]]:
        files = self.files[split]
        shard = np.cumsum([file.num_bytes for file in files]) // self.shard_bytes
        starts = [0, *(np.flatnonzero(np.diff(shard)) + 1).tolist(), len(files)]
        digest = hashlib.sha256()
        return [
            functools.partial(self._generate_examples, split, start, stop, digest)
            for start, stop in itertools.pairwise(starts)
        ]

    def _generate_examples(self, split: str, start: int, stop: int, digest: Any) -> Examples:
        files = self.files[split]
        contents = map_in_order(
            lambda file: (self.root / file.name).read_bytes(),
            itertools.islice(files, start, stop),
            at_once=_FILES_AT_ONCE,
        )
        for index, encoded in enumerate(contents, start):
            file = files[index]
            group = "" if file.group is None else file.group
            digest.update(hashlib.sha256(encoded).digest())
            digest.update(f"{file.label} {group}".encode())
            # As bytes, since a file's name need not be valid text.
            example = {"image": encoded, "label": file.label, "path": os.fsencode(file.name)}
            self._num_stored += 1
            self._tick(f"stored {self._num_stored:,} of {self._num_files:,} files")
            yield index, example | ({"group": group} if self.grouped else {})
        if stop == len(files):
            columns = {"labels": np.asarray([file.label for file in files], np.int32)}
            if self.grouped:
                columns["groups"] = np.asarray([file.group or "" for file in files])
            self._keep(split, digest.hexdigest(), **columns)


BUILDERS: dict[str, type[ArraysBuilder]] = {
    "digits": Digits,
    "mnist": Mnist,
    "fashion_mnist": FashionMnist,
    "cifar10": Cifar10,
    "cifar100": Cifar100,
}
