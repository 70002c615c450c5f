"""Refusals: errors of the user's, held to their fields."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from cnn_lab.core.errors import CnnLabError


@contextmanager
def refused(kind: type[CnnLabError], **fields: Any) -> Iterator[None]:
    """Expects an error of that class with these fields: `where`, `found`, `allowed`, `nearest`."""
    with pytest.raises(kind) as caught:
        yield
    assert {name: getattr(caught.value, name) for name in fields} == fields
