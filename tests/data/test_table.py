"""Data sets from a CSV table of image files, with a class or numbers for each."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from refusals import refused

from cnn_lab.core.errors import ConfigError, DataError
from cnn_lab.data.datasets.catalog import Dataset, open_dataset, unlock_test


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Eight images, whose gray value is ten times their number."""
    for index in range(8):
        image = np.full((6, 5), 10 * index, np.uint8)
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.fromarray(image).save(tmp_path / "images" / f"{index}.png")
    return tmp_path


def write(folder: Path, *rows: tuple) -> Path:
    with (folder / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return folder / "table.csv"


def opened(table: Path, **options) -> Dataset:
    return open_dataset(f"table:{table}", table.parent / "data", **options)


def path(index: int) -> str:
    return f"images/{index}.png"


def test_classes_splits_and_groups(folder: Path):
    splits = ["train"] * 5 + ["val", "val", "test"]
    names = ["owl", "cat", "owl", "dog", "cat", "cat", "owl", "dog"]
    groups = list("aabbcdde")
    rows = [
        (s, path(i), g, n) for i, (s, n, g) in enumerate(zip(splits, names, groups, strict=True))
    ]
    data = opened(write(folder, ("split", "path", "group", "label"), *rows[::-1]))
    assert data.info.class_names == ("cat", "dog", "owl")
    assert data.info.split_sizes == {"train": 5, "validation": 2, "test": 1}
    train = data.split("train")
    for index in range(5):
        example = train[index]
        number = example["image"][0, 0, 0] // 10
        assert names[number] == data.info.class_names[example["label"]]
        assert groups[number] == example["group"]
        assert train.path_of(index) == path(number)
    assert unlock_test(data).labels.tolist() == [1]


def test_numbers_are_columns(folder: Path):
    rows = [(path(i), i * 0.5, -i) for i in range(8)]
    table = write(folder, ("path", "half", "minus"), *rows)
    data = opened(table)
    assert data.info.value_names == ("half", "minus")
    assert data.info.class_names == ()
    source = data.split("train")
    np.testing.assert_array_equal(source.labels, [[i * 0.5, -i] for i in range(8)])
    read = source.read(np.array([6, 2]))
    assert (read["label"].tolist(), read["label"].dtype) == ([[3.0, -6.0], [1.0, -2.0]], np.float32)
    assert read["image"][:, 0, 0, 0].tolist() == [60, 20]
    np.testing.assert_array_equal(source[3]["label"], [1.5, -3.0])
    again = opened(table)
    assert again.info == data.info
    write(folder, ("path", "half", "minus"), *[(name, half, 9) for name, half, _ in rows])
    changed = opened(table)
    assert changed.info.fingerprint != data.info.fingerprint
    assert changed.split("train").labels[:, 1].tolist() == [9.0] * 8


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        ([("file", "label"), (path(0), "a")], ["file", "label"]),
        ([("path", "split"), (path(0), "train")], ["path", "split"]),
        ([("path", "path"), (path(0), path(1))], ["path", "path"]),
        ([("path", "label"), (path(0), "a"), (path(0), "b")], path(0)),
        ([("path", "label"), (path(0), "a"), (f"./{path(0)}", "b")], f"./{path(0)}"),
        ([("path", "label"), (path(9), "a")], path(9)),
        ([("path", "label"), (path(0), "")], 2),
        ([("path", "label"), ("", "a")], 2),
        ([("path", "label"), (path(0), "a", "b")], 3),
        ([("path", "x"), (path(0), "nan")], "nan"),
        ([("path", "x"), (path(0), "1,5")], "1,5"),
        ([("path", "x"), (path(0), "1e39")], "1e39"),
        ([("path", "x"), (path(0), 1600000000), (path(1), 1600000001)], (1.6e9, 1.6e9 + 1)),
        ([("path", "label"), ("images", "a")], "images"),
        ([("path", "label"), ("a" * 300, "a")], "a" * 300),
        ([("path", "x", "split"), (path(0), 1, "trian")], "trian"),
        ([("path", "x", "split"), (path(0), 1, "test")], ("test",)),
        (
            [
                ("path", "x", "split", "group"),
                (path(0), 1, "train", "a"),
                (path(1), 1, "test", "a"),
            ],
            "a",
        ),
    ],
    ids=[
        *("no path", "no target", "twice", "doubled", "doubled by another way", "no file"),
        *("empty label", "empty path", "too many fields", "nan", "a comma", "too large"),
        *("equal in float32", "a folder", "a long name", "split", "no train"),
        "a group in two splits",
    ],
)
def test_what_a_table_must_not_hold(folder: Path, rows, found):
    table = write(folder, *rows)
    with refused(DataError, where=str(table), found=found):
        opened(table)


@pytest.mark.parametrize("way", ["absolute", "up", "link", "linked folder"])
def test_a_table_names_nothing_outside_its_folder(folder: Path, tmp_path_factory, way: str):
    outside = tmp_path_factory.mktemp("outside")
    Image.new("L", (5, 6)).save(outside / "secret.png")
    (folder / "link.png").symlink_to(outside / "secret.png")
    (folder / "linked").symlink_to(outside)
    name = {
        "absolute": str(outside / "secret.png"),
        "up": f"../{outside.name}/secret.png",
        "link": "link.png",
        "linked folder": "linked/secret.png",
    }[way]
    assert (folder / name).is_file()
    table = write(folder, ("path", "label"), (path(0), "a"), (name, "b"))
    with refused(DataError, where=str(table), found=name):
        opened(table)


@pytest.mark.parametrize("name", ["images/../images/0.png", "link.png", "linked/0.png"])
def test_two_spellings_of_one_file_are_one(folder: Path, name: str):
    (folder / "link.png").symlink_to(folder / path(0))
    (folder / "linked").symlink_to(folder / "images")
    table = write(folder, ("path", "label"), (path(0), "a"), (name, "b"))
    with refused(DataError, where=str(table), found=name):
        opened(table)
    assert opened(write(folder, ("path", "label"), (name, "b"))).info.split_sizes == {"train": 1}


def test_tables_that_are_none(folder: Path):
    with refused(DataError, where=str(folder / "none.csv")):
        opened(folder / "none.csv")
    with refused(DataError, where=str(folder / "table.csv")):
        opened(write(folder, ("path", "label")))
    (folder / "table.csv").write_bytes(b"path,label\n\xff\xfe,a\n")
    with refused(DataError, where=str(folder / "table.csv")):
        opened(folder / "table.csv")
    with refused(ConfigError, found="table:"):
        open_dataset("table:", folder)


def test_bad_images_are_named_or_left_out(folder: Path):
    (folder / path(3)).write_bytes(b"no image")
    table = write(folder, ("path", "x"), *[(path(i), i) for i in range(8)])
    with refused(DataError, where=str(folder), found=[(path(3), "not a JPEG or PNG image")]):
        opened(table)
    assert opened(table, on_bad_files="skip").info.split_sizes == {"train": 7}
