"""Descriptions of published data sets, and the registry of those that are known by name."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int32, UInt8

from cnn_lab.core.errors import ConfigError
from cnn_lab.data.source import Facts

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


@dataclass(frozen=True, kw_only=True)
class DatasetDescription(Facts):
    """A published data set that fits in memory as arrays.

    Attributes:
        title: one line for a listing.
        read: (this description, the folder with its files) -> split name to images and labels, in
            the published order.
        recipe: of augmentation, where a config names none.
        files: the published files; none where the data come with a package.
    """

    title: str
    read: Callable[["DatasetDescription", Path], dict[str, Arrays]]
    recipe: str = "photos"
    files: tuple[RemoteFile, ...] = ()


DATASETS: dict[str, DatasetDescription] = {}
"""Name to description, of the data sets registered so far."""


def register_dataset(description: DatasetDescription) -> None:
    """Makes a data set known to configs and commands; a `ConfigError` where its name is taken."""
    name = description.name
    if name in DATASETS:
        problem = f"The data set {name!r} exists already; register yours by another name."
        raise ConfigError(problem, found=name)
    DATASETS[name] = description
