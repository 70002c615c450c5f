"""Where a prepared data set lies on disk and how its records are read."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Storage:
    """Where a prepared data set lies and under which names its features are stored."""

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
