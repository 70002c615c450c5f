"""`cnn-lab data check` fails where splits share images, and says which."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnn_lab.cli import runtime
from cnn_lab.cli.commands import data
from cnn_lab.cli.main import main


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    for split, name, i in [(s, c, i) for s in ("train", "test") for c in "ab" for i in range(3)]:
        path = tmp_path / "photos" / split / name / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (5, 7, 3), np.uint8)).save(path)
    return tmp_path / "photos"


@pytest.fixture
def check(photos: Path, tmp_path: Path, capsys, monkeypatch):
    def run() -> tuple[int, str]:
        monkeypatch.setattr(runtime, "start_logging", lambda: None)
        capsys.readouterr()
        command = ("data", "check", f"folder:{photos}", f"--data_dir={tmp_path / 'data'}")
        status = main(command)
        return status, capsys.readouterr().out

    return run


def test_no_duplicates(check):
    status, output = check()
    assert status == 0
    assert "0 duplicate(s)" in output


def test_duplicates_within_a_split_are_told_but_leak_nothing(check, photos: Path):
    shutil.copy(photos / "train/a/0.png", photos / "train/a/3.png")
    status, output = check()
    assert status == 0
    assert "1 image(s) of train are in it more than once" in output


def test_an_image_of_two_splits_fails_and_is_named_first(check, photos: Path, monkeypatch):
    shutil.copy(photos / "train/a/0.png", photos / "train/a/3.png")
    shutil.copy(photos / "train/a/1.png", photos / "test/b/3.png")
    monkeypatch.setattr(data, "MAX_LISTED", 1)
    status, output = check()
    assert status == 1
    assert "1 image(s) of test are in train too" in output
    assert "  train 1 (a, train/a/1.png) = test 6 (b, test/b/3.png)\n  ... and 1" in output
