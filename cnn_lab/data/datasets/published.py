"""The published data sets: facts, files, and how the files are read.

To add one, add a `register_dataset(...)` entry here; nothing else names the data sets.

Sizes and sha256 digests of the published archives are those that their publishers and TFDS give;
the digests of the unpacked MNIST files hold whatever program wrapped them in gzip.
"""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cnn_lab.data.datasets.archives import parse_cifar, parse_idx, read_members
from cnn_lab.data.datasets.description import (
    DATASETS,
    ArchiveMember,
    Arrays,
    DatasetDescription,
    RemoteFile,
    register_dataset,
)

__all__ = ["DATASETS"]

DIGITS_SPLIT_SEED = 0

DIGITS = tuple(str(digit) for digit in range(10))

FASHION_CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)

CIFAR10_CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship"),
    "truck",
)

CIFAR100_CLASSES = (
    *("apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle"),
    *("bottle", "bowl", "boy", "bridge", "bus", "butterfly", "camel", "can", "castle"),
    *("caterpillar", "cattle", "chair", "chimpanzee", "clock", "cloud", "cockroach", "couch"),
    *("crab", "crocodile", "cup", "dinosaur", "dolphin", "elephant", "flatfish", "forest"),
    *("fox", "girl", "hamster", "house", "kangaroo", "keyboard", "lamp", "lawn_mower"),
    *("leopard", "lion", "lizard", "lobster", "man", "maple_tree", "motorcycle", "mountain"),
    *("mouse", "mushroom", "oak_tree", "orange", "orchid", "otter", "palm_tree", "pear"),
    *("pickup_truck", "pine_tree", "plain", "plate", "poppy", "porcupine", "possum"),
    *("rabbit", "raccoon", "ray", "road", "rocket", "rose", "sea", "seal", "shark", "shrew"),
    *("skunk", "skyscraper", "snail", "snake", "spider", "squirrel", "streetcar"),
    *("sunflower", "sweet_pepper", "table", "tank", "telephone", "television", "tiger"),
    *("tractor", "train", "trout", "tulip", "turtle", "wardrobe", "whale", "willow_tree"),
    *("wolf", "woman", "worm"),
)

# name in the archive: (published bytes, published sha256, unpacked bytes, unpacked sha256)
_IDX_FILES = {
    "mnist": {
        "train-images-idx3-ubyte": (
            *(9912422, "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"),
            *(47040016, "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"),
        ),
        "train-labels-idx1-ubyte": (
            *(28881, "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"),
            *(60008, "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"),
        ),
        "t10k-images-idx3-ubyte": (
            *(1648877, "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"),
            *(7840016, "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"),
        ),
        "t10k-labels-idx1-ubyte": (
            *(4542, "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"),
            *(10008, "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"),
        ),
    },
    "fashion_mnist": {
        "train-images-idx3-ubyte": (
            *(26421880, "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"),
            *(47040016, None),
        ),
        "train-labels-idx1-ubyte": (
            *(29515, "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"),
            *(60008, None),
        ),
        "t10k-images-idx3-ubyte": (
            *(4422102, "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"),
            *(7840016, None),
        ),
        "t10k-labels-idx1-ubyte": (
            *(5148, "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"),
            *(10008, None),
        ),
    },
}

_MNIST_URLS = (
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
)
_FASHION_URLS = ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",)
_CIFAR_URL = "https://www.cs.toronto.edu/~kriz/"


def _idx_files(name: str, urls: tuple[str, ...]) -> tuple[RemoteFile, ...]:
    return tuple(
        RemoteFile(
            name=f"{member}.gz",
            num_bytes=num_bytes,
            sha256=sha256,
            urls=tuple(f"{url}{member}.gz" for url in urls),
            members=(ArchiveMember(member, num_unpacked, sha256_unpacked),),
        )
        for member, (num_bytes, sha256, num_unpacked, sha256_unpacked) in _IDX_FILES[name].items()
    )


def _cifar_archive(
    name: str, num_bytes: int, sha256: str, folder: str, sizes: Mapping[str, int]
) -> tuple[RemoteFile, ...]:
    members = tuple(ArchiveMember(f"{folder}/{file}", size) for file, size in sizes.items())
    return (RemoteFile(name, num_bytes, sha256, (f"{_CIFAR_URL}{name}",), members),)


_KRIZHEVSKY = (
    "Alex Krizhevsky (2009). Learning Multiple Layers of Features from Tiny Images. "
    "Technical report, University of Toronto."
)


def read_digits(description: DatasetDescription, folder: Path) -> dict[str, Arrays]:
    """The stratified split of scikit-learn's digits; values 0..16 are stretched to 0..255."""
    del folder  # they come with the package
    from sklearn.datasets import load_digits  # slow, and rarely needed

    from cnn_lab.data.subsets import stratified_split  # which imports data sets itself

    bunch: Any = load_digits()
    images = np.rint(bunch.images * 255.0 / 16.0).astype(np.uint8)[..., None]
    labels = bunch.target.astype(np.int32)
    train, test = stratified_split(
        labels, num_validation=description.split_sizes["test"], seed=DIGITS_SPLIT_SEED
    )
    return {"train": (images[train], labels[train]), "test": (images[test], labels[test])}


def read_idx_splits(description: DatasetDescription, folder: Path) -> dict[str, Arrays]:
    """The splits of MNIST, or of Fashion-MNIST in files of the same form."""
    contents: dict[str, bytes] = {}
    for file in description.files:
        contents |= read_members(file, folder)
    splits: dict[str, Arrays] = {}
    for split, prefix in (("train", "train"), ("test", "t10k")):
        images, labels = f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte"
        splits[split] = (
            parse_idx(contents[images], images, 3)[..., None],
            parse_idx(contents[labels], labels, 1).astype(np.int32),
        )
    return splits


def read_cifar_splits(
    description: DatasetDescription, folder: Path, *, num_label_bytes: int
) -> dict[str, Arrays]:
    """The splits of CIFAR's binary version; the last file of the archive is the test split."""
    (archive,) = description.files
    contents = read_members(archive, folder)
    *train, test = (parse_cifar(contents[m.name], m.name, num_label_bytes) for m in archive.members)
    images, labels = (np.concatenate(parts) for parts in zip(*train, strict=True))
    return {"train": (images, labels), "test": test}


register_dataset(
    DatasetDescription(
        name="digits",
        recipe="strokes",
        title="Handwritten digits, 8x8, from scikit-learn (no download)",
        image_shape=(8, 8, 1),
        class_names=DIGITS,
        split_sizes={"train": 1437, "test": 360},
        licence="CC BY 4.0",
        citation="E. Alpaydin, C. Kaynak (1998). Optical Recognition of Handwritten Digits. "
        "UCI Machine Learning Repository.",
        read=read_digits,
    )
)

register_dataset(
    DatasetDescription(
        name="mnist",
        recipe="strokes",
        title="Handwritten digits, 28x28",
        image_shape=(28, 28, 1),
        class_names=DIGITS,
        split_sizes={"train": 60000, "test": 10000},
        licence="CC BY-SA 3.0",
        citation="Y. LeCun, L. Bottou, Y. Bengio, P. Haffner (1998). Gradient-based learning "
        "applied to document recognition. Proceedings of the IEEE 86(11).",
        files=_idx_files("mnist", _MNIST_URLS),
        read=read_idx_splits,
    )
)

register_dataset(
    DatasetDescription(
        name="fashion_mnist",
        title="Articles of clothing, 28x28",
        image_shape=(28, 28, 1),
        class_names=FASHION_CLASSES,
        split_sizes={"train": 60000, "test": 10000},
        licence="MIT",
        citation="H. Xiao, K. Rasul, R. Vollgraf (2017). Fashion-MNIST: a Novel Image Dataset for "
        "Benchmarking Machine Learning Algorithms. arXiv:1708.07747.",
        files=_idx_files("fashion_mnist", _FASHION_URLS),
        read=read_idx_splits,
    )
)

register_dataset(
    DatasetDescription(
        name="cifar10",
        recipe="cifar",
        title="Photographs of 10 kinds of things, 32x32",
        image_shape=(32, 32, 3),
        class_names=CIFAR10_CLASSES,
        split_sizes={"train": 50000, "test": 10000},
        licence="not stated by the publisher",
        citation=_KRIZHEVSKY,
        files=_cifar_archive(
            "cifar-10-binary.tar.gz",
            170052171,
            "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
            "cifar-10-batches-bin",
            {f"data_batch_{i}.bin": 30730000 for i in range(1, 6)} | {"test_batch.bin": 30730000},
        ),
        read=functools.partial(read_cifar_splits, num_label_bytes=1),
    )
)

register_dataset(
    DatasetDescription(
        name="cifar100",
        recipe="cifar",
        title="Photographs of 100 kinds of things (fine labels), 32x32",
        image_shape=(32, 32, 3),
        class_names=CIFAR100_CLASSES,
        split_sizes={"train": 50000, "test": 10000},
        licence="not stated by the publisher",
        citation=_KRIZHEVSKY,
        files=_cifar_archive(
            "cifar-100-binary.tar.gz",
            168513733,
            "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
            "cifar-100-binary",
            {"train.bin": 153700000, "test.bin": 30740000},
        ),
        read=functools.partial(read_cifar_splits, num_label_bytes=2),
    )
)
