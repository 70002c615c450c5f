"""A data set as it was prepared, and random access to one of its splits.

The data are on disk as TFDS array_record and are read without TensorFlow, or in memory
(`datasets/arrays.py`). A source can be sent to other processes: on disk it is a path and a
description, and opens its files on first use; in memory the arrays of its split go along.
"""

import dataclasses
import functools
import operator
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int, Int32, Shaped, UInt8

from cnn_lab.core.errors import (
    CnnLabError,
    ConfigError,
    DataError,
    SystemLimitError,
    explain_system_error,
    lookup,
)
from cnn_lab.core.targets import TargetSpec
from cnn_lab.data.augment.crops import Crop
from cnn_lab.data.decoding import DECODER, decode, decode_crop
from cnn_lab.data.parallel import map_in_order
from cnn_lab.data.storage import array_cache

_READ_AT_ONCE = 1024
_READ_BYTES = 2**23
_PHOTOGRAPHS_AT_ONCE = 16  # of sizes that are not known

# One class an example, or d numbers.
Labels = Int32[np.ndarray, " n"] | Float32[np.ndarray, "n d"]
ImageShape = tuple[int | None, int | None, int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Facts:
    """Facts about a data set, known before any of its images is read.

    Attributes:
        name: the name it is opened by.
        class_names: label to class name; empty where targets are no classes.
        value_names: names of the numbers that each image has in place of a class.
        image_shape: height, width and channels; height and width are None where images differ.
        split_sizes: split name to number of examples, `test` included.
        licence: terms of use, as the publisher states them.
        citation: of the publication that introduced the data.
    """

    name: str
    class_names: tuple[str, ...]
    image_shape: ImageShape
    split_sizes: Mapping[str, int]
    licence: str
    citation: str
    value_names: tuple[str, ...] = ()

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def target(self) -> TargetSpec:
        """The kind of the targets, and their names."""
        if self.value_names:
            return TargetSpec("numbers", self.value_names)
        return TargetSpec("class", self.class_names)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceInfo(Facts):
    """Facts about an opened data set."""

    fingerprint: str  # sha256 in hex of the content, the same wherever the data are stored


@dataclasses.dataclass(frozen=True)
class Storage:
    """The folder of a prepared data set, and the features stored there besides image and label.

    Attributes:
        directory: the folder; None where nothing is on the disk (`datasets/arrays.py`).
        encoded: whether images are stored as JPEG or PNG.
    """

    directory: str | None
    group_key: str | None = None
    path_key: str | None = None
    encoded: bool = False

    @property
    def name(self) -> str:
        """The folder, in words where there is none."""
        return self.directory or "memory"

    def open(self, split: str) -> Any:
        """The examples of a split: dictionaries by positions, by `__getitems__`.

        Encoded images stay encoded.
        """
        import tensorflow_datasets as tfds  # slow; a listing never reads

        decoders = None
        if self.encoded:  # TFDS would decode without regard to orientation or bit depth
            decoders = {"image": tfds.decode.SkipDecoding()}
        assert self.directory is not None
        builder: Any = tfds.builder_from_directory(self.directory)
        return builder.as_data_source(split=split, decoders=decoders)

    def only(self, split: str) -> "Storage":
        """The storage as far as one split needs it."""
        del split
        return self

    def column(self, split: str, key: str) -> Shaped[np.ndarray, "n ..."] | None:
        """A feature of all examples, where it is in memory."""
        del split, key
        return None


@dataclasses.dataclass(eq=False)
class Source:
    """One split, by index.

    Attributes:
        storage: its folder on disk.
        split: the split's name.
        info: the data set this split is of; its `image_shape` is that of this source's images.
        label_of: stored label to label, -1 for a class that is left out; None keeps them.
    """

    storage: Storage
    split: str
    info: SourceInfo
    label_of: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return self.info.split_sizes[self.split]

    def __getitem__(self, index: int | np.integer) -> dict[str, Any]:
        position = operator.index(index)
        if not 0 <= position < len(self):
            raise IndexError(f"Index {position} is outside split {self.split!r} of {len(self)}.")
        (record,) = self._records([position])
        label = np.asarray(self._label(record), self.info.target.dtype)[()]
        example: dict[str, Any] = {"image": self._image(record, position), "label": label}
        if self.storage.group_key is not None:
            example["group"] = _text(record[self.storage.group_key])
        return example

    def __getstate__(self) -> dict[str, Any]:
        # Without open files and cached arrays, which the receiver reads anew when it needs them,
        # and without the arrays of other splits.
        state = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return state | {"storage": self.storage.only(self.split)}

    def __repr__(self) -> str:
        return f"Source({self.info.name!r}, {self.split!r}, {len(self)} of {self.info.image_shape})"

    @functools.cached_property
    def labels(self) -> Labels:
        """The label of every example, [n] or [n d] numbers, read without decoding any image."""
        target = self.info.target
        labels = self._column("labels", "label", target.shape).astype(target.dtype, copy=False)
        if self.label_of is not None:
            labels = np.asarray(self.label_of, np.int32)[labels]
        labels.flags.writeable = False
        return labels

    @functools.cached_property
    def groups(self) -> Shaped[np.ndarray, " n"] | None:
        """The group of every example as text, or None where the data set has no groups."""
        key = self.storage.group_key
        return None if key is None else self._column("groups", key)

    @property
    def fixed_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of every image; a `DataError` where they differ in size."""
        height, width, num_channels = self.info.image_shape
        if height is None or width is None:
            raise DataError(
                f"The images of {self.info.name} differ in size; set config.data.image_size, for "
                "example --config.data.image_size=224,224, or in Python use "
                "with_image_size((height, width)).",
                where="config.data.image_size",
            )
        return height, width, num_channels

    def path_of(self, index: int) -> str | None:
        """The file that an example was made from, or None where the data set does not say."""
        key = self.storage.path_key
        return None if key is None else _text(self._records([index])[0][key])

    def with_image_size(self, size: tuple[int, int]) -> "Source":
        """This source with images of a height and width: shorter side to fit, then the centre."""
        if min(size) < 1:
            raise DataError(where="The image size", found=size, allowed="two positive numbers")
        info = dataclasses.replace(self.info, image_shape=(*size, self.info.image_shape[2]))
        return dataclasses.replace(self, info=info)

    def with_channels(self, num_channels: int) -> "Source":
        """This source with gray (1) or colour (3) images.

        Gray becomes three equal channels, colour its luminance.
        """
        if num_channels not in (1, 3):
            raise DataError(where="The number of channels", found=num_channels, allowed="1 or 3")
        info = dataclasses.replace(
            self.info, image_shape=(*self.info.image_shape[:2], num_channels)
        )
        return dataclasses.replace(self, info=info)

    def with_classes(self, names: Sequence[str]) -> "Source":
        """This source with the labels of some classes, in that order; those of others are -1.

        Raises:
            ConfigError: an unknown name, one that comes twice, or fewer than two.
        """
        where = "config.data.classes"
        if self.info.target.kind != "class":
            problem = f"{where} is set, but {self.info.name} has no classes; leave it out."
            raise ConfigError(problem, where=where, found=tuple(names))
        known = {name: label for label, name in enumerate(self.info.class_names)}
        label_of = [-1] * len(known)
        for label, name in enumerate(names):
            label_of[lookup(known, name, f"class in {self.info.name}", where)] = label
        if len(names) < 2 or len(set(names)) < len(names):
            allowed = "names of at least two classes, each once"
            raise ConfigError(where=where, found=tuple(names), allowed=allowed)
        info = dataclasses.replace(self.info, class_names=tuple(names))
        return dataclasses.replace(self, info=info, label_of=tuple(label_of))

    def read(
        self, indices: Int[np.ndarray, " n"], crops: Sequence[Crop] | None = None
    ) -> dict[str, np.ndarray]:
        """Reads examples in one go.

        Args:
            indices: positions in this split, in any order, repeats allowed.
            crops: the part of each stored image to keep; None resizes to fit, as everywhere else.

        Returns:
            `image`, uint8 `[n, h, w, c]`, and `label`, int32 `[n]` or float32 `[n, d]`, in the
            order of `indices`.
        """
        shape = self.fixed_shape
        if indices.size and (indices.min() < 0 or indices.max() >= len(self)):
            raise IndexError(
                f"Indices {indices.min()}..{indices.max()} reach outside split {self.split!r} of "
                f"{len(self)}."
            )
        images = np.empty((len(indices), *shape), np.uint8)
        target = self.info.target
        labels = np.empty((len(indices), *target.shape), target.dtype)
        positions = indices.tolist()
        for row, record in enumerate(self._records(positions)):
            stored, crop = record["image"], None if crops is None else crops[row]
            # Small images that are stored in this shape would spend most time in `decode`.
            ready = not self.storage.encoded and stored.shape == shape and crop is None
            images[row] = stored if ready else self._image(record, positions[row], crop)
            labels[row] = self._label(record)
        return {"image": images, "label": labels}

    def read_all(self) -> tuple[UInt8[np.ndarray, "n h w c"], Labels]:
        """Reads the whole split; decoded images are cached beside the data for the next time.

        The arrays are read-only, the images backed by a file where one can be written.
        """
        return self._images, self.labels

    @property
    def pixel_cache(self) -> Path | None:
        """The folder, beside the data, for whatever is computed from pixels of `fixed_shape`.

        None where the data are in memory.
        """
        return self._cache_folder(self.pixel_format)

    @property
    def pixel_format(self) -> str:
        """The decoder and the size of the pixels, on which all computed from them depends."""
        return f"{DECODER}-{'x'.join(map(str, self.fixed_shape))}"

    def _cache_folder(self, content: str) -> Path | None:
        if self.storage.directory is None:
            return None
        directory, fingerprint = Path(self.storage.directory), self.info.fingerprint
        return array_cache.cache_folder(directory, fingerprint, content)

    def remove_outdated_caches(self) -> None:
        """Makes room for a file that is about to be written into `pixel_cache`."""
        if self.storage.directory is not None:
            directory, fingerprint = Path(self.storage.directory), self.info.fingerprint
            array_cache.remove_outdated(directory, fingerprint, DECODER)

    def chunks(self) -> Iterator[Int[np.ndarray, " n"]]:
        """All positions, in order, cut into arrays that are read well in one go."""
        height, width, num_channels = self.info.image_shape
        size = _PHOTOGRAPHS_AT_ONCE
        if height is not None and width is not None:
            size = max(1, min(_READ_AT_ONCE, _READ_BYTES // (height * width * num_channels)))
        for start in range(0, len(self), size):
            yield np.arange(start, min(start + size, len(self)))

    @functools.cached_property
    def _images(self) -> UInt8[np.ndarray, "n h w c"]:
        folder, name = self.pixel_cache, f"images-{self.split}"
        shape = (len(self), *self.fixed_shape)
        stored = self.storage.column(self.split, "image")
        if stored is not None and stored.shape == shape:
            return stored
        images = array_cache.load_array(folder, name, shape)
        if images is None:
            self.remove_outdated_caches()
            if array_cache.store_rows(folder, name, shape, self._decoded()):
                images = array_cache.load_array(folder, name, shape)  # as every later run
        if images is None:
            images, row = array_cache.aligned_empty(shape), 0
            for part in self._decoded():
                images[row : row + len(part)] = part
                row += len(part)
            images.flags.writeable = False
        return images

    def _decoded(self) -> Iterator[UInt8[np.ndarray, "n h w c"]]:
        # Decoding leaves Python's lock alone, unpacking stored pixels does not.
        num_threads = None if self.storage.encoded else 1
        read = lambda indices: self.read(indices)["image"]  # noqa: E731
        return map_in_order(read, self.chunks(), num_threads=num_threads)

    def _label(self, record: Mapping[str, Any]) -> Any:
        return record["label"] if self.label_of is None else self.label_of[record["label"]]

    def _image(
        self, record: Mapping[str, Any], position: int, crop: Crop | None = None
    ) -> UInt8[np.ndarray, "h w c"]:
        try:
            if crop is not None:
                return decode_crop(record["image"], self.fixed_shape, crop)
            return decode(record["image"], self.info.image_shape)
        except Exception as error:
            raise self._unreadable(f"Example {position} of split", error) from error

    def _column(
        self, name: str, key: str, shape: tuple[int, ...] = ()
    ) -> Shaped[np.ndarray, "..."]:
        """Reads one plain feature of every example, from its copy beside the data if there."""
        stored = self.storage.column(self.split, key)
        if stored is not None:
            return stored
        file, folder = f"{name}-{self.split}", self._cache_folder("columns")
        for place in (Path(self.storage.name), folder):
            column = array_cache.load_array(place, file, (len(self), *shape))
            if column is not None:
                return column
        values: list[Any] = []
        for start in range(0, len(self), _READ_AT_ONCE):
            positions = list(range(start, min(start + _READ_AT_ONCE, len(self))))
            values += [record[key] for record in self._records(positions)]
        column = np.asarray([_text(value) for value in values] if name == "groups" else values)
        array_cache.store_arrays(folder, {file: column})
        return column

    def _records(self, positions: list[int]) -> Sequence[Mapping[str, Any]]:
        try:
            return self._reader.__getitems__(positions)
        except Exception as error:
            raise self._unreadable("Split", error) from error

    @functools.cached_property
    def _reader(self) -> Any:
        return self.storage.open(self.split)

    def _unreadable(self, what: str, error: Exception) -> CnnLabError:
        if refused := explain_system_error(error):  # no reason to delete anything
            return SystemLimitError(refused)
        return DataError(
            f"{what} {self.split!r} in {self.storage.name} cannot be read ({error}); its "
            "files are damaged or incomplete: delete that folder and prepare the data again.",
            where=self.storage.name,
        )


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
