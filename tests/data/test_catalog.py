"""Opening by name, the locked test split, TFDS directories, and preparing at the same time."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from refusals import refused

from cnn_lab.core.errors import ConfigError, DataError
from cnn_lab.data.datasets import catalog
from cnn_lab.data.datasets.catalog import default_data_dir, open_dataset, unlock_test
from cnn_lab.data.datasets.duplicates import find_duplicates

SHARED = Path(__file__).parents[3] / "shared/data"


class Foreign(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Stands for a data set that someone else prepared."""

    VERSION = tfds.core.Version("2.1.0")
    features: Any = None

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict(type(self).features)
        return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {split: self._generate_examples(split) for split in ("train", "test")}

    def _generate_examples(self, split: str):
        for i in range(4):
            example = {
                "image": Path(os.environ["FOREIGN_IMAGE"]).read_bytes(),
                "label": i % 2,
                "group": f"g{i}",
                "name": "x",
            }
            yield i, {key: example[key] for key in type(self).features}


@pytest.fixture
def prepare_foreign(tmp_path, monkeypatch):
    image = tmp_path / "image.png"
    Image.fromarray(np.arange(27, dtype=np.uint8).reshape(3, 3, 3)).save(image)
    monkeypatch.setenv("FOREIGN_IMAGE", str(image))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))

    def prepare(features: dict[str, Any], root: Path = tmp_path / "tfds") -> Path:
        monkeypatch.setattr(Foreign, "features", features)
        builder = Foreign(data_dir=root)
        builder.download_and_prepare(file_format="array_record")
        return Path(builder.data_dir)

    return prepare


TARGETS = "ClassLabel or float32 [d] feature named 'label'"
GOOD = {
    "image": tfds.features.Image(shape=(None, None, 3)),
    "label": tfds.features.ClassLabel(names=["no", "yes"]),
    "group": tfds.features.Text(),
    "name": tfds.features.Text(),
}


def test_importing_the_catalogue_is_quick_and_needs_neither_jax_nor_tensorflow():
    code = (
        "import sys, cnn_lab.data.datasets.catalog as c; print(sorted(c.DATASETS));"
        "print({'jax', 'tensorflow', 'tensorflow_datasets', 'sklearn'} & set(sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    names, loaded = out.stdout.splitlines()
    assert json.loads(names.replace("'", '"')) == [
        *("cifar10", "cifar100", "digits", "fashion_mnist", "mnist")
    ]
    assert loaded == "set()"


def test_unknown_names_get_the_nearest(tmp_path):
    with refused(ConfigError, found="mnits", nearest=("mnist",)):
        open_dataset("mnits", tmp_path)
    with pytest.raises(ConfigError, match="folder of images is written folder:PATH"):
        open_dataset("imagenet:here", tmp_path)


def test_the_data_directory_can_be_chosen(monkeypatch):
    monkeypatch.setenv("CNN_LAB_DATA_DIR", "~/pictures")
    assert default_data_dir() == Path.home() / "pictures"
    monkeypatch.delenv("CNN_LAB_DATA_DIR")
    assert default_data_dir() == Path.home() / ".cache/cnn_lab/data"


def test_test_is_locked_and_other_splits_are_known(tmp_path):
    dataset = open_dataset("digits", tmp_path)
    with refused(DataError, where="digits", found="test", allowed=None):
        dataset.split("test")
    for name in ("validation", "test[:10%]"):
        with refused(DataError, where="digits", found=name, allowed="test, train"):
            dataset.split(name)
    assert len(unlock_test(dataset)) == 360


def test_reopening_prepares_nothing(tmp_path, monkeypatch):
    first = open_dataset("digits", tmp_path)
    monkeypatch.setattr(catalog, "obtain_files", lambda *_, **__: pytest.fail("prepared again"))
    assert open_dataset("digits", tmp_path) == first


def test_preparing_can_be_refused(tmp_path):
    folder = tmp_path / "my photos/a"
    folder.mkdir(parents=True)
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(folder / "0.png")
    for name, quoted in {
        "mnist": "mnist",
        f"folder:{folder.parent}": f"'folder:{folder.parent}'",
    }.items():
        data_dir = tmp_path / "data"
        with pytest.raises(DataError) as caught:
            open_dataset(name, data_dir, prepare=False)
        assert str(caught.value) == (
            f"{name} is not prepared yet; run `cnn-lab data prepare {quoted} "
            f"--data_dir={data_dir}` first."
        )
        assert not data_dir.exists()
    prepared = open_dataset(f"folder:{folder.parent}", tmp_path / "data")
    assert open_dataset(f"folder:{folder.parent}", tmp_path / "data", prepare=False) == prepared


def test_too_little_space_is_told_before_anything_is_read(tmp_path, monkeypatch):
    path = tmp_path / "photos/a/0.png"
    path.parent.mkdir(parents=True)
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(path)
    monkeypatch.setattr(catalog, "check_files", lambda *_, **__: pytest.fail("decoded"))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=50))
    with refused(DataError, found=50):
        open_dataset(f"folder:{tmp_path / 'photos'}", tmp_path / "data")


@pytest.mark.skipif(
    not (SHARED / "mnist").is_dir(), reason="the MNIST files are not beside this checkout"
)
def test_mnist_from_its_files(tmp_path):
    lines = []
    dataset = open_dataset("mnist", tmp_path, from_dir=SHARED / "mnist", progress=lines.append)
    assert lines[0].startswith("preparing mnist in ")
    source = dataset.split("train")
    images, labels = source.read_all()
    assert images.shape == (60000, 28, 28, 1)
    assert labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert (images.mean() / 255, images.std() / 255) == pytest.approx((0.1307, 0.3081), abs=5e-5)
    start = time.perf_counter()
    again = source.read_all()
    assert time.perf_counter() - start < 0.5  # some 10 ms; decoding anew takes over a second
    np.testing.assert_array_equal(again[1], source.labels)
    test = unlock_test(dataset)
    assert test.labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert find_duplicates({"train": source, "test": test}) == []


def prepare_digits(directory: str, barrier: Any) -> tuple[int, list[str]]:
    lines = []
    barrier.wait()
    dataset = open_dataset("digits", directory, progress=lines.append)
    return len(dataset.split("train")), [line.split(" in ")[0] for line in lines]


def test_two_processes_may_prepare_at_once(tmp_path):
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, context.Pool(2) as pool:
        barrier = manager.Barrier(2)
        outcomes = pool.starmap(prepare_digits, [(str(tmp_path), barrier)] * 2, chunksize=1)
    assert [length for length, _ in outcomes] == [1437, 1437]
    lines = [line for _, told in outcomes for line in told]
    assert lines.count("preparing digits") == 1  # the other one waited, or came too late to
    assert [path.name for path in (tmp_path / "digits").glob("[!.]*")] == ["1.0.0"]


def test_a_killed_preparation_leaves_nothing_that_looks_prepared(tmp_path):
    code = f"""
import os, signal
from cnn_lab.data.datasets import builders
from cnn_lab.data.datasets.catalog import open_dataset
real = builders.ArraysBuilder._generate_examples
def killed(self, split, images, labels):
    for index, example in enumerate(real(self, split, images, labels)):
        if split == "test" and index == 100:
            os.kill(os.getpid(), signal.SIGKILL)
        yield example
builders.ArraysBuilder._generate_examples = killed
open_dataset("digits", {str(tmp_path)!r})
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert run.returncode == -signal.SIGKILL
    left = [path.name for path in (tmp_path / "digits").iterdir()]
    assert any("preparing" in name for name in left)
    assert "1.0.0" not in left
    assert len(open_dataset("digits", tmp_path).split("train")) == 1437
    assert not list((tmp_path / "digits").glob("*preparing*"))


def test_something_in_the_way_is_told(tmp_path):
    (tmp_path / "digits/1.0.0").mkdir(parents=True)
    (tmp_path / "digits/1.0.0/notes.txt").touch()
    with refused(DataError, where=str(tmp_path / "digits/1.0.0")):
        open_dataset("digits", tmp_path)
    (tmp_path / "file").touch()
    with refused(DataError, where=str(tmp_path / "file/digits/1.0.0")):
        open_dataset("digits", tmp_path / "file")


def test_a_tfds_directory_is_opened_by_path_and_by_name(tmp_path, prepare_foreign):
    directory = prepare_foreign(GOOD)
    dataset = open_dataset(f"tfds:{directory}", tmp_path / "data")
    assert dataset.info.class_names == ("no", "yes")
    assert dataset.info.image_shape == (None, None, 3)
    assert dataset.info.split_sizes == {"train": 4, "test": 4}
    source = dataset.split("train")
    assert source[3]["group"] == "g3"
    assert source.groups is not None
    assert source.groups.tolist() == ["g0", "g1", "g2", "g3"]
    assert source.labels.tolist() == [0, 1, 0, 1]
    np.testing.assert_array_equal(source[0]["image"].ravel(), np.arange(27))

    by_name = open_dataset("tfds:foreign", tmp_path / "tfds")
    assert by_name.info.fingerprint == dataset.info.fingerprint
    assert open_dataset("tfds:foreign:2.1.0", tmp_path / "tfds").storage == by_name.storage
    with refused(DataError, found="tfds:foreign:9.9.9"):
        open_dataset("tfds:foreign:9.9.9", tmp_path / "tfds")
    prepare_foreign(GOOD, tmp_path / "home/tensorflow_datasets")
    assert open_dataset("tfds:foreign", tmp_path / "data").info.split_sizes["train"] == 4
    with refused(DataError, where=str(directory.parent / "dataset_info.json")):
        open_dataset(f"tfds:{directory.parent}", tmp_path)


def test_a_configuration_must_be_chosen_if_there_are_several(tmp_path, prepare_foreign):
    version = prepare_foreign(GOOD)
    for name in ("small", "large"):
        (version.parent / name).mkdir()
    version.rename(version.parent / "small/2.1.0")
    assert open_dataset("tfds:foreign", tmp_path / "tfds").info.num_classes == 2
    (version.parent / "large/2.1.0").mkdir()
    (version.parent / "large/2.1.0/dataset_info.json").touch()
    with refused(DataError, found="tfds:foreign", allowed="large, small"):
        open_dataset("tfds:foreign", tmp_path / "tfds")
    chosen = open_dataset("tfds:foreign/small", tmp_path / "tfds")
    assert chosen.storage.name.endswith("small/2.1.0")


@pytest.mark.parametrize(
    ("changes", "allowed"),
    [
        ({"label": None}, TARGETS),
        ({"image": None}, "8-bit gray or RGB feature named 'image'"),
        ({"image": tfds.features.Text()}, "8-bit gray or RGB feature named 'image'"),
        ({"label": tfds.features.Scalar(np.int64)}, TARGETS),
    ],
)
def test_unfit_features_are_refused(tmp_path, prepare_foreign, changes, allowed):
    features = {k: v for k, v in (GOOD | changes).items() if v is not None}
    directory = prepare_foreign(features)
    found = ", ".join(f"{name} ({type(features[name]).__name__})" for name in sorted(features))
    with refused(DataError, where=str(directory), found=found, allowed=allowed):
        open_dataset(f"tfds:{directory}", tmp_path)


def test_other_formats_and_damage_are_told(tmp_path, prepare_foreign):
    directory = prepare_foreign(GOOD)
    file = directory / "dataset_info.json"
    content = file.read_text()
    file.write_text(content.replace("array_record", "tfrecord"))
    where = str(directory)
    with refused(DataError, where=where, found="tfrecord", allowed="array_record"):
        open_dataset(f"tfds:{directory}", tmp_path)
    file.write_text(content[:50])
    with refused(DataError, where=str(file)):
        open_dataset(f"tfds:{directory}", tmp_path)
    file.write_text(content)
    (shard,) = directory.glob("*train*")
    before = open_dataset(f"tfds:{directory}", tmp_path).info.fingerprint
    changed = bytearray(shard.read_bytes())
    changed[-1] ^= 1
    shard.write_bytes(changed)
    assert open_dataset(f"tfds:{directory}", tmp_path).info.fingerprint != before
    shard.unlink()
    with refused(DataError, where=str(shard)):
        open_dataset(f"tfds:{directory}", tmp_path)
