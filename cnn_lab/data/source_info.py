"""What is known of a data set before any of its images is read."""

import dataclasses
from collections.abc import Mapping

ImageShape = tuple[int | None, int | None, int]


@dataclasses.dataclass(frozen=True)
class SourceInfo:
    """What is known of a data set.

    Attributes:
        name: the name it was opened by.
        class_names: label to class name.
        image_shape: height, width and channels; height and width are None where images differ.
        split_sizes: split name to number of examples, `test` included.
        licence: terms of use, as the publisher states them.
        citation: whom to cite.
        fingerprint: sha256 in hex of the content, the same wherever the data lie.
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
        """How many classes there are."""
        return len(self.class_names)
