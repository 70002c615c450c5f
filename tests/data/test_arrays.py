"""Data sets from arrays: what is accepted, and what is refused in one sentence."""

import pickle

import numpy as np
import pytest
from refusals import refused

from cnn_lab.config import DataConfig
from cnn_lab.core.errors import DataError
from cnn_lab.data.datasets.arrays import from_arrays
from cnn_lab.data.datasets.catalog import open_dataset, unlock_test
from cnn_lab.data.subsets import choose_examples

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (12, 6, 5, 3), np.uint8)
LABELS = np.arange(12) % 3
OF_TRAIN = "The images of split 'train'"
LABELS_OF_TRAIN = "The labels of split 'train'"


def labels_of(labels, **options) -> tuple[tuple[str, ...], list]:
    data = from_arrays(IMAGES, labels, **options)
    return data.info.target.names, data.split("train").labels.tolist()


def test_images_are_read_as_they_are():
    data = from_arrays(IMAGES, LABELS, validation=(IMAGES[:2], LABELS[:2]), test=(IMAGES, LABELS))
    assert data.info.split_sizes == {"train": 12, "validation": 2, "test": 12}
    source = data.split("train")
    np.testing.assert_array_equal(source.read_all()[0], IMAGES)
    read = source.read(np.array([7, 0, 7]))
    np.testing.assert_array_equal(read["image"], IMAGES[[7, 0, 7]])
    assert read["label"].tolist() == [1, 0, 1]
    np.testing.assert_array_equal(source[3]["image"], IMAGES[3])
    assert len(unlock_test(data)) == 12
    with refused(DataError, found="test"):
        data.split("test")
    gray = source.with_channels(1).with_image_size((3, 3))
    assert gray.read_all()[0].shape == (12, 3, 3, 1)


def test_other_processes_get_the_split_that_they_read():
    large = np.random.default_rng(1).integers(0, 256, (500, 6, 5, 3), np.uint8)
    data = from_arrays(IMAGES, LABELS, test=(large, np.zeros(500, int)))
    sent = pickle.dumps(data.split("train"))
    assert len(sent) < IMAGES.nbytes + 2000 < large.nbytes
    received = pickle.loads(sent)
    np.testing.assert_array_equal(received.read(np.arange(12))["image"], IMAGES)
    assert received.labels.tolist() == LABELS.tolist()


@pytest.mark.parametrize(
    ("images", "wanted"),
    [
        (IMAGES[..., 0], IMAGES[..., :1]),
        (IMAGES.tolist(), IMAGES),
        (IMAGES.astype(np.int64), IMAGES),
        (IMAGES / 255, IMAGES),
        ((IMAGES / 255).astype(np.float32), IMAGES),
        (IMAGES > 100, np.where(IMAGES > 100, 255, 0)),
    ],
    ids=["gray", "lists", "int64", "float64", "float32", "bool"],
)
def test_pixels_of_any_type_are_the_same(images, wanted):
    pixels = from_arrays(images, LABELS).split("train").read_all()[0]
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, wanted)


def test_labels_of_any_type_are_classes():
    assert labels_of(LABELS) == (("0", "1", "2"), LABELS.tolist())
    assert labels_of(LABELS * 5 + 2) == (("2", "7", "12"), LABELS.tolist())  # numbers are skipped
    assert labels_of(LABELS - 1)[0] == ("-1", "0", "1")
    assert labels_of(LABELS > 0)[0] == ("False", "True")
    texts = np.array(["dog", "cat", "owl"])[LABELS]
    assert labels_of(texts) == (("cat", "dog", "owl"), [1, 0, 2] * 4)
    assert labels_of(texts.astype(object)) == labels_of(texts) == labels_of(texts.tolist())
    names = ("zebra", "ape", "newt", "eel")
    assert labels_of(LABELS, class_names=names) == (names, LABELS.tolist())
    assert labels_of(LABELS, class_names=np.array(names)) == (names, LABELS.tolist())
    some = np.array(["newt", "ape", "newt"])[LABELS]
    assert labels_of(some, class_names=names) == (names, [2, 1, 2] * 4)
    with refused(DataError, where=LABELS_OF_TRAIN, found="bee"):
        from_arrays(IMAGES, np.where(some == "ape", "bee", some), class_names=names)


def test_real_numbers_are_predicted_as_they_are():
    names, values = labels_of(LABELS / 2)
    assert (names, values[:3]) == (("value",), [[0.0], [0.5], [1.0]])
    both = np.stack([LABELS / 2, LABELS * 10.0], axis=1)
    assert labels_of(both)[0] == ("value_0", "value_1")
    assert labels_of(both, value_names=["x", "y"])[0] == ("x", "y")


@pytest.mark.parametrize(
    "numbers",
    [
        RANDOM.uniform(size=200_000),  # some of so many are equal in float32
        np.repeat(1.6e9, 200_000),
        1.6e9 + 1e4 * np.arange(200_000),
    ],
    ids=["many", "a constant", "far apart"],
)
def test_numbers_that_float32_can_hold_are_accepted(numbers):
    images = np.zeros((len(numbers), 1, 1), np.uint8)
    labels = from_arrays(images, numbers).split("train").labels
    np.testing.assert_allclose(labels[:, 0], numbers, rtol=1e-7)


def test_data_in_memory_are_described_and_not_printed():
    data = from_arrays(IMAGES, LABELS, test=(IMAGES[:2], LABELS[:2]), name="pets")
    assert repr(data) == "Dataset('arrays:pets': 3 classes, train 12, test 2, images 6x5x3)"
    assert len(repr(data.split("train"))) < 500


def test_held_out_groups_stay_whole():
    groups = np.array(list("aabbccddeeff"))
    data = from_arrays(IMAGES, LABELS, groups=groups)
    train, validation = choose_examples(data, DataConfig(validation_fraction=0.3))
    assert not set(groups[train.indices]) & set(groups[validation.indices])
    assert len(validation) > 0


def test_what_is_held_out_of_numbers_is_of_the_size_asked_for():
    data = from_arrays(IMAGES, LABELS / 7)
    train, validation = choose_examples(data, DataConfig(num_validation=5))
    assert (len(train), len(validation)) == (7, 5)
    assert not set(train.indices) & set(validation.indices)


def test_the_fingerprint_is_that_of_the_content():
    first = from_arrays(IMAGES, LABELS).info.fingerprint
    assert first == from_arrays(IMAGES.copy(), LABELS.tolist(), name="else").info.fingerprint
    changed = IMAGES.copy()
    changed[3, 2, 1, 0] ^= 1
    others = [
        from_arrays(changed, LABELS),
        from_arrays(IMAGES, LABELS[::-1]),
        from_arrays(IMAGES, LABELS, class_names=["a", "b", "c"]),
        from_arrays(IMAGES, LABELS, validation=(IMAGES[:1], LABELS[:1])),
        from_arrays(IMAGES, LABELS.astype(float)),
    ]
    assert len({first, *(other.info.fingerprint for other in others)}) == 6


@pytest.mark.parametrize(
    ("images", "found"),
    [
        (IMAGES.transpose(0, 3, 1, 2), (12, 3, 6, 5)),
        (IMAGES[0, 0], (5, 3)),
        (IMAGES[0], (6, 5, 3)),
        (IMAGES[:0], (0, 6, 5, 3)),
        (IMAGES[..., :2], (12, 6, 5, 2)),
        (IMAGES * 1.0, (0.0, float(IMAGES.max()))),
        (IMAGES / 255 - 0.5, (pytest.approx(IMAGES.min() / 255 - 0.5), pytest.approx(0.5))),
        (IMAGES.astype(np.int32) + 1, (1.0, float(IMAGES.max()) + 1)),
        (IMAGES.astype(str), "<U3"),
        ([IMAGES[0], IMAGES[1, :3]], "several sizes"),
    ],
    ids=[
        *(
            "channels first",
            "no images",
            "one image",
            "empty",
            "two channels",
            "float up to 255",
            "negative",
        ),
        *("256", "texts", "several sizes"),
    ],
)
def test_what_is_no_image_is_refused(images, found):
    with refused(DataError, where=OF_TRAIN, found=found):
        from_arrays(images, np.zeros(len(images), int))


def test_images_that_are_not_finite_are_refused():
    images = IMAGES / 255
    images[2, 0, 0, 0] = np.nan
    with refused(DataError, where=OF_TRAIN, found=2, allowed="numbers in [0, 1]"):
        from_arrays(images, LABELS)


@pytest.mark.parametrize(
    ("labels", "found"),
    [
        (LABELS[:11], 11),
        (np.eye(3, dtype=int)[LABELS], (12, 3)),
        (np.where(LABELS == 1, np.nan, 0.5), 1),
        (np.where(LABELS == 2, 1e39, 0.5), 2),
        (1.6e9 + LABELS, (1.6e9, 1.6e9 + 2)),
        (np.stack([LABELS / 2, 1.6e9 + LABELS], axis=1), (1.6e9, 1.6e9 + 2)),
        (np.array([None, *LABELS[1:]], object), "NoneType, int64"),
        (LABELS.astype(complex), "complex128"),
        (np.zeros((12, 2, 2)), (12, 2, 2)),
    ],
    ids=[
        *("too few", "one-hot", "nan", "too large", "equal in float32", "one column of two"),
        *("objects", "complex", "too many axes"),
    ],
)
def test_what_is_no_label_is_refused(labels, found):
    with refused(DataError, where=LABELS_OF_TRAIN, found=found):
        from_arrays(IMAGES, labels)


def test_splits_that_do_not_fit_each_other_are_refused():
    with refused(DataError, where="The images of split 'test'", found=(6, 4, 3)):
        from_arrays(IMAGES, LABELS, test=(IMAGES[:, :, :4], LABELS))
    with refused(DataError, where="The labels of split 'validation'", found="7"):
        from_arrays(IMAGES, LABELS, validation=(IMAGES[:2], [0, 7]))
    with refused(DataError, where=LABELS_OF_TRAIN, found="2", allowed="among 0 to 1"):
        from_arrays(IMAGES, LABELS, class_names=["a", "b"])
    with refused(DataError, where="class_names", found=("a", "a", "b")):
        from_arrays(IMAGES, LABELS, class_names=["a", "a", "b"])
    with refused(DataError, where="class_names", found="float64"):
        from_arrays(IMAGES, LABELS / 2, class_names=["a", "b", "c"])
    with refused(DataError, where="value_names", found="int64"):
        from_arrays(IMAGES, LABELS, value_names=["x"])
    with refused(DataError, where="value_names", found=("x", "y")):
        from_arrays(IMAGES, LABELS / 2, value_names=["x", "y"])
    with refused(DataError, where="groups", found=(3,)):
        from_arrays(IMAGES, LABELS, groups=[1, 2, 3])


def test_the_arrays_of_the_caller_may_change_afterwards():
    images, labels = IMAGES.copy(), LABELS / 2
    data = from_arrays(images, labels)
    images[:], labels[:] = 0, 0
    source = data.split("train")
    np.testing.assert_array_equal(source.read_all()[0], IMAGES)
    assert source.labels[:3].tolist() == [[0.0], [0.5], [1.0]]
    assert not source.read_all()[0].flags.writeable


def test_arrays_are_on_no_disk():
    with refused(DataError, where="config.data.name", found="arrays:data"):
        open_dataset("arrays:data")
