"""Which examples a run trains on and which it looks at."""

import dataclasses
import pickle
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from refusals import refused

from cnn_lab.config import DataConfig, ExperimentConfig
from cnn_lab.core.errors import ConfigError, DataError
from cnn_lab.data.augment.recipes import Augmentation
from cnn_lab.data.datasets.catalog import Dataset, open_dataset
from cnn_lab.data.loaders import factory, in_memory
from cnn_lab.data.loaders.factory import make_preprocess
from cnn_lab.data.loaders.in_memory import put_split
from cnn_lab.data.subsets import Subset, choose_examples
from cnn_lab.distributed.mesh import Shard, make_mesh
from cnn_lab.distributed.processes import Processes
from cnn_lab.experiment.build import build_experiment


@pytest.fixture(scope="module")
def own_validation(tmp_path_factory) -> Dataset:
    """Twelve training and ten validation images of two classes."""
    root: Path = tmp_path_factory.mktemp("photos") / "photos"
    random = np.random.default_rng(0)
    for split, count in (("train", 6), ("validation", 5)):
        for name in "ab":
            for index in range(count):
                path = root / split / name / f"{index}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(random.integers(0, 256, (4, 4, 3), np.uint8)).save(path)
    return open_dataset(f"folder:{root}", root.parent / "data")


@pytest.mark.parametrize(
    ("data", "num_validation"),
    [
        ({}, 10),
        ({"validation_fraction": 0.5}, 10),  # a share of train, which stays whole
        ({"validation_fraction": 0.0}, 0),
        ({"num_validation": 0}, 0),
        ({"num_validation": 4}, 4),
        ({"num_validation": 4, "validation_fraction": 0.0}, 4),
        ({"num_validation": 10}, 10),
    ],
    ids=str,
)
def test_the_number_asked_for_is_taken_from_a_validation_split_of_its_own(
    own_validation, data, num_validation
):
    train, validation = choose_examples(own_validation, DataConfig(**data))
    assert (len(train), train.source.split) == (12, "train")
    assert len(validation) == num_validation
    if num_validation:
        labels = validation.source.labels[validation.indices]
        assert validation.source.split == "validation"
        assert np.bincount(labels).tolist() == [num_validation // 2] * 2
        assert np.unique(validation.indices).size == num_validation


def test_the_slice_depends_on_the_seed_of_the_split_alone(own_validation):
    def chosen(seed: int) -> list[int]:
        data = DataConfig(num_validation=4, split_seed=seed)
        return choose_examples(own_validation, data)[1].indices.tolist()

    assert chosen(0) == chosen(0)
    assert len({tuple(chosen(seed)) for seed in range(8)}) > 1


def test_more_than_there_are_cannot_be_had(own_validation):
    with pytest.raises(ConfigError) as caught:
        choose_examples(own_validation, DataConfig(num_validation=11))
    error = caught.value
    assert (error.where, error.found) == ("config.data.num_validation", 11)
    assert error.allowed == "at most 10, all examples of the data's own validation split"
    assert "leave it out to use them all" in str(error)


@pytest.mark.parametrize("data", [{"num_validation": 12}, {"validation_fraction": 0.01}], ids=str)
def test_what_cannot_be_held_out_is_told_by_its_field(own_validation, data):
    sizes = {
        name: size for name, size in own_validation.info.split_sizes.items() if name == "train"
    }
    info = dataclasses.replace(own_validation.info, split_sizes=sizes)
    without = dataclasses.replace(own_validation, info=info)
    ((name, value),) = data.items()
    allowed = (
        "such that at least 1 of the 12 training examples of folder:photos is held out, and at "
        "least 1 left to train on"
    )
    with refused(ConfigError, where=f"config.data.{name}", found=value, allowed=allowed):
        choose_examples(without, DataConfig(**data))


@pytest.mark.parametrize("kind", ["in_memory", "streaming"])
def test_one_program_serves_every_normalisation(own_validation, kind):
    """A slice of other images has another mean; only the data may differ, not what is compiled."""

    def lowered(mean: float) -> tuple[str, np.ndarray]:
        data = DataConfig(loader=kind, mean=(mean,) * 3, std=(0.2,) * 3)
        subset = choose_examples(own_validation, data)[0]
        loaders = factory.LoaderFactory(data, make_preprocess(data, subset), make_mesh(1))
        loader = loaders.evaluation(subset, 4, 1)
        raw_batch = jax.tree.map(lambda stack: stack[0], loader.load(0, 1))
        arguments = (loader.device_arrays, raw_batch, jax.random.key(0))
        prepare = jax.jit(loader.prepare)
        found = prepare.lower(*arguments).as_text(), np.asarray(prepare(*arguments)["image"])
        loader.close()
        return found

    (dark, images), (light, others) = lowered(0.25), lowered(0.75)
    assert dark == light
    np.testing.assert_allclose(images - others, 0.5 / 0.2, rtol=1e-5)


def test_a_split_in_parts_gives_the_batches_of_a_whole_one(own_validation):
    """Ten of its twelve images, the last batch filled up."""
    mesh, found = make_mesh(4), {}
    for kind in ("in_memory", "sharded"):
        data = DataConfig(loader=kind, mean=(0.5,) * 3, std=(0.2,) * 3)
        subset = choose_examples(own_validation, data)[0]
        subset = subset.select(np.arange(10))
        loaders = factory.LoaderFactory(data, make_preprocess(data, subset), mesh)
        loader = loaders.training(
            subset, 4, seed=3, num_epochs=1, max_steps=8, augmentation=Augmentation()
        )
        raw_batch = jax.tree.map(lambda stack: stack[2], loader.load(0, 3))
        prepare = jax.jit(loader.prepare)
        found[kind] = jax.device_get(prepare(loader.device_arrays, raw_batch, jax.random.key(0)))
        held = loader.device_arrays["image"].addressable_shards[0].data
        assert len(held) == (12 if kind == "in_memory" else 3)
        loader.close()
    for name, values in found["in_memory"].items():
        np.testing.assert_array_equal(found["sharded"][name], values)


def test_a_split_larger_than_the_memory_is_refused_before_it_is_read(own_validation, monkeypatch):
    source = own_validation.split("train")
    monkeypatch.setattr(in_memory, "host_bytes", lambda: 12 * 4 * 4 * 3)
    assert put_split(source, make_mesh(1))["image"].shape == (12, 4, 4, 3)
    monkeypatch.setattr(in_memory, "host_bytes", lambda: 12 * 4 * 4 * 3 - 1)
    fields = {"where": "config.data.loader", "found": 576, "allowed": "at most 575 bytes"}
    with refused(DataError, **fields):
        put_split(source, make_mesh(1))
    monkeypatch.setattr(type(source), "read_all", lambda _: pytest.fail("read"))
    with refused(DataError, **fields):
        make_preprocess(DataConfig(), Subset(source, np.arange(12)))


def test_a_process_needs_memory_for_its_share_alone(own_validation, monkeypatch):
    source = own_validation.split("train")
    monkeypatch.setattr(in_memory, "host_bytes", lambda: 12 * 4 * 4 * 3 // 2)
    in_memory.check_host_memory(source, Shard(1, 2))
    with refused(DataError, found=576, allowed="at most 288 bytes"):
        in_memory.check_host_memory(source)
    monkeypatch.setattr(in_memory, "host_bytes", lambda: 12)
    with refused(DataError, found=288, allowed="at most 12 bytes"):
        in_memory.check_host_memory(source, Shard(1, 2))


def test_the_first_process_measures_for_all(own_validation, monkeypatch):
    """The arithmetic of another machine may differ in the last bit, and then the programs would."""

    class Second(Processes):
        index, count = 1, 2

        def all_gather(self, value):
            assert value is None
            return [[[0.5, 0.4, 0.3], [0.2, 0.2, 0.1]], value]

    monkeypatch.setattr(factory, "current_processes", Second)
    monkeypatch.setattr(factory, "channel_statistics", lambda *_, **__: pytest.fail("measured"))
    found = make_preprocess(DataConfig(), Subset(own_validation.split("train"), np.arange(12)))
    assert (found.mean, found.std) == ((0.5, 0.4, 0.3), (0.2, 0.2, 0.1))


def test_more_training_examples_than_there_are_cannot_be_had(own_validation):
    assert len(choose_examples(own_validation, DataConfig(num_train=12))[0]) == 12
    with pytest.raises(ConfigError) as caught:
        choose_examples(own_validation, DataConfig(num_train=13))
    error = caught.value
    assert (error.where, error.found) == ("config.data.num_train", 13)
    assert error.allowed == "at most 12, the training examples of folder:photos"


def test_some_classes_take_part_under_labels_of_their_own(tmp_path):
    dataset = open_dataset("digits")
    everything = Subset(dataset.split("train"), np.arange(len(dataset.split("train"))))
    data = DataConfig(classes=("7", "0", "3"), num_validation=30, num_train=60)
    train, validation = choose_examples(dataset, data)
    for subset, number in ((train, 20), (validation, 10)):
        assert subset.source.info.class_names == ("7", "0", "3")
        assert np.bincount(subset.labels).tolist() == [number] * 3
        assert np.array_equal(
            np.array([7, 0, 3])[subset.labels], everything.select(subset.indices).labels
        )
        batch = subset.source.read(subset.indices)
        assert np.array_equal(batch["label"], subset.labels)
        stored = dataset.split("train").read(subset.indices)["image"]
        assert np.array_equal(batch["image"], stored)
        assert subset.source[subset.indices[0]]["label"] == subset.labels[0]
        again = pickle.loads(pickle.dumps(subset.source))  # as workers get it
        assert np.array_equal(again.read(subset.indices)["label"], subset.labels)
    assert not set(train.indices) & set(validation.indices)


def test_one_class_is_nothing_to_learn(tmp_path):
    (tmp_path / "photos" / "cat").mkdir(parents=True)
    for index in range(20):
        Image.new("RGB", (8, 8), (index, 0, 0)).save(tmp_path / "photos" / "cat" / f"{index}.png")
    data = DataConfig(name=f"folder:{tmp_path / 'photos'}", data_dir=str(tmp_path / "data"))
    with pytest.raises(ConfigError, match="has only one class, cat, so there is nothing to tell"):
        build_experiment(ExperimentConfig(data=data))


@pytest.mark.parametrize("names", [("7", "seven"), ("7", "7"), ("7",), ()])
def test_classes_that_cannot_be_are_refused(names):
    with pytest.raises(ConfigError) as caught:
        choose_examples(open_dataset("digits"), DataConfig(classes=names))
    error = caught.value
    assert error.where == "config.data.classes"
    if "seven" in names:
        assert (error.found, error.allowed) == ("seven", list("0123456789"))
    else:
        assert error.found == names
        assert error.allowed == "names of at least two classes, each once"
