"""The target of an example: what a data set says about each of its images."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from cnn_lab.core.text import counted

TargetKind = Literal["class", "numbers"]
PLURALS: Mapping[TargetKind, str] = {"class": "classes", "numbers": "numbers"}


@dataclasses.dataclass(frozen=True)
class TargetSpec:
    """The kind of a data set's targets, and their names.

    Attributes:
        kind: `class`, one class an image, stored as its label in [0, k); `numbers`, one or more
            real values an image.
        names: of the classes in the order of their labels, or of the values.
    """

    kind: TargetKind
    names: tuple[str, ...]

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes; empty where targets are no classes."""
        return self.names if self.kind == "class" else ()

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one example's target."""
        return () if self.kind == "class" else (len(self.names),)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype that targets are stored in."""
        return np.dtype(np.int32 if self.kind == "class" else np.float32)

    def describe(self) -> str:
        """The number of names and what they name: `10 classes`."""
        return counted(len(self.names), "class" if self.kind == "class" else "number")

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "TargetSpec":
        """Reads back `dataclasses.asdict`."""
        return cls(values["kind"], tuple(values["names"]))
