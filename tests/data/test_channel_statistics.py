"""Mean and deviation are measured once, and again when other pixels are trained on."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from cnn_lab.config import DataConfig, ExperimentConfig, ModelConfig
from cnn_lab.data import source as source_module
from cnn_lab.data.datasets.catalog import Dataset, open_dataset
from cnn_lab.data.loaders.factory import make_preprocess, unmeasured_preprocess
from cnn_lab.data.source import Source
from cnn_lab.data.subsets import choose_examples
from cnn_lab.experiment.build import build_experiment


@pytest.fixture
def digits(data_dir, tmp_path) -> Dataset:
    """A copy of one's own: what is kept beside the data must not be there yet."""
    prepared = Path(open_dataset("digits").storage.name)
    copy = tmp_path / "digits" / prepared.name
    shutil.copytree(prepared, copy, ignore=shutil.ignore_patterns("cache"))
    return open_dataset("digits", tmp_path)


@pytest.fixture
def read(monkeypatch) -> list[int]:
    """How many examples every call read from the records."""
    read_examples, numbers = Source.read, []

    def counted(self, indices):
        numbers.append(len(indices))
        return read_examples(self, indices)

    monkeypatch.setattr(Source, "read", counted)
    return numbers


def measured(dataset: Dataset, **data):
    config = DataConfig(loader="streaming", **data)
    return make_preprocess(config, choose_examples(dataset, config)[0])


def files(dataset: Dataset) -> list[Path]:
    return sorted((Path(dataset.storage.name) / "cache").rglob("moments-*.npy"))


def test_a_second_start_reads_no_example(digits, read):
    first = measured(digits)
    assert sum(read) >= 1000
    read.clear()
    assert measured(digits) == first
    assert read == []
    (file,) = files(digits)
    assert file.parent == digits.split("train").pixel_cache
    in_memory = DataConfig(loader="in_memory")
    assert make_preprocess(in_memory, choose_examples(digits, in_memory)[0]) == first
    assert read == []


@pytest.mark.parametrize(
    "changed",
    [
        {"num_validation": 500},
        {"split_seed": 1},
        {"num_train": 300},
        {"image_size": (5, 5)},
        {"channels": 3},
    ],
    ids=str,
)
def test_whatever_decides_the_pixels_measures_anew(digits, read, changed):
    first = measured(digits)
    read.clear()
    other = measured(digits, **changed)
    assert sum(read) > 200
    assert other != first
    assert len(files(digits)) == 2


def test_another_decoder_measures_anew_and_removes_the_old_values(digits, read, monkeypatch):
    measured(digits)
    read.clear()
    monkeypatch.setattr(source_module, "DECODER", "decoder2-pillow99")
    measured(digits)
    assert sum(read) > 1000
    (file,) = files(digits)
    assert "decoder2-pillow99" in file.parent.name


@pytest.mark.parametrize(
    "damaged", [None, [[0.3]], [[0.3, 0.3], [0.3, 0.3]], [[0.3], [0.0]], [[np.nan], [0.3]], [["0"]]]
)
def test_values_that_were_not_measured_are_measured_again(digits, damaged):
    first = measured(digits)
    (file,) = files(digits)
    good = file.read_bytes()
    if damaged is None:
        file.write_bytes(b"")
    else:
        np.save(file, np.asarray(damaged))
    assert measured(digits) == first
    assert file.read_bytes() == good
    assert np.load(file).tolist() == [list(first.mean), list(first.std)]


def test_without_a_writable_place_they_are_just_measured(digits, read, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError("read-only file system")

    monkeypatch.setattr(Path, "mkdir", refuse)
    first = measured(digits)
    read.clear()
    assert measured(digits) == first
    assert sum(read) > 1000
    assert files(digits) == []


def test_shapes_alone_need_no_pixels(digits, read):
    config = ExperimentConfig(
        data=DataConfig(loader="streaming", pad=2), model=ModelConfig(name="linear")
    )
    experiment = build_experiment(config, lambda *_: digits, unmeasured_preprocess)
    assert experiment.network.input_shape == (12, 12, 1)
    assert read == []
    assert files(digits) == []
    given = DataConfig(mean=(0.25,), std=(0.5,))
    kept = unmeasured_preprocess(given, choose_examples(digits, given)[0])
    assert np.allclose((*kept.mean, *kept.std), (0.25, 0.5))
