"""What fields of the config have in common."""

import dataclasses
from typing import Annotated, Any

from cnn_lab.config.ranges import Range

RUNTIME = {"runtime": True}
Seed = Annotated[int, Range(least=0, below=2**32)]


def runtime(default: Any) -> Any:
    """A field that does not change what is computed, such as a folder or a device count."""
    return dataclasses.field(default=default, metadata=RUNTIME)
