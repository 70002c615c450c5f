"""The published formats: exact fakes of each, each kind of damage, and the real MNIST files."""

import dataclasses
import gzip
import hashlib
import io
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
from refusals import refused

from cnn_lab.core.errors import ConfigError, DataError
from cnn_lab.data.datasets.archives import parse_cifar, parse_idx, read_members
from cnn_lab.data.datasets.catalog import DATASETS, DatasetDescription, open_dataset, unlock_test
from cnn_lab.data.datasets.description import ArchiveMember, RemoteFile, register_dataset

SHARED = Path(__file__).parents[3] / "shared/data"
needs_mnist = pytest.mark.skipif(
    not (SHARED / "mnist").is_dir(), reason="the MNIST files are not beside this checkout"
)


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">{1 + array.ndim}I", 0x0800 + array.ndim, *array.shape) + array.tobytes()


def idx_arrays(num_train: int = 12, num_test: int = 5) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {
        f"{prefix}-{kind}": values.astype(np.uint8)
        for prefix, n in (("train", num_train), ("t10k", num_test))
        for kind, values in (
            ("images-idx3-ubyte", random.integers(0, 256, (n, 28, 28))),
            ("labels-idx1-ubyte", np.arange(n) % 10),
        )
    }


def write_idx(
    folder: Path, arrays: dict[str, np.ndarray], name: str = "fashion_mnist", packed: bool = True
) -> DatasetDescription:
    """Writes IDX files and returns a description that fits them, digests included."""
    folder.mkdir(exist_ok=True)
    files = []
    for member, array in arrays.items():
        content = idx(array)
        archive = gzip.compress(content)
        target = folder / (f"{member}.gz" if packed else member)
        target.write_bytes(archive if packed else content)
        files.append(
            RemoteFile(
                name=f"{member}.gz",
                num_bytes=len(archive),
                sha256=hashlib.sha256(archive).hexdigest(),
                urls=("http://127.0.0.1:9/",),
                members=(ArchiveMember(member, len(content)),),
            )
        )
    return dataclasses.replace(
        DATASETS[name],
        split_sizes={
            "train": len(arrays["train-labels-idx1-ubyte"]),
            "test": len(arrays["t10k-labels-idx1-ubyte"]),
        },
        files=tuple(files),
    )


def cifar_file(num_records: int, num_label_bytes: int, seed: int) -> bytes:
    random = np.random.default_rng(seed)
    records = random.integers(0, 256, (num_records, num_label_bytes + 3072), np.uint8)
    records[:, :num_label_bytes] = random.integers(0, 10, (num_records, num_label_bytes))
    return records.tobytes()


def write_cifar(path: Path, contents: dict[str, bytes], name: str) -> DatasetDescription:
    with tarfile.open(path, "w:gz") as archive:
        for member, content in contents.items():
            entry = tarfile.TarInfo(member)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
        escape = tarfile.TarInfo("../escaped.bin")
        archive.addfile(escape, io.BytesIO())
    (published,) = DATASETS[name].files
    names = [member.name for member in published.members]
    num_label_bytes = 1 if name == "cifar10" else 2
    sizes = [len(contents.get(n, b"")) // (num_label_bytes + 3072) for n in names]
    return dataclasses.replace(
        DATASETS[name],
        split_sizes={"train": sum(sizes[:-1]), "test": sizes[-1]},
        files=(
            dataclasses.replace(
                published,
                sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
                members=tuple(ArchiveMember(n, len(contents.get(n, b""))) for n in names),
            ),
        ),
    )


def test_every_description_is_consistent():
    assert [d.num_classes for d in DATASETS.values()] == [10, 10, 10, 10, 100]
    for name, description in DATASETS.items():
        assert description.name == name
        assert len(set(description.class_names)) == description.num_classes
        assert all(len(name) > 1 for name in description.class_names) or name in ("digits", "mnist")
        for file in description.files:
            assert file.sha256 is not None
            assert len(file.sha256) == 64
            assert all(url.endswith(file.name) for url in file.urls)
    assert list(DATASETS["cifar100"].class_names) == sorted(DATASETS["cifar100"].class_names)


def test_a_name_is_given_once():
    with refused(ConfigError, found="mnist"):
        register_dataset(DATASETS["mnist"])


@needs_mnist
def test_mnist_is_read_in_the_published_order():
    contents = {}
    for file in DATASETS["mnist"].files:
        contents |= read_members(file, SHARED / "mnist")
    labels = parse_idx(contents["train-labels-idx1-ubyte"], "labels", 1)
    images = parse_idx(contents["train-images-idx3-ubyte"], "images", 3)
    assert labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert images.shape == (60000, 28, 28)
    assert images.mean() / 255 == pytest.approx(0.1307, abs=5e-5)
    assert parse_idx(contents["t10k-labels-idx1-ubyte"], "x", 1)[:5].tolist() == [7, 2, 1, 0, 4]


@pytest.mark.parametrize("packed", [True, False])
def test_idx_files_round_trip(tmp_path, packed):
    arrays = idx_arrays()
    description = write_idx(tmp_path / "files", arrays, packed=packed)
    dataset = open_dataset(
        "fashion_mnist",
        tmp_path / "data",
        from_dir=tmp_path / "files",
        descriptions={"fashion_mnist": description},
    )
    images, labels = dataset.split("train").read_all()
    np.testing.assert_array_equal(images[..., 0], arrays["train-images-idx3-ubyte"])
    np.testing.assert_array_equal(labels, arrays["train-labels-idx1-ubyte"])
    np.testing.assert_array_equal(
        unlock_test(dataset).read_all()[0][..., 0], arrays["t10k-images-idx3-ubyte"]
    )
    assert open_dataset("fashion_mnist", tmp_path / "data", from_dir=tmp_path / "data") == dataset
    with refused(DataError, where="--from_dir", found=str(tmp_path / "absent")):
        open_dataset("fashion_mnist", tmp_path / "data", from_dir=tmp_path / "absent")
    assert dataset.info.class_names[9] == "Ankle boot"
    assert dataset.info.licence == "MIT"


@pytest.mark.parametrize(("name", "num_label_bytes"), [("cifar10", 1), ("cifar100", 2)])
@pytest.mark.parametrize("unpacked", [False, True])
def test_cifar_archives_round_trip(tmp_path, name, num_label_bytes, unpacked):
    (published,) = DATASETS[name].files
    contents = {
        member.name: cifar_file(4, num_label_bytes, seed)
        for seed, member in enumerate(published.members)
    }
    description = write_cifar(tmp_path / published.name, contents, name)
    if unpacked:
        (tmp_path / published.name).unlink()
        for member, content in contents.items():
            (tmp_path / Path(member).name).write_bytes(content)
    dataset = open_dataset(
        name, tmp_path / "data", from_dir=tmp_path, descriptions={name: description}
    )
    train = dataset.split("train")
    first = next(iter(contents.values()))
    # Record: label bytes, then the red, green and blue planes row by row; the fine label is last.
    red, green, blue = (
        np.frombuffer(first, np.uint8, 1024, offset=num_label_bytes + 1024 * plane).reshape(32, 32)
        for plane in range(3)
    )
    np.testing.assert_array_equal(train[0]["image"], np.stack([red, green, blue], -1))
    assert train[0]["label"] == first[num_label_bytes - 1]
    assert len(train) == 4 * (len(contents) - 1)
    last = list(contents.values())[-1]
    assert unlock_test(dataset)[0]["label"] == last[num_label_bytes - 1]
    assert not (tmp_path.parent / "escaped.bin").exists()


def test_an_archive_of_another_version_is_refused(tmp_path):
    archive = tmp_path / "cifar-10-binary.tar.gz"
    description = write_cifar(archive, {"cifar-10-batches-py/data_batch_1": b"x"}, "cifar10")
    with refused(DataError, where=str(archive), allowed=description.files[0].urls[0]):
        read_members(description.files[0], tmp_path)


def test_a_wrong_archive_digest_is_told(tmp_path):
    archive, file = tmp_path / "cifar-10-binary.tar.gz", DATASETS["cifar10"].files[0]
    archive.write_bytes(b"anything")
    found = hashlib.sha256(b"anything").hexdigest()
    with refused(DataError, where=str(archive), found=found, allowed=file.sha256):
        read_members(file, tmp_path)


def test_a_wrong_content_digest_is_told(tmp_path):
    labels = DATASETS["mnist"].files[3]
    (tmp_path / labels.name).write_bytes(gzip.compress(bytes(10008)))
    (member,), found = labels.members, hashlib.sha256(bytes(10008)).hexdigest()
    where = f"{member.name} of {tmp_path / labels.name}"
    with refused(DataError, where=where, found=found, allowed=member.sha256):
        read_members(labels, tmp_path)


def test_truncated_archives_are_told(tmp_path):
    file = DATASETS["mnist"].files[3]
    (tmp_path / file.name).write_bytes(gzip.compress(np.arange(10008, dtype="u1").tobytes())[:-60])
    with refused(DataError, where=str(tmp_path / file.name), found=None):
        read_members(file, tmp_path)
    archive = tmp_path / "cifar-10-binary.tar.gz"
    description = write_cifar(archive, {"a": cifar_file(20, 1, 0)}, "cifar10")
    archive.write_bytes(archive.read_bytes()[:5000])
    remote = dataclasses.replace(description.files[0], sha256=None)
    with refused(DataError, where=str(archive), found=None):
        read_members(remote, tmp_path)


def test_a_file_that_unpacks_to_more_than_it_should_is_refused(tmp_path):
    file = DATASETS["mnist"].files[3]
    (tmp_path / file.name).write_bytes(gzip.compress(bytes(10_000_000)))
    with refused(DataError, found=10009, allowed="10008 bytes"):
        read_members(file, tmp_path)


@needs_mnist
def test_mnist_files_are_not_taken_for_fashion_mnist(tmp_path):
    name = "t10k-labels-idx1-ubyte"
    (tmp_path / name).write_bytes(gzip.decompress((SHARED / f"mnist/{name}.gz").read_bytes()))
    with refused(DataError, where=f"{name} of {tmp_path / name}.gz", found="mnist"):
        read_members(DATASETS["fashion_mnist"].files[3], tmp_path)


def test_idx_damage_is_told():
    good = idx(np.zeros((3, 28, 28), np.uint8))
    with refused(DataError, where="labels", found="00000803", allowed="00000801"):
        parse_idx(good, "labels", 1)
    with refused(DataError, where="images", found="", allowed="00000803"):
        parse_idx(b"", "images", 3)
    with refused(DataError, where="images", found=2351):
        parse_idx(good[:-1], "images", 3)


def test_cifar_damage_is_told():
    allowed = "whole number of records of 3073"
    with refused(DataError, where="data_batch_1.bin", found=3072, allowed=allowed):
        parse_cifar(bytes(3072), "data_batch_1.bin", 1)


@pytest.mark.parametrize(
    ("change", "found", "allowed"),
    [
        ({"train-labels-idx1-ubyte": np.arange(11)}, "12 images and 11 labels", "12 of each"),
        ({"train-labels-idx1-ubyte": np.arange(12)}, "the label 11", "0 to 9"),
        (
            {"t10k-images-idx3-ubyte": np.zeros((5, 27, 28))},
            "images of shape (27, 28, 1)",
            "(28, 28, 1)",
        ),
    ],
)
def test_files_that_do_not_fit_the_description_are_refused(tmp_path, change, found, allowed):
    arrays = idx_arrays() | {name: array.astype(np.uint8) for name, array in change.items()}
    description = write_idx(tmp_path / "files", arrays)
    description = dataclasses.replace(description, split_sizes={"train": 12, "test": 5})
    with refused(DataError, found=found, allowed=allowed):
        open_dataset(
            "fashion_mnist",
            tmp_path / "data",
            from_dir=tmp_path / "files",
            descriptions={"fashion_mnist": description},
        )
    assert not list((tmp_path / "data").rglob("dataset_info.json"))
