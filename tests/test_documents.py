"""README and BUILD_NOTES speak of files that exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PLACES = (ROOT, ROOT / "cnn_lab", ROOT / "tests")
FILE = re.compile(r"`((?:[a-z_]\w*/)+[a-z_]\w*\.(?:py|sh|yaml|jinja|md))`")


@pytest.mark.parametrize("document", ["README.md", "BUILD_NOTES.md"])
def test_files_that_are_named_exist(document: str):
    named = set(FILE.findall((ROOT / document).read_text(encoding="utf-8")))
    assert len(named) > 5  # else nothing was looked at
    gone = {name for name in named if not any((place / name).exists() for place in PLACES)}
    assert gone == set(), f"{document} names files that are not there"
