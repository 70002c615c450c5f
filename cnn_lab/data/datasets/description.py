"""Descriptions of published data sets, and the registry of those that are known by name."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int32, UInt8

from cnn_lab.core.errors import ConfigError

# Raise it when a builder stores something else than before; data prepared before stay as they are.
PREPARED_VERSION = "1.0.0"

Arrays = tuple[UInt8[np.ndarray, "n h w c"], Int32[np.ndarray, " m"]]
"""Images and labels as read; that there are as many of each is checked afterwards."""


@dataclass(frozen=True)
class ArchiveMember:
    """One unpacked file: its name (inside the archive), size in bytes and sha256 if known."""

    name: str
    num_bytes: int
    sha256: str | None = None


@dataclass(frozen=True)
class RemoteFile:
    """One published archive, its addresses, and the files inside."""

    name: str
    num_bytes: int
    sha256: str | None
    urls: tuple[str, ...]
    members: tuple[ArchiveMember, ...]


@dataclass(frozen=True)
class DatasetDescription:
    """A published data set that fits in memory as arrays.

    Attributes:
        name: under which it is opened.
        title: one line for a listing.
        image_shape: height, width and channels.
        class_names: label to class name.
        split_sizes: split name to number of examples.
        licence: terms of use, as the publisher states them.
        citation: of the publication that introduced the data.
        read: (this description, the folder with its files) -> split name to images and labels, in
            the published order.
        recipe: of augmentation, where a config names none.
        files: the published files; none where the data come with a package.
    """

    name: str
    title: str
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    split_sizes: Mapping[str, int]
    licence: str
    citation: str
    read: Callable[["DatasetDescription", Path], dict[str, Arrays]]
    recipe: str = "photos"
    files: tuple[RemoteFile, ...] = ()

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)


DATASETS: dict[str, DatasetDescription] = {}
"""Name to description, of the data sets registered so far."""


def register_dataset(description: DatasetDescription) -> None:
    """Makes a data set known by its name, to configs and commands.

    Raises:
        ConfigError: the name is taken.
    """
    name = description.name
    if name in DATASETS:
        problem = f"The data set {name!r} exists already; register yours by another name."
        raise ConfigError(problem, found=name)
    DATASETS[name] = description
