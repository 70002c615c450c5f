"""Folders of images: each layout, each mistake, each kind of image."""

import errno
import io
import logging
import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image, UnidentifiedImageError
from refusals import refused

from cnn_lab.core.errors import DataError, explain_system_error
from cnn_lab.data import parallel
from cnn_lab.data.datasets import catalog, check_images
from cnn_lab.data.datasets.builders import FileImages
from cnn_lab.data.datasets.catalog import open_dataset, unlock_test
from cnn_lab.data.decoding import open_image

SHARED = Path(__file__).parents[3] / "shared/data"
ORIENTATION = 0x0112


def save(path: Path, array: np.ndarray, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return path


def colour(value: int, shape: tuple[int, int] = (6, 8)) -> np.ndarray:
    return np.full((*shape, 3), (value, 100, 200), np.uint8)


@pytest.fixture
def flat(tmp_path) -> Path:
    """Two classes, three images each, all of one size."""
    root = tmp_path / "animals"
    for name in ("cat", "dog"):
        for i in range(3):
            save(root / name / f"{i}.png", colour(40 * i))
    return root


@pytest.fixture
def open_folder(tmp_path):
    return lambda root, **options: open_dataset(f"folder:{root}", tmp_path / "data", **options)


def test_one_folder_is_all_train(flat, open_folder):
    (flat / ".DS_Store").touch()
    (flat / "cat" / "Thumbs.db").touch()
    (flat / "README.txt").write_text("about the animals")
    dataset = open_folder(flat)
    info = dataset.info
    assert info.name == "folder:animals"
    assert info.class_names == ("cat", "dog")
    assert info.image_shape == (6, 8, 3)
    assert info.split_sizes == {"train": 6}
    images, labels = dataset.split("train").read_all()
    np.testing.assert_array_equal(images[1], colour(40))
    assert labels.tolist() == [0, 0, 0, 1, 1, 1]
    with refused(DataError, where="folder:animals", found="test", allowed="train"):
        unlock_test(dataset)


@pytest.mark.parametrize("validation", ["val", "validation"])
def test_split_folders_and_natural_order(tmp_path, open_folder, validation):
    root = tmp_path / "plants"
    for split in ("train", validation, "test"):
        for name in ("class10", "class2", "a"):
            save(root / split / name / "0.JPG", colour(9), format="JPEG")
    dataset = open_folder(root)
    assert dataset.info.class_names == ("a", "class2", "class10")
    assert dataset.info.split_sizes == {"train": 3, "validation": 3, "test": 3}
    assert len(dataset.split("validation")) == len(unlock_test(dataset)) == 3
    with refused(DataError, where=dataset.info.name, found="test", allowed=None):
        dataset.split("test")


def test_original_bytes_are_kept(tmp_path, open_folder):
    noise = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    path = save(tmp_path / "one/a/x.jpg", noise, quality=60)
    dataset = open_folder(tmp_path / "one")
    np.testing.assert_array_equal(
        dataset.split("train")[0]["image"], np.asarray(Image.open(path).convert("RGB"))
    )
    raw: Any = tfds.builder_from_directory(dataset.storage.name)
    source = raw.as_data_source("train", decoders={"image": tfds.decode.SkipDecoding()})
    assert source[0]["image"] == path.read_bytes()
    assert source[0]["path"] == b"a/x.jpg"


def test_sizes_that_differ_need_a_size(flat, open_folder):
    save(flat / "dog" / "tall.png", colour(7, (12, 4)))
    source = open_folder(flat).split("train")
    assert source.info.image_shape == (None, None, 3)
    assert source[6]["image"].shape == (12, 4, 3)
    with refused(DataError, where="config.data.image_size"):
        source.read(np.arange(2))
    images, _ = source.with_image_size((5, 5)).read_all()
    assert images.shape == (7, 5, 5, 3)
    np.testing.assert_array_equal(images[6], colour(7, (5, 5)))


def test_every_kind_of_image_becomes_rgb_or_gray(tmp_path, open_folder):
    root = tmp_path / "kinds" / "a"
    deep = np.array([[0, 257, 65535]], np.uint16)
    save(root / "0_deep.png", deep)
    save(root / "1_gray.png", np.array([[0, 1, 255]], np.uint8))
    save(root / "2_bits.png", np.array([[False, True, True]]))
    source = open_folder(tmp_path / "kinds").split("train")
    assert source.info.image_shape == (1, 3, 1)
    assert source[0]["image"].ravel().tolist() == [0, 1, 255]
    assert source[2]["image"].ravel().tolist() == [0, 255, 255]

    rgba = np.zeros((1, 3, 4), np.uint8)
    rgba[0, 1] = (10, 20, 30, 255)
    save(root / "3_alpha.png", rgba)
    Image.fromarray(colour(50, (1, 3))).quantize(4).save(root / "4_palette.png")
    Image.fromarray(np.full((1, 3), 80, np.uint8)).convert("CMYK").save(root / "5_cmyk.jpg")
    source = open_folder(tmp_path / "kinds").split("train")
    assert source.info.image_shape == (1, 3, 3)
    images = source.read(np.arange(6))["image"]
    assert images[0, 0].tolist() == [[0] * 3, [1] * 3, [255] * 3]
    assert images[3, 0].tolist() == [[255] * 3, [10, 20, 30], [255] * 3]
    assert images[4, 0, 0].tolist() == [50, 100, 200]
    np.testing.assert_allclose(images[5].astype(int), 80, atol=3)


def test_stereo_photographs_count_as_jpeg(tmp_path, open_folder):
    path = tmp_path / "stereo/a/x.jpg"
    path.parent.mkdir(parents=True)
    left, right = (Image.fromarray(colour(value)) for value in (30, 200))
    left.save(path, format="MPO", save_all=True, append_images=[right])
    source = open_folder(tmp_path / "stereo").split("train")
    np.testing.assert_allclose(source[0]["image"][0, 0].astype(int), [30, 100, 200], atol=3)


def test_the_camera_orientation_is_applied(tmp_path, open_folder):
    upright = np.zeros((4, 2, 3), np.uint8)
    upright[:2] = 255
    exif = Image.Exif()
    exif[ORIENTATION] = 6  # stored lying on its left side: turn by 90 degrees clockwise to view
    stored = np.rot90(upright, 1)
    save(tmp_path / "turned/a/x.png", np.ascontiguousarray(stored), exif=exif)
    source = open_folder(tmp_path / "turned").split("train")
    assert source.info.image_shape == (4, 2, 3)
    np.testing.assert_array_equal(source[0]["image"], upright)


@pytest.mark.parametrize("linked", ["train", "train/cat"])
def test_folders_that_lead_out_are_refused_alike(flat, open_folder, tmp_path, linked):
    root = tmp_path / "photos"
    place = root / linked
    place.parent.mkdir(parents=True)
    place.symlink_to(flat if linked == "train" else flat / "cat")
    reason = "a link that leads out of the folder"
    classes = ("cat", "dog") if linked == "train" else ("cat",)
    bad = [(f"train/{name}/{i}.png", reason) for name in classes for i in range(3)]
    with refused(DataError, where=str(root), found=bad):
        open_folder(root)


def test_a_split_that_links_inside_the_folder_is_read(flat, open_folder, tmp_path):
    (tmp_path / "photos").mkdir()
    flat.rename(tmp_path / "photos" / ".all")
    (tmp_path / "photos" / "train").symlink_to(".all")
    assert open_folder(tmp_path / "photos").info.split_sizes == {"train": 6}


def test_bad_files_are_all_found_before_training(flat, open_folder, tmp_path, monkeypatch, caplog):
    whole = save(
        tmp_path / "whole.jpg", np.random.default_rng(0).integers(0, 256, (64, 64, 3), "u1")
    )
    cat = flat / "cat"
    (cat / "a_cut.jpg").write_bytes(whole.read_bytes()[:-500])
    (cat / "b_text.png").write_text("not a picture")
    (cat / "c_none.jpg").touch()
    (cat / "d_notes.txt").write_text("notes")
    (cat / "e_link.png").symlink_to(whole)
    (cat / "f_broken.png").symlink_to(cat / "nowhere.png")
    Image.fromarray(colour(1)).save(cat / "g_gif.png", format="GIF")
    save(cat / "h_huge.png", np.zeros((80, 80), np.uint8))
    (cat / "i_inside.png").symlink_to(flat / "dog" / "1.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5000)
    with pytest.raises(DataError) as caught:
        open_folder(flat)
    text, reasons = str(caught.value), dict(caught.value.found)
    assert text.startswith(f"8 of 15 files in {flat} cannot be used: ")
    for name, reason in {
        "a_cut.jpg": "image file is truncated",
        "b_text.png": "not a JPEG or PNG image",
        "c_none.jpg": "an empty file",
        "d_notes.txt": "not named .jpg, .jpeg or .png",
        "e_link.png": "a link that leads out of the folder",
        "f_broken.png": "a link that leads nowhere",
        "g_gif.png": "not a JPEG or PNG image",
        "h_huge.png": "80x80 pixels, more than the 5000 allowed",
    }.items():
        assert reasons.pop(f"cat/{name}").startswith(reason)
    assert not reasons
    assert f"`cnn-lab data prepare folder:{flat} --skip_bad_files`" in text
    assert not list((tmp_path / "data").rglob("dataset_info.json"))

    with caplog.at_level(logging.WARNING, logger="absl"):
        dataset = open_folder(flat, on_bad_files="skip")
    assert "Left out 8 bad files" in caplog.text
    assert dataset.info.split_sizes == {"train": 7}
    np.testing.assert_array_equal(dataset.split("train")[3]["image"], colour(40))
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="absl"):
        assert open_folder(flat).info == dataset.info  # no need to say skip again
    assert "was prepared without 8 bad files" in caplog.text


@pytest.mark.parametrize("failure", [OSError(errno.EMFILE, "Too many open files"), MemoryError()])
def test_what_the_computer_refuses_makes_no_file_bad(flat, open_folder, monkeypatch, failure):
    opened = check_images.open_file

    def open_file(file):
        if file.name.endswith("dog/1.png"):
            raise failure
        return opened(file)

    monkeypatch.setattr(check_images, "open_file", open_file)
    with pytest.raises(type(failure)) as caught:
        open_folder(flat, on_bad_files="skip")
    assert explain_system_error(caught.value) is not None  # what the command line says then
    monkeypatch.undo()
    assert open_folder(flat).info.split_sizes == {"train": 6}


def test_what_happens_is_told(flat, open_folder, tmp_path):
    lines = []
    directory = open_folder(flat, progress=lines.append).storage.name
    assert lines == [f"checking 6 files of {flat}", f"preparing {flat} in {directory}"]
    lines.clear()
    open_folder(flat, progress=lines.append)
    assert lines == []


def test_many_files_tell_now_and_then(flat, open_folder, monkeypatch):
    monkeypatch.setattr(parallel, "_FIRST_PAUSE_SECONDS", 0)
    lines = []
    open_folder(flat, progress=lines.append)
    assert f"found 3 files in {flat} so far" in lines
    assert "checked 6 of 6 files, 0 bad" in lines
    assert "stored 6 of 6 files" in lines


def test_a_large_folder_is_written_in_pieces_and_in_order(flat, open_folder, monkeypatch):
    """TFDS's own writer sorts all in memory, and past a gigabyte needs TensorFlow."""
    monkeypatch.setattr(FileImages, "shard_bytes", 150)
    monkeypatch.setattr("tensorflow_datasets.core.shuffle.MAX_MEM_BUFFER_SIZE", 100)
    dataset = open_folder(flat)
    assert len(list(Path(dataset.storage.name).glob("*train.array_record*"))) > 2
    source = dataset.split("train")
    assert source.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert [source.path_of(i) for i in range(6)] == [
        f"{c}/{i}.png" for c in ("cat", "dog") for i in range(3)
    ]
    for i in range(6):
        np.testing.assert_array_equal(source[i]["image"], colour(40 * (i % 3)))


def test_pieces_do_not_change_the_fingerprint(flat, open_folder, tmp_path, monkeypatch):
    whole = open_folder(flat).info
    monkeypatch.setattr(FileImages, "shard_bytes", 1)
    assert open_dataset(f"folder:{flat}", tmp_path / "elsewhere").info == whole


def test_a_name_need_not_be_text(flat, open_folder):
    name = os.fsencode(flat) + b"/cat/caf\xe9.png"
    Path(os.fsdecode(name)).write_bytes((flat / "cat/0.png").read_bytes())
    source = open_folder(flat).split("train")
    assert source.path_of(3) == "cat/caf\N{REPLACEMENT CHARACTER}.png"


def test_a_bomb_is_refused_without_being_decoded(flat, open_folder, tmp_path, monkeypatch):
    for name, side in (("cat/small.png", 80), ("dog/large.png", 300)):
        save(flat / name, np.zeros((side, side), np.uint8))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5000)
    bad = [
        ("cat/small.png", "80x80 pixels, more than the 5000 allowed"),
        ("dog/large.png", "more than the 5000 pixels allowed"),
    ]
    with refused(DataError, where=str(flat), found=bad):
        open_folder(flat)
    with refused(DataError, allowed="at most 5000 pixels"):
        open_image((flat / "dog/large.png").read_bytes())


def test_no_other_format_is_opened(tmp_path):
    for kind in ("GIF", "BMP", "TIFF", "WEBP"):
        content = io.BytesIO()
        Image.fromarray(colour(1)).save(content, format=kind)
        with pytest.raises(UnidentifiedImageError):
            open_image(content.getvalue())


def test_only_ten_bad_files_are_listed(flat, open_folder):
    for i in range(13):
        (flat / "cat" / f"bad{i}.png").write_text("x")
    with pytest.raises(DataError, match=r"13 of 19 files .*bad6\.png \([^)]*\) and 3 more; repair"):
        open_folder(flat)


def test_a_class_without_a_usable_image_is_named(flat, open_folder):
    for path in (flat / "cat").iterdir():
        path.write_text("x")
    with refused(DataError, where=str(flat), found="cat"):
        open_folder(flat, on_bad_files="skip")


def mistake_absent(root: Path) -> None:
    root.rename(root.with_name("elsewhere"))


def mistake_nested(root: Path) -> None:
    (root / "cat" / "kittens").mkdir()


def mistake_empty(root: Path) -> None:
    (root / "bird").mkdir()


def mistake_archive(root: Path) -> None:
    (root / "more.tar.gz").touch()


def mistake_archive_in_class(root: Path) -> None:
    (root / "cat" / "more.zip").touch()


def mistake_loose(root: Path) -> None:
    save(root / "loose.png", colour(1))


def mistake_mixed(root: Path) -> None:
    (root / "train").mkdir()


def mistake_no_train(root: Path) -> None:
    (root / "cat").rename(root / "test")
    (root / "dog").rename(root / "val")


def mistake_two_validations(root: Path) -> None:
    (root / "cat").rename(root / "train")
    (root / "dog").rename(root / "val")
    (root / "validation").mkdir()


def mistake_differing(root: Path) -> None:
    for split, name in (("train", "cat"), ("test", "cat"), ("test", "cow")):
        save(root / split / name / "0.png", colour(1))
    for name in ("cat", "dog"):
        (root / name).rename(root.with_name(name))


def mistake_no_classes(root: Path) -> None:
    for name in ("cat", "dog"):
        (root / name).rename(root.with_name(name))


@pytest.mark.parametrize(
    ("mistake", "place", "found"),
    [
        (mistake_absent, "", None),
        (mistake_nested, "cat", "kittens"),
        (mistake_empty, "bird", None),
        (mistake_archive, "more.tar.gz", None),
        (mistake_archive_in_class, "cat/more.zip", None),
        (mistake_loose, "loose.png", None),
        (mistake_mixed, "", ["cat", "dog", "train"]),
        (mistake_no_train, "", ["test", "val"]),
        (mistake_two_validations, "", ["train", "val", "validation"]),
        (mistake_differing, "test", ["cow"]),
        (mistake_no_classes, "", None),
    ],
)
def test_wrong_layouts_are_refused(flat, open_folder, mistake, place, found):
    mistake(flat)
    with refused(DataError, where=str(flat / place), found=found):
        open_folder(flat)


def test_an_archive_for_a_folder_is_refused(tmp_path, open_folder):
    (tmp_path / "images.zip").touch()
    with refused(DataError, where=str(tmp_path / "images.zip")):
        open_folder(tmp_path / "images.zip")


def test_groups_are_read_and_checked(flat, open_folder):
    lines = [f"{name}/{i}.png,person{i}" for name in ("cat", "dog") for i in range(3)]
    (flat / "groups.csv").write_text("\n".join(["path,group", *lines]))
    source = open_folder(flat).split("train")
    assert source.groups is not None
    assert source.groups.tolist() == ["person0", "person1", "person2"] * 2
    assert source[4]["group"] == "person1"

    where = str(flat / "groups.csv")
    (flat / "groups.csv").write_text("\n".join(lines[1:]))
    with refused(DataError, where=where, allowed="a group of every image"):
        open_folder(flat)
    (flat / "groups.csv").write_text("\n".join([*lines, "cow/1.png,x"]))
    with refused(DataError, where=where, found="cow/1.png"):
        open_folder(flat)
    (flat / "groups.csv").write_text("cat/0.png")
    with refused(DataError, where=where, found="cat/0.png", allowed="`relative/path,group`"):
        open_folder(flat)


def test_a_group_in_two_splits_is_refused(tmp_path, open_folder):
    root = tmp_path / "both"
    for split in ("train", "test"):
        save(root / split / "a" / "0.png", colour(1))
    (root / "groups.csv").write_text("train/a/0.png,anna\ntest/a/0.png,anna\n")
    with refused(DataError, where=str(root / "groups.csv"), found="anna"):
        open_folder(root)


def test_a_change_prepares_again_and_old_copies_go(
    flat, open_folder, tmp_path, caplog, monkeypatch
):
    first = open_folder(flat)
    with monkeypatch.context() as patch:  # an unchanged folder is not decoded again
        patch.setattr(catalog, "check_files", lambda *_, **__: pytest.fail("decoded again"))
        assert open_folder(flat).info == first.info
    save(flat / "cat" / "9.png", colour(250))
    with caplog.at_level(logging.INFO, logger="absl"):
        second = open_folder(flat)
    assert "has changed since it was prepared; preparing it again" in caplog.text
    assert second.info.split_sizes == {"train": 7}
    assert second.info.fingerprint != first.info.fingerprint
    assert len(first.split("train").read_all()[1]) == 6  # a training on the old copy goes on
    os.utime(flat / "cat" / "9.png", (1, 1))
    third = open_folder(flat)
    assert third.info.fingerprint == second.info.fingerprint  # touched, but the same pictures
    copies = [path.parent.name for path in (tmp_path / "data").rglob("dataset_info.json")]
    assert len(copies) == 2
    assert Path(first.storage.name).name not in copies


def test_the_copy_outlives_the_folder(flat, open_folder):
    info = open_folder(flat).info
    flat.rename(flat.with_name("moved"))
    assert open_folder(flat).info == info


@pytest.mark.skipif(
    not (SHARED / "cifar10-jpeg.tar.xz").is_file(),
    reason="the JPEG files are not beside this checkout",
)
def test_real_jpeg_files(tmp_path, open_folder):
    root = tmp_path / "cifar"
    wanted = 0
    with tarfile.open(SHARED / "cifar10-jpeg.tar.xz", "r|xz") as archive:
        for member in archive:
            parts = Path(member.name).parts[-3:]
            if len(parts) == 3 and parts[2] < "0010.jpg" and member.isreg():
                file = archive.extractfile(member)
                assert file is not None
                target = root.joinpath(*parts)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(file.read())
                wanted += 1
            if wanted == 100:  # the first split in the archive will do
                break
    (split,) = [path.name for path in root.iterdir()]
    dataset = open_folder(root / split)
    assert dataset.info.image_shape == (32, 32, 3)
    assert dataset.info.num_classes == 10
    images, labels = dataset.split("train").read_all()
    assert np.bincount(labels).tolist() == [10] * 10
    name = dataset.info.class_names[3]
    stored = Image.open(io.BytesIO((root / split / name / "0004.jpg").read_bytes()))
    np.testing.assert_array_equal(images[34], np.asarray(stored))
    assert 0.3 < images.mean() / 255 < 0.7
