"""Files are written whole or not at all."""

import json
import math

import pytest

from cnn_lab.core.files import finite_or_none, write_bytes, write_json, write_text


def test_the_content_replaces_the_old_one(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old and long")
    write_text(path, "né")
    assert path.read_bytes() == "né".encode()
    write_bytes(path, b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"
    assert list(tmp_path.iterdir()) == [path]


def test_json_is_indented_and_ends_with_a_newline(tmp_path):
    write_json(tmp_path / "a.json", {"a": [1, None]})
    text = (tmp_path / "a.json").read_text()
    assert json.loads(text) == {"a": [1, None]}
    assert text.startswith('{\n  "a"')
    assert text.endswith("}\n")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_json(path, {"a": object()})
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "\ud800")
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_json_has_no_word_for_what_is_not_finite(tmp_path):
    path = tmp_path / "a.json"
    values = {"a": math.nan, "b": -math.inf, "c": 0.5, "d": "nan", "e": None, "f": 3}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, values)
    assert not list(tmp_path.iterdir())
    write_json(path, finite_or_none(values))
    assert json.loads(path.read_text()) == {**values, "a": None, "b": None}
