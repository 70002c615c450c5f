"""A data set as it was prepared, and random access to one of its splits.

The data are on disk as TFDS array_record and are read without TensorFlow. A source holds only a
path and a description; it opens its files on first use, so it can be sent to other processes.
"""

import dataclasses
import functools
import operator
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, Int32, Shaped, UInt8

from cnn_lab.core.errors import ConfigError, DataError, lookup
from cnn_lab.data.augment.crops import Crop
from cnn_lab.data.decoding import DECODER, decode, decode_crop
from cnn_lab.data.parallel import map_in_order
from cnn_lab.data.storage.array_cache import (
    aligned_empty,
    cache_folder,
    load_arrays,
    remove_outdated,
    store_arrays,
    store_rows,
)
from cnn_lab.data.storage.checksums import unusable

_READ_AT_ONCE = 1024
_READ_BYTES = 2**23
_PHOTOGRAPHS_AT_ONCE = 16  # of sizes that are not known

ImageShape = tuple[int | None, int | None, int]


@dataclasses.dataclass(frozen=True)
class SourceInfo:
    """Facts about a data set, known before any of its images is read.

    Attributes:
        name: the name it was opened by.
        class_names: label to class name.
        image_shape: height, width and channels; height and width are None where images differ.
        split_sizes: split name to number of examples, `test` included.
        licence: terms of use, as the publisher states them.
        citation: of the publication that introduced the data.
        fingerprint: sha256 in hex of the content, the same wherever the data are stored.
    """

    name: str
    class_names: tuple[str, ...]
    image_shape: ImageShape
    split_sizes: Mapping[str, int]
    licence: str
    citation: str
    fingerprint: str

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)


@dataclasses.dataclass(frozen=True)
class Storage:
    """The folder of a prepared data set, and the names of the features stored there."""

    directory: str
    image_key: str = "image"
    label_key: str = "label"
    group_key: str | None = None
    path_key: str | None = None
    encoded: bool = False

    def open(self, split: str) -> Any:
        """The records of a split, by position; encoded images stay encoded."""
        import tensorflow_datasets as tfds  # slow; a listing never reads

        decoders = None
        if self.encoded:  # TFDS would decode without regard to orientation or bit depth
            decoders = {self.image_key: tfds.decode.SkipDecoding()}
        builder: Any = tfds.builder_from_directory(self.directory)
        return builder.as_data_source(split=split, decoders=decoders)


class Source:
    """One split, by index.

    Attributes:
        info: the data set this split is of; its `image_shape` is that of this source's images.
        split: the split's name.
    """

    def __init__(
        self,
        storage: Storage,
        split: str,
        info: SourceInfo,
        label_of: tuple[int, ...] | None = None,
    ) -> None:
        self.info = info
        self.split = split
        self._storage = storage
        self._label_of = label_of  # stored label to label, -1 for a class that is left out

    def __len__(self) -> int:
        return self.info.split_sizes[self.split]

    def __getitem__(self, index: int | np.integer) -> dict[str, Any]:
        position = operator.index(index)
        if not 0 <= position < len(self):
            raise IndexError(f"Index {position} is outside split {self.split!r} of {len(self)}.")
        (record,) = self._records([position])
        example: dict[str, Any] = {
            "image": self._image(record, position),
            "label": np.int32(self._label(record)),
        }
        if self._storage.group_key is not None:
            example["group"] = _text(record[self._storage.group_key])
        return example

    def __getstate__(self) -> dict[str, Any]:
        # Without open files and cached arrays; the receiver reads them anew when it needs them.
        kept = ("info", "split", "_storage", "_label_of")
        return {name: getattr(self, name) for name in kept}

    def __repr__(self) -> str:
        return f"Source({self.info.name!r}, {self.split!r}, {len(self)} of {self.info.image_shape})"

    @functools.cached_property
    def labels(self) -> Int32[np.ndarray, " n"]:
        """The label of every example, read without decoding any image."""
        labels = self._column("labels", self._storage.label_key).astype(np.int32, copy=False)
        if self._label_of is not None:
            labels = np.asarray(self._label_of, np.int32)[labels]
        labels.flags.writeable = False
        return labels

    @functools.cached_property
    def groups(self) -> Shaped[np.ndarray, " n"] | None:
        """The group of every example as text, or None where the data set has no groups."""
        key = self._storage.group_key
        return None if key is None else self._column("groups", key)

    @property
    def fixed_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of every image.

        Raises:
            DataError: the images differ in size, so that they make no array.
        """
        height, width, num_channels = self.info.image_shape
        if height is None or width is None:
            raise DataError(
                f"The images of {self.info.name} differ in size; set config.data.image_size, for "
                "example --config.data.image_size=224,224, or in Python use "
                "with_image_size((height, width))."
            )
        return height, width, num_channels

    def path_of(self, index: int) -> str | None:
        """The file that an example was made from, or None where the data set does not say."""
        key = self._storage.path_key
        return None if key is None else _text(self._records([index])[0][key])

    def with_image_size(self, size: tuple[int, int]) -> "Source":
        """Returns this source with images resized: shorter side to fit, then the centre.

        Args:
            size: height and width in pixels.
        """
        height, width = size
        if height < 1 or width < 1:
            raise DataError(f"An image size of {size} was asked for; both sides must be positive.")
        return self._with_shape((height, width, self.info.image_shape[2]))

    def with_channels(self, num_channels: int) -> "Source":
        """Returns this source with gray (1) or colour (3) images.

        Args:
            num_channels: 1 or 3; gray becomes three equal channels, colour its luminance.
        """
        if num_channels not in (1, 3):
            raise DataError(f"{num_channels} channels were asked for; images have 1 or 3.")
        return self._with_shape((*self.info.image_shape[:2], num_channels))

    def with_classes(self, names: Sequence[str]) -> "Source":
        """Returns this source with the labels of some classes alone, those of others being -1.

        Args:
            names: of the classes; their order is that of the labels.

        Raises:
            ConfigError: an unknown name, one that comes twice, or fewer than two.
        """
        known = {name: label for label, name in enumerate(self.info.class_names)}
        label_of = [-1] * len(known)
        for label, name in enumerate(names):
            stored = lookup(known, name, f"class in {self.info.name}")
            if label_of[stored] >= 0:
                raise ConfigError(f"config.data.classes names {name!r} twice; name it once.")
            label_of[stored] = label
        if len(names) < 2:
            raise ConfigError(
                f"config.data.classes must name at least two classes; found {len(names)}."
            )
        info = dataclasses.replace(self.info, class_names=tuple(names))
        return type(self)(self._storage, self.split, info, tuple(label_of))

    def read(
        self, indices: Int[np.ndarray, " n"], crops: Sequence[Crop] | None = None
    ) -> dict[str, np.ndarray]:
        """Reads the examples at `indices` in one go.

        Args:
            indices: positions in this split, in any order, repeats allowed.
            crops: the part of each stored image to keep; None resizes to fit, as everywhere else.

        Returns:
            `image`, uint8 `[n, h, w, c]`, and `label`, int32 `[n]`, in the order of `indices`.

        Raises:
            DataError: the images differ in size, so they make no array.
            IndexError: an index is outside the split.
        """
        shape = self.fixed_shape
        if indices.size and (indices.min() < 0 or indices.max() >= len(self)):
            raise IndexError(
                f"Indices {indices.min()}..{indices.max()} reach outside split {self.split!r} of "
                f"{len(self)}."
            )
        images = np.empty((len(indices), *shape), np.uint8)
        labels = np.empty(len(indices), np.int32)
        positions = indices.tolist()
        for row, record in enumerate(self._records(positions)):
            stored = record[self._storage.image_key]
            crop = None if crops is None else crops[row]
            # Small images that are stored in this shape would spend most time in `decode`.
            ready = not self._storage.encoded and stored.shape == shape and crop is None
            images[row] = stored if ready else self._image(record, positions[row], crop)
            labels[row] = self._label(record)
        return {"image": images, "label": labels}

    def read_all(self) -> tuple[UInt8[np.ndarray, "n h w c"], Int32[np.ndarray, " n"]]:
        """Reads the whole split; decoded images are cached beside the data for the next time.

        Returns:
            Read-only images `[n, h, w, c]`, backed by a file where one can be written, and labels
            `[n]`.
        """
        return self._images, self.labels

    @property
    def pixel_cache(self) -> Path:
        """The folder, beside the data, for whatever is computed from these pixels.

        Raises:
            DataError: the images differ in size, so there is none.
        """
        content = f"{DECODER}-{'x'.join(map(str, self.fixed_shape))}"
        return cache_folder(Path(self._storage.directory), self.info.fingerprint, content)

    def remove_outdated_caches(self) -> None:
        """Makes room for a file that is about to be written into `pixel_cache`."""
        remove_outdated(Path(self._storage.directory), self.info.fingerprint, DECODER)

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
        folder = self.pixel_cache
        name, shape = f"images-{self.split}", (len(self), *self.fixed_shape)
        images = self._cached_images(folder, name, shape)
        if images is None:
            self.remove_outdated_caches()
            if store_rows(folder, name, shape, self._decoded()):  # every run reads it the same way
                images = self._cached_images(folder, name, shape)
        if images is None:
            images, row = aligned_empty(shape), 0
            for part in self._decoded():
                images[row : row + len(part)] = part
                row += len(part)
            images.flags.writeable = False
        return images

    def _cached_images(self, folder: Path, name: str, shape: tuple[int, ...]) -> Any:
        arrays = load_arrays(folder, (name,))
        return arrays[name] if arrays is not None and arrays[name].shape == shape else None

    def _decoded(self) -> Iterator[UInt8[np.ndarray, "n h w c"]]:
        # Decoding leaves Python's lock alone, unpacking stored pixels does not.
        num_threads = None if self._storage.encoded else 1
        read = lambda indices: self.read(indices)["image"]  # noqa: E731
        return map_in_order(read, self.chunks(), num_threads=num_threads)

    def _with_shape(self, shape: ImageShape) -> "Source":
        info = dataclasses.replace(self.info, image_shape=shape)
        return type(self)(self._storage, self.split, info, self._label_of)

    def _label(self, record: Mapping[str, Any]) -> int:
        stored = record[self._storage.label_key]
        return stored if self._label_of is None else self._label_of[stored]

    def _image(
        self, record: Mapping[str, Any], position: int, crop: Crop | None = None
    ) -> UInt8[np.ndarray, "h w c"]:
        try:
            stored = record[self._storage.image_key]
            if crop is not None:
                return decode_crop(stored, self.fixed_shape, crop)
            return decode(stored, self.info.image_shape)
        except Exception as error:
            what = f"Example {position} of split {self.split!r}"
            raise unusable(what, self._storage.directory, error) from error

    def _column(self, name: str, key: str) -> Shaped[np.ndarray, " n"]:
        """Reads one plain feature of every example, from its copy beside the data if there."""
        file = f"{name}-{self.split}"
        folder = cache_folder(Path(self._storage.directory), self.info.fingerprint, "columns")
        for directory in (Path(self._storage.directory), folder):
            arrays = load_arrays(directory, (file,))
            if arrays is not None and arrays[file].shape == (len(self),):
                return arrays[file]
        values: list[Any] = []
        for start in range(0, len(self), _READ_AT_ONCE):
            positions = list(range(start, min(start + _READ_AT_ONCE, len(self))))
            values += [record[key] for record in self._records(positions)]
        column = np.asarray([_text(value) for value in values] if name == "groups" else values)
        store_arrays(folder, {file: column})
        return column

    def _records(self, positions: list[int]) -> Sequence[Mapping[str, Any]]:
        try:
            return self._reader.__getitems__(positions)
        except Exception as error:
            what = f"Split {self.split!r}"
            raise unusable(what, self._storage.directory, error) from error

    @functools.cached_property
    def _reader(self) -> Any:
        return self._storage.open(self.split)


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
