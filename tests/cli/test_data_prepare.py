"""`cnn-lab data prepare` says ready only of data that are whole."""

import shutil
from pathlib import Path

import pytest
from strict import leftovers

from cnn_lab.cli import runtime
from cnn_lab.cli.main import main
from cnn_lab.data.storage.prepared import MANIFEST_FILE


@pytest.fixture
def prepare(tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setattr(runtime, "start_logging", lambda: None)

    def run() -> tuple[int, str]:
        capsys.readouterr()
        status = main(("data", "prepare", "digits", f"--data_dir={tmp_path}"))
        output, errors = capsys.readouterr()
        return status, errors if status else output

    assert run()[0] == 0
    return run


@pytest.fixture
def shard(prepare, tmp_path: Path) -> Path:
    (found,) = (tmp_path / "digits/1.0.0").glob("*train.array_record*")
    return found


def damaged(errors: str, directory: Path) -> bool:
    return (
        errors.startswith("error: ")
        and errors.count("\n") == 1
        and str(directory) in errors
        and "delete that folder and prepare the data again" in errors
    )


def test_whole_data_are_ready(prepare):
    status, output = prepare()
    assert status == 0
    assert "digits is ready in" in output
    assert "8x8 1 channel, 10 classes: 0, 1," in output


def test_a_changed_byte_is_noticed(prepare, shard: Path):
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    status, errors = prepare()
    assert status == 2
    assert f"the bytes of {shard.name} changed" in errors
    assert damaged(errors, shard.parent)


def test_a_file_cut_short_is_noticed(prepare, shard: Path):
    size = shard.stat().st_size
    shard.write_bytes(shard.read_bytes()[:-10])
    status, errors = prepare()
    assert status == 2
    assert f"{shard.name} has {size - 10} bytes, not {size}" in errors
    assert damaged(errors, shard.parent)


@leftovers
def test_a_file_cut_short_is_noticed_without_a_manifest(prepare, shard: Path):
    (shard.parent / MANIFEST_FILE).unlink()
    assert prepare()[0] == 0
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
    status, errors = prepare()
    assert status == 2
    assert damaged(errors, shard.parent)


def test_arrays_kept_beside_the_data_may_vanish(prepare, shard: Path):
    for file in [*shard.parent.glob("*.npy"), *shard.parent.glob("*.crc32")]:
        file.unlink()
    shutil.rmtree(shard.parent / "cache", ignore_errors=True)
    assert prepare()[0] == 0
