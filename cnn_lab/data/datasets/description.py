"""Descriptions of published data sets, and the registry of those that are known by name.

A module of a user's own, which `config.imports` names, registers its data set in the same way.
"""

import importlib
import sys
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

# Name of a data set to the module that registered it, and that module's file.
_ORIGINS: dict[str, tuple[str, str]] = {}


def register_dataset(description: DatasetDescription) -> None:
    """Makes a data set known to configs and commands; a `ConfigError` where its name is taken.

    A file that is read again, as an experiment's may be, registers its data set again.
    """
    importlib.import_module("cnn_lab.data.datasets.published")  # a clash is the newcomer's
    # Of the caller: the function that reads a data set may be another module's.
    caller, name = sys._getframe(1).f_globals, description.name
    module = caller["__name__"]
    file = str(Path(caller.get("__file__") or module).resolve())
    if name in DATASETS and _ORIGINS[name][1] != file:
        raise ConfigError(
            f"The data set {name!r} exists already ({_ORIGINS[name][0]}); register that of "
            f"{module} by another name.",
            where=module,
            found=name,
        )
    DATASETS[name], _ORIGINS[name] = description, (module, file)


def module_of(name: str) -> str | None:
    """The module that registered a data set; None for what is no registered name."""
    return _ORIGINS[name][0] if name in DATASETS and name in _ORIGINS else None
