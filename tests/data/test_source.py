"""Sources and their cache, on the digits and on a small folder of photographs."""

import errno
import multiprocessing
import pickle
from pathlib import Path

import jax
import numpy as np
import PIL
import pytest
from PIL import Image
from refusals import refused

from cnn_lab.core.errors import DataError
from cnn_lab.data import decoding
from cnn_lab.data import source as source_module
from cnn_lab.data.datasets.catalog import Dataset, open_dataset, unlock_test
from cnn_lab.data.source import Source


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def digits(data_dir) -> Dataset:
    return open_dataset("digits", data_dir)


@pytest.fixture(scope="module")
def photographs(data_dir) -> Source:
    random = np.random.default_rng(0)
    for i in range(12):
        path = data_dir / "photographs" / f"class{i % 3}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (20, 30, 3), np.uint8)).save(path)
    return open_dataset(f"folder:{data_dir / 'photographs'}", data_dir).split("train")


def first_label(source: Source) -> tuple[int, int]:
    return int(source[0]["label"]), source.read(np.arange(3))["image"].shape[0]


def test_an_example_has_the_promised_types(digits):
    example = digits.split("train")[5]
    assert example.keys() == {"image", "label"}
    assert example["image"].dtype == np.uint8
    assert example["image"].shape == (8, 8, 1)
    assert type(example["label"]) is np.int32


def test_digits_are_split_once_and_for_all(digits):
    train, test = digits.split("train"), unlock_test(digits)
    assert (len(train), len(test)) == (1437, 360)
    assert np.bincount(test.labels).tolist() == [36, 37, 35, 37, 36, 36, 36, 36, 35, 36]
    images = np.concatenate([train.read_all()[0], test.read_all()[0]])
    assert set(np.unique(images)) == {round(x * 255 / 16) for x in range(17)}
    assert digits.info.fingerprint.startswith("6c9c873151219ade")


def test_indices_outside_are_refused(digits):
    source = digits.split("train")
    for index in (-1, 1437):
        with pytest.raises(IndexError, match=f"Index {index} is outside split 'train' of 1437"):
            source[index]
    with pytest.raises(IndexError, match=r"Indices 0\.\.1437 reach outside split 'train' of 1437"):
        source.read(np.array([0, 1437]))
    assert source.read(np.array([], np.int64))["image"].shape == (0, 8, 8, 1)


def test_gather_keeps_the_order_asked_for(digits, photographs):
    for source in (digits.split("train"), photographs):
        indices = np.array([7, 0, 7, 11])
        batch = source.read(indices)
        for row, index in enumerate(indices):
            np.testing.assert_array_equal(batch["image"][row], source[index]["image"])
            assert batch["label"][row] == source[index]["label"] == source.labels[index]
        assert batch["label"].dtype == np.int32


def test_sources_travel_to_other_processes(digits, photographs):
    for source in (digits.split("train"), photographs):
        here = first_label(source)
        assert len(pickle.dumps(source)) < 2000  # neither files nor arrays travel along
        assert first_label(pickle.loads(pickle.dumps(source))) == here
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(first_label, (photographs,)) == first_label(photographs)


def test_resizing_fits_the_shorter_side_and_takes_the_centre(photographs):
    source = photographs.with_image_size((10, 11))
    assert source.info.image_shape == (10, 11, 3)
    assert source.info.fingerprint == photographs.info.fingerprint
    whole = Image.fromarray(photographs[4]["image"])
    expected = whole.resize((15, 10), Image.Resampling.BILINEAR).crop((2, 0, 13, 10))
    np.testing.assert_allclose(source[4]["image"].astype(int), np.asarray(expected), atol=1)
    assert source.with_image_size((7, 31))[0]["image"].shape == (7, 31, 3)
    with refused(DataError, where="The image size", found=(0, 5)):
        source.with_image_size((0, 5))


def test_channels_are_converted(digits, photographs):
    gray = photographs.with_channels(1)
    luminance = np.asarray(Image.fromarray(photographs[0]["image"]).convert("L"))
    np.testing.assert_array_equal(gray[0]["image"][..., 0], luminance)
    colour = digits.split("train").with_channels(3).with_image_size((16, 16))
    assert colour.info.image_shape == (16, 16, 3)
    image = colour[0]["image"]
    np.testing.assert_array_equal(image[..., 0], image[..., 2])
    with refused(DataError, found=4, allowed="1 or 3"):
        gray.with_channels(4)


def again(source: Source) -> Source:
    """The source as another process would open it."""
    return pickle.loads(pickle.dumps(source))


def refuse(*args, **kwargs):
    raise PermissionError("read-only file system")


def cache_files(source: Source) -> list[Path]:
    return sorted((Path(source.storage.name) / "cache").rglob("images-*.npy"))


def test_read_all_is_cached_and_a_damaged_cache_is_rebuilt(photographs):
    source = photographs.with_image_size((9, 9))
    images, labels = source.read_all()
    np.testing.assert_array_equal(images, source.read(np.arange(12))["image"])
    np.testing.assert_array_equal(labels, source.labels)
    (file,) = [path for path in cache_files(source) if "9x9x3" in path.parent.name]
    major = PIL.__version__.split(".")[0]
    place = f"{source.info.fingerprint[:16]}-decoder{decoding.DECODER_VERSION}-pillow{major}-9x9x3"
    assert file.parent.name == place
    good = file.read_bytes()
    flipped = bytearray(good)
    flipped[-5] ^= 1
    pickled = pickle.dumps(images)
    for damage in (good[: len(good) // 2], b"", bytes(flipped), pickled):
        file.unlink()
        file.write_bytes(damage)
        np.testing.assert_array_equal(again(source).read_all()[0], images)
        assert file.read_bytes() == good
    with pytest.raises(ValueError, match="read-only"):
        source.read_all()[0][0] = 0


def test_another_decoder_decodes_again_and_replaces_what_was_kept(tmp_path, monkeypatch):
    source = open_dataset("digits", tmp_path).split("train").with_image_size((4, 4))
    other_size = source.with_image_size((6, 4))
    old, _ = source.read_all()
    other_size.read_all()
    cache = Path(source.pixel_cache or "").parent
    fingerprint = source.info.fingerprint[:16]
    for name in (f"{fingerprint}-4x4x1", f"{'0' * 16}-4x4x1", f"{'0' * 16}-columns", "of-others"):
        (cache / name).mkdir(exist_ok=True)
    (cache / f"{fingerprint}-columns").mkdir(exist_ok=True)
    monkeypatch.setattr(source_module, "DECODER", "decoder2-pillow99")
    monkeypatch.setattr(source_module, "decode", lambda _, shape: np.full(shape, 7, np.uint8))
    new, _ = again(source).read_all()
    assert (new == 7).all()
    assert old.any()  # a run that reads the old cache goes on
    again(other_size).read_all()  # sizes live side by side
    assert {path.name for path in cache.iterdir()} == {
        "of-others",
        f"{fingerprint}-columns",
        f"{fingerprint}-decoder2-pillow99-4x4x1",
        f"{fingerprint}-decoder2-pillow99-6x4x1",
    }


def test_the_cache_is_what_is_read(photographs, monkeypatch):
    expected = photographs.read_all()[0]
    monkeypatch.setattr(Source, "read", lambda *_: pytest.fail("decoded again"))
    np.testing.assert_array_equal(again(photographs).read_all()[0], expected)


@pytest.mark.parametrize("writable", [True, False])
def test_devices_share_what_was_read_first(photographs, monkeypatch, writable):
    """Else every virtual CPU device would copy the data set in the first run."""
    source = photographs.with_image_size((8 + writable, 8))
    if not writable:
        monkeypatch.setattr(Path, "mkdir", refuse)
    images, _ = source.read_all()
    assert isinstance(images.base, np.memmap) or not writable
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    placed = jax.device_put(images, sharding)
    addresses = {shard.data.unsafe_buffer_pointer() for shard in placed.addressable_shards}
    assert len(placed.addressable_shards) > 1
    assert addresses == {images.ctypes.data}


def test_a_split_is_never_held_twice(photographs, monkeypatch):
    held = []
    read = Source.read

    def small(self, indices):
        held.append(len(indices))
        return read(self, indices)

    monkeypatch.setattr(source_module, "_READ_BYTES", 3 * 7 * 7 * 3)
    monkeypatch.setattr(Source, "read", small)
    source = photographs.with_image_size((7, 7))
    images, labels = source.read_all()
    assert held == [3] * 4
    assert images.shape == (12, 7, 7, 3)
    assert not labels.flags.writeable


def test_the_file_of_an_example_is_known(digits, photographs):
    assert photographs.path_of(4) == "class1/1.png"
    assert digits.split("train").path_of(4) is None


def test_without_a_writable_place_nothing_is_cached(photographs, monkeypatch):
    source = photographs.with_image_size((3, 3))
    before = cache_files(source)
    monkeypatch.setattr(Path, "mkdir", refuse)
    images, _ = source.read_all()
    np.testing.assert_array_equal(images, source.read(np.arange(12))["image"])
    monkeypatch.setattr(Source, "read", lambda *_: pytest.fail("decoded again"))
    assert source.read_all()[0] is images
    with pytest.raises(ValueError, match="read-only"):
        images[0] = 0
    assert cache_files(source) == before


def test_a_full_disk_leaves_no_piece_of_a_cache(photographs, monkeypatch):
    source = photographs.with_image_size((5, 6))
    write = np.lib.format.write_array_header_1_0

    def full(file, header):
        write(file, header)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np.lib.format, "write_array_header_1_0", full)
    np.testing.assert_array_equal(source.read_all()[0], source.read(np.arange(12))["image"])
    assert list(source.pixel_cache.iterdir()) == []


def test_labels_are_read_even_if_their_copy_is_lost(digits):
    source = digits.split("train")
    expected = source.labels
    copy = Path(source.storage.name) / "labels-train.npy"
    content = copy.read_bytes()
    copy.unlink()
    try:
        again = digits.split("train").labels
    finally:
        copy.write_bytes(content)
    np.testing.assert_array_equal(again, expected)
    assert again.dtype == np.int32
    assert source.groups is None


def test_damaged_records_are_told(tmp_path):
    dataset = open_dataset("digits", tmp_path)
    (shard,) = Path(dataset.storage.name).glob("*train.array_record*")
    content = bytearray(shard.read_bytes())
    content[2000:60000] = bytes(58000)
    shard.write_bytes(content)
    with refused(DataError, where=dataset.storage.name):
        dataset.split("train").read(np.arange(1437))
