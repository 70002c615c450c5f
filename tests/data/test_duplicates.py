"""Exact duplicates, planted within and across splits."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnn_lab.data.datasets.catalog import open_dataset, unlock_test
from cnn_lab.data.datasets.duplicates import (
    describe_duplicate,
    find_duplicates,
    summarise_duplicates,
)


@pytest.fixture
def root(tmp_path) -> Path:
    random = np.random.default_rng(0)
    for split, name, i in [(s, c, i) for s in ("train", "test") for c in "ab" for i in range(3)]:
        path = tmp_path / "images" / split / name / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (5, 7, 3), np.uint8)).save(path)
    return tmp_path / "images"


@pytest.mark.parametrize("other_size", [False, True])
def test_planted_duplicates_are_found(root, tmp_path, other_size):
    if other_size:  # images that differ in size are hashed one by one
        Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(root / "train/b/9.png")
    shutil.copy(root / "train/a/0.png", root / "train/a/3.png")
    # Stored differently, yet the same pixels; and under another label.
    Image.open(root / "train/a/1.png").save(root / "test/b/3.png", compress_level=0)
    dataset = open_dataset(f"folder:{root}", tmp_path / "data")
    sources = {"train": dataset.split("train"), "test": unlock_test(dataset)}
    pairs = find_duplicates(sources)
    assert pairs == [("train", 0, "train", 3), ("train", 1, "test", 6)]
    summary = summarise_duplicates(pairs, sources)
    assert summary.within == {"train": 1}
    assert summary.across == {("train", "test"): 1}
    assert summary.disagreeing == (("train", 1, "test", 6),)
    described = describe_duplicate(pairs[1], sources)
    assert described == "train 1 (a, train/a/1.png) = test 6 (b, test/b/3.png)"


def test_many_copies_are_paired_with_the_first(tmp_path):
    for i in range(40):
        path = tmp_path / f"flat/a/{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((3, 3), i % 7, np.uint8)).save(path)
    source = open_dataset(f"folder:{tmp_path / 'flat'}", tmp_path / "data").split("train")
    pairs = find_duplicates({"train": source, "more": source})
    assert pairs[:33] == [("train", i % 7, "train", i) for i in range(7, 40)]
    assert pairs[33:] == [("train", i % 7, "more", i) for i in range(40)]


def test_a_duplicate_without_files_is_described_too(tmp_path):
    source = open_dataset("digits", tmp_path).split("train")
    label = source.info.class_names[source.labels[3]]
    described = describe_duplicate(("train", 3, "train", 3), {"train": source})
    assert described == f"train 3 ({label}) = train 3 ({label})"


def test_equal_bytes_of_another_shape_are_no_duplicates(tmp_path):
    for i, shape in enumerate([(2, 6), (6, 2), (3, 4)]):
        path = tmp_path / f"flat/a/{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros(shape, np.uint8)).save(path)
    dataset = open_dataset(f"folder:{tmp_path / 'flat'}", tmp_path / "data")
    assert find_duplicates({"train": dataset.split("train")}) == []
