"""A data set from arrays in memory: images and labels as a notebook has them."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Shaped, UInt8
from numpy.typing import ArrayLike

from cnn_lab.core.errors import DataError
from cnn_lab.core.text import counted
from cnn_lab.data.datasets.catalog import Dataset
from cnn_lab.data.datasets.numbers import as_float32
from cnn_lab.data.source import Labels, SourceInfo, Storage

CHANNELS = (1, 3)
Examples = tuple[ArrayLike, ArrayLike]


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class ArrayStorage(Storage):
    """Columns of examples in memory, by split and name."""

    directory: None = None
    splits: Mapping[str, Mapping[str, Shaped[np.ndarray, "n ..."]]] = dataclasses.field(repr=False)

    def open(self, split: str) -> "ArrayExamples":
        """The examples of a split by positions."""
        return ArrayExamples(self.splits[split])

    def only(self, split: str) -> "ArrayStorage":
        """The storage with the columns of one split alone."""
        return dataclasses.replace(self, splits={split: self.splits[split]})

    def column(self, split: str, key: str) -> Shaped[np.ndarray, "n ..."]:
        """A feature of all examples of a split."""
        return self.splits[split][key]


@dataclasses.dataclass(frozen=True, eq=False)
class ArrayExamples:
    """Examples by positions, as rows of columns."""

    columns: Mapping[str, Shaped[np.ndarray, "n ..."]]

    def __getitems__(self, positions: Sequence[int]) -> list[dict[str, Any]]:
        """The rows at some positions."""
        return [{key: column[at] for key, column in self.columns.items()} for at in positions]


def from_arrays(
    images: ArrayLike,
    labels: ArrayLike,
    *,
    validation: Examples | None = None,
    test: Examples | None = None,
    groups: ArrayLike | None = None,
    class_names: Sequence[str] | None = None,
    value_names: Sequence[str] | None = None,
    name: str = "data",
) -> Dataset:
    """A data set from arrays, for `train` and everything else that takes one.

    Images are kept as 8 bits a channel, as everywhere here; mean and deviation are measured and
    applied by a training, so give pixels as they are.

    Args:
        images: [n h w], or [n h w c] of 1 or 3 channels: whole numbers in [0, 255], or numbers in
            [0, 1].
        labels: [n] whole numbers, truth values or texts, which name classes in ascending order, so
            that label k of the data set is the k-th of `info.class_names`; or [n] or [n d] real
            numbers, which are to be predicted as they are, in float32 (classes that are floats, as
            a column of pandas may be, are given as `labels.astype(int)`).
        validation: images and labels that are held out; otherwise a training holds some out.
        test: images and labels of the locked test split.
        groups: [n] of the training images that must not be parted by holding some out.
        class_names: names of all classes in the order of their labels, where labels are in
            [0, len(class_names)) or are some of these names.
        value_names: of the numbers.
        name: of the data, for titles; the data set is called `arrays:NAME`.

    Returns:
        The data set; nothing is written to the disk.

    Raises:
        DataError: shapes, values or types that are no images and labels.

    >>> import numpy as np
    >>> images = np.zeros((4, 8, 8), np.uint8)
    >>> from_arrays(images, ["cat", "dog", "dog", "cat"]).info.class_names
    ('cat', 'dog')
    """
    class_names = None if class_names is None else [str(each) for each in class_names]
    given = {"train": (images, labels), "validation": validation, "test": test}
    examples = {split: _checked(split, *both) for split, both in given.items() if both is not None}
    shapes = {split: pixels.shape[1:] for split, (pixels, _) in examples.items()}
    for split, shape in shapes.items():
        if shape != shapes["train"]:
            where, allowed = f"The images of split {split!r}", f"of shape {shapes['train']}"
            raise DataError(where=where, found=shape, allowed=allowed)
    targets = {split: values for split, (_, values) in examples.items()}
    if targets["train"].dtype.kind == "f":
        kinds, names = "value_names", _names_of_values(targets, value_names, class_names)
        columns = {
            split: _as_numbers(split, values, len(names)) for split, values in targets.items()
        }
    else:
        kinds, names = "class_names", _names_of_classes(targets["train"], class_names, value_names)
        known = np.unique(targets["train"])
        if class_names is not None:
            is_text = targets["train"].dtype.kind == "U"
            known = np.asarray(names) if is_text else np.arange(len(names))
        columns = {split: _as_classes(split, values, known) for split, values in targets.items()}
    splits = {
        split: {"image": pixels, "label": columns[split]} for split, (pixels, _) in examples.items()
    }
    for split in splits.values():
        for column in split.values():
            column.flags.writeable = False
    if groups is not None:
        splits["train"] |= {"group": _checked_groups(groups, len(columns["train"]))}
        for split in splits.keys() - {"train"}:  # no one asks for theirs
            splits[split] |= {"group": np.zeros(len(columns[split]), np.str_)}
    info: dict[str, Any] = {
        "name": f"arrays:{name}",
        "class_names": (),
        "image_shape": shapes["train"],
        "split_sizes": {split: len(column) for split, column in columns.items()},
        "licence": "not stated",
        "citation": "",
        "fingerprint": _fingerprint(names, splits),
        kinds: tuple(names),
    }
    storage = ArrayStorage(splits=splits, group_key=None if groups is None else "group")
    return Dataset(SourceInfo(**info), storage, info["name"])


def _checked(
    split: str, images: ArrayLike, labels: ArrayLike
) -> tuple[UInt8[np.ndarray, "n h w c"], Shaped[np.ndarray, "n ..."]]:
    """Images as 8-bit pixels, and as many labels of a type that can be used."""
    pixels = as_pixels(f"The images of split {split!r}", images)
    targets = _targets(split, labels)
    if len(pixels) != len(targets):
        raise DataError(
            f"Split {split!r} has {counted(len(pixels), 'image')} and "
            f"{counted(len(targets), 'label')}; give one label an image.",
            where=f"The labels of split {split!r}",
            found=len(targets),
            allowed=str(len(pixels)),
        )
    return pixels, targets


def as_pixels(where: str, images: ArrayLike) -> UInt8[np.ndarray, "n h w c"]:
    """Images [n h w] or [n h w c] as 8-bit pixels; a `DataError` about `where` if they are none."""
    array = _as_array(where, images)
    is_one = array.ndim == 3 and array.shape[2] in CHANNELS and array.shape[1] > array.shape[2]
    if array.ndim == 2 or is_one:
        allowed = "several images, [n h w] or [n h w c]"
        problem = f"{where} must be {allowed}; found shape {array.shape}."
        advice = "one image is a batch of one as images[None]"
        raise DataError(problem, where=where, found=array.shape, allowed=allowed, advice=advice)
    if array.ndim == 3:
        array = array[..., None]
    if array.ndim != 4 or array.shape[3] not in CHANNELS or 0 in array.shape:
        advice = ""
        if array.ndim == 4 and array.shape[1] in CHANNELS:
            advice = "channels come last here: images.transpose(0, 2, 3, 1)"
        allowed = "an array [n h w], or [n h w c] of 1 or 3 channels, that is not empty"
        problem = f"{where} must be {allowed}; found one of shape {np.shape(array)}."
        raise DataError(problem, where=where, found=array.shape, allowed=allowed, advice=advice)
    if array.dtype.kind not in "buif":
        allowed = "whole numbers in [0, 255] or numbers in [0, 1]"
        raise DataError(where=where, found=str(array.dtype), allowed=allowed)
    low, high = float(array.min()), float(array.max())
    is_real, is_bool = array.dtype.kind == "f", array.dtype.kind == "b"
    limit = 1 if is_real or is_bool else 255
    if is_real and not np.isfinite(array).all():
        bad = np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(1))
        problem = f"{where} hold NaN or infinity, the first in image {bad[0]}."
        raise DataError(problem, where=where, found=int(bad[0]), allowed="numbers in [0, 1]")
    if not (low >= 0 and high <= limit):
        allowed = "numbers in [0, 1]" if is_real else "whole numbers in [0, 255]"
        problem = f"{where} must be {allowed}; found {low:g} to {high:g}"
        advice = "mean and deviation are measured and applied by the training itself"
        if is_real and low >= 0 and high <= 255 and (array == np.rint(array)).all():
            advice = "whole numbers up to 255 are images.astype(np.uint8)"
        raise DataError(
            f"{problem}.", where=where, found=(low, high), allowed=allowed, advice=advice
        )
    return np.rint(array * 255.0).astype(np.uint8) if is_real else _scaled(array, is_bool=is_bool)


def _scaled(array: Shaped[np.ndarray, "n h w c"], *, is_bool: bool) -> UInt8[np.ndarray, "n h w c"]:
    pixels = np.array(array, np.uint8)  # a copy, since the caller may change the array
    return pixels * np.uint8(255) if is_bool else pixels


def _targets(split: str, labels: ArrayLike) -> Shaped[np.ndarray, "n ..."]:
    where = f"The labels of split {split!r}"
    array = _as_array(where, labels)
    if array.dtype.kind == "O" and all(isinstance(value, str) for value in array.flat):
        array = array.astype(np.str_)  # a column of texts of a data frame
    if array.dtype.kind not in "biuUf":
        found = str(array.dtype)
        if array.dtype.kind == "O":
            found = ", ".join(sorted({type(value).__name__ for value in array.flat}))
        allowed = "whole numbers, truth values or texts for classes, or real numbers"
        raise DataError(where=where, found=found, allowed=allowed)
    if array.dtype.kind == "f":
        if array.ndim not in (1, 2) or 0 in array.shape:
            allowed = "real numbers [n] or [n d]"
            raise DataError(where=where, found=array.shape, allowed=allowed)
    elif array.ndim != 1:
        allowed = "one class an image, [n]"
        problem = f"{where} must be {allowed}; found shape {array.shape}."
        advice = ""
        if array.ndim == 2:
            is_column = array.shape[1] == 1
            advice = "labels[:, 0]" if is_column else "one-hot rows become labels by argmax(1)"
        raise DataError(problem, where=where, found=array.shape, allowed=allowed, advice=advice)
    return array


def _as_array(where: str, values: ArrayLike) -> Shaped[np.ndarray, "..."]:
    try:
        return np.asarray(values)
    except ValueError as error:  # of different sizes
        allowed = "of one size, so that they are one array"
        raise DataError(where=where, found="several sizes", allowed=allowed) from error


def _names_of_values(
    targets: Mapping[str, Shaped[np.ndarray, "n ..."]],
    value_names: Sequence[str] | None,
    class_names: Sequence[str] | None,
) -> Sequence[str]:
    if class_names is not None:
        raise DataError(
            "class_names were given, but the labels are real numbers, which are predicted as they "
            "are; give whole numbers or texts for classes, or leave class_names out.",
            where="class_names",
            found=str(targets["train"].dtype),
        )
    num_values = 1 if targets["train"].ndim == 1 else targets["train"].shape[1]
    if value_names is None:
        return ["value"] if num_values == 1 else [f"value_{index}" for index in range(num_values)]
    if len(value_names) != num_values or len(set(value_names)) != num_values:
        allowed = f"{counted(num_values, 'name')}, each another"
        raise DataError(where="value_names", found=tuple(value_names), allowed=allowed)
    return value_names


def _names_of_classes(
    labels: Shaped[np.ndarray, " n"],
    class_names: Sequence[str] | None,
    value_names: Sequence[str] | None,
) -> Sequence[str]:
    if value_names is not None:
        raise DataError(
            "value_names were given, but the labels are classes; give real numbers, such as "
            "labels.astype(float), or leave value_names out.",
            where="value_names",
            found=str(labels.dtype),
        )
    if class_names is None:
        return [str(label) for label in np.unique(labels)]
    if len(set(class_names)) != len(class_names):
        raise DataError(where="class_names", found=tuple(class_names), allowed="names, each once")
    return class_names


def _as_numbers(split: str, values: Shaped[np.ndarray, "n ..."], num_values: int) -> Labels:
    where, numbers = f"The labels of split {split!r}", values.reshape(len(values), -1)
    if numbers.shape[1] != num_values:
        allowed = f"{counted(num_values, 'number')} each"
        raise DataError(where=where, found=numbers.shape[1], allowed=allowed)
    return as_float32(where, numbers)


def _as_classes(
    split: str, values: Shaped[np.ndarray, " n"], known: Shaped[np.ndarray, " k"]
) -> Labels:
    unknown = np.setdiff1d(values, known)
    if len(unknown):
        where = f"The labels of split {split!r}"
        allowed = f"among {known[0]} to {known[-1]}" if known.dtype.kind in "iu" else known.tolist()
        problem = f"{where} hold {unknown[0]!s}, which is no class"
        if isinstance(allowed, str):
            problem = f"{problem} {allowed}."
        raise DataError(problem, where=where, found=str(unknown[0]), allowed=allowed)
    order = np.argsort(known)
    return order[np.searchsorted(known, values, sorter=order)].astype(np.int32)


def _checked_groups(groups: ArrayLike, number: int) -> Shaped[np.ndarray, " n"]:
    array = np.asarray(groups)
    if array.shape != (number,):
        raise DataError(
            where="groups", found=array.shape, allowed=f"one value an image, [{number}]"
        )
    return array.astype(np.str_)


def _fingerprint(
    names: Sequence[str], splits: Mapping[str, Mapping[str, Shaped[np.ndarray, "n ..."]]]
) -> str:
    digest = hashlib.sha256(json.dumps([list(names), sorted(splits)]).encode())
    for split in sorted(splits):
        for key in sorted(splits[split]):
            column = np.ascontiguousarray(splits[split][key])
            digest.update(f"{split}/{key}: {column.dtype.str} {column.shape}".encode())
            digest.update(column.view(np.uint8).data if column.size else b"")
    return digest.hexdigest()
