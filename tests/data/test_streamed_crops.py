"""Random resized crops of streamed images are taken from the full image, once."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

from cnn_lab.config import DataConfig, ExperimentConfig
from cnn_lab.core.errors import ConfigError
from cnn_lab.data.augment.compose import make_augment
from cnn_lab.data.augment.crops import RandomCrops
from cnn_lab.data.augment.recipes import Augmentation
from cnn_lab.data.datasets.catalog import Dataset, open_dataset
from cnn_lab.data.loaders.factory import LoaderFactory
from cnn_lab.data.loaders.in_memory import InMemoryLoader
from cnn_lab.data.loaders.streaming import StreamingLoader
from cnn_lab.data.normalize import Preprocess
from cnn_lab.data.sampler import Sampler
from cnn_lab.data.subsets import Subset, choose_examples
from cnn_lab.distributed.mesh import make_mesh
from cnn_lab.experiment.build import build_experiment

AREA, ASPECT = (0.1, 0.8), (0.75, 4 / 3)
CROPPED = Augmentation(crop_area=AREA, crop_aspect=ASPECT)
KEY = jax.random.key(5)
PREPROCESS = Preprocess((0.5,) * 3, (0.25,) * 3, 0)
SIZE, SEED, BATCH = (24, 20), 3, 8


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> Dataset:
    """Twenty JPEGs of different sizes, larger than what is made of them."""
    root: Path = tmp_path_factory.mktemp("crops") / "photographs"
    random = np.random.default_rng(0)
    for number in range(20):
        path = root / f"class{number % 2}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        small = Image.fromarray(random.integers(0, 256, (6, 8, 3), np.uint8))
        small.resize((60 + 3 * number, 50 + number)).save(path, quality=90)
    return open_dataset(f"folder:{root}", root.parent / "data")


def data_of(**options: Any) -> DataConfig:
    base: dict[str, Any] = {"validation_fraction": 0.0, "mean": (0.5,), "std": (0.25,)}
    return DataConfig(
        **{"loader": "streaming", "image_size": SIZE, "num_workers": 0} | base | options
    )


def factory_and_examples(dataset: Dataset, data: DataConfig) -> tuple[LoaderFactory, Subset]:
    train, _ = choose_examples(dataset, data)
    num_channels = train.source.info.image_shape[2]
    preprocess = Preprocess((0.5,) * num_channels, (0.25,) * num_channels, 0)
    return LoaderFactory(data, preprocess, make_mesh(1)), train


def training(dataset: Dataset, augmentation: Augmentation, **options: Any) -> Any:
    loaders, train = factory_and_examples(dataset, data_of(**options))
    return loaders.training(
        train, BATCH, seed=SEED, num_epochs=2, max_steps=1, augmentation=augmentation
    )


def fed(loader: Any, step: int) -> dict[str, np.ndarray]:
    """The raw batch of one step; a copy, since the readers own the original."""
    return {name: np.array(rows[0]) for name, rows in loader.load(step, 1).items()}


def prepared(loader: Any, raw_batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The batch that the step makes of a raw batch."""
    batch = loader.prepare(loader.device_arrays, jax.tree.map(jax.device_put, raw_batch), KEY)
    return jax.tree.map(np.asarray, batch)


def cropped_by_hand(dataset: Dataset, step: int, num_channels: int = 3) -> np.ndarray:
    """Full images, cut and resized one by one by PIL."""
    source = dataset.split("train").with_channels(num_channels)
    positions, _ = Sampler(np.arange(len(source)), BATCH, SEED).batches(step, 1)
    images = []
    for position, crop in zip(
        positions[0], RandomCrops(AREA, ASPECT, SEED)(step, BATCH), strict=True
    ):
        pixels = source[position]["image"]
        image = Image.fromarray(pixels[:, :, 0] if num_channels == 1 else pixels)
        box = crop.box(*image.size)
        images.append(
            np.asarray(image.resize((SIZE[1], SIZE[0]), Image.Resampling.BILINEAR, box=box))
        )
    return np.stack(images).reshape(BATCH, *SIZE, num_channels)


@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_the_same_crops_on_any_number_of_workers_and_after_a_resume(photographs, num_workers):
    loader = training(photographs, CROPPED, num_workers=num_workers)
    assert isinstance(loader, StreamingLoader)
    for step in [*range(6), 3, 4]:  # two epochs, then from elsewhere, as after a resume
        np.testing.assert_array_equal(
            fed(loader, step)["image"], cropped_by_hand(photographs, step), err_msg=str(step)
        )
    loader.close()


def test_crops_of_gray_images(photographs):
    loader = training(photographs, CROPPED, channels=1)
    np.testing.assert_array_equal(
        fed(loader, 1)["image"], cropped_by_hand(photographs, 1, num_channels=1)
    )
    loader.close()


def test_pixels_that_are_stored_as_they_are_are_cropped_too(data_dir):
    digits = open_dataset("digits")
    loader = training(digits, CROPPED)
    found = fed(loader, 2)["image"]
    np.testing.assert_array_equal(found, cropped_by_hand(digits, 2, num_channels=1))
    loader.close()
    same_size = training(digits, CROPPED, image_size=None)
    plain = training(digits, Augmentation(), image_size=None)
    assert (fed(same_size, 0)["image"] != fed(plain, 0)["image"]).any((1, 2, 3)).all()
    for stream in (same_size, plain):
        stream.close()


def altered(augmentation: Augmentation, raw_batch: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """What an augmentation in the step makes of images and labels."""
    augment = make_augment(augmentation, (*SIZE, 3), 2)
    images, labels = augment(
        KEY, jax.numpy.asarray(raw_batch["image"]), jax.numpy.asarray(raw_batch["label"])
    )
    return np.asarray(PREPROCESS(jax.numpy.asarray(images))), np.asarray(labels)


def test_the_step_does_not_crop_again_and_does_all_the_rest(photographs):
    both = dataclasses.replace(CROPPED, flip=0.5, brightness=0.3, cutmix=1.0)
    rest = dataclasses.replace(both, crop_area=(1.0, 1.0), crop_aspect=(1.0, 1.0))
    for augmentation, left in ((CROPPED, Augmentation()), (both, rest)):
        loader = training(photographs, augmentation)
        raw_batch = fed(loader, 0)
        found = prepared(loader, raw_batch)
        images, labels = altered(left, raw_batch)
        np.testing.assert_allclose(found["image"], images, atol=1e-6)
        np.testing.assert_array_equal(found["label"], labels)
        twice, _ = altered(augmentation, raw_batch)  # the key is one that would change all of them
        assert (np.abs(twice - images) > 0.1).any((1, 2, 3)).all()
        loader.close()


def test_resident_images_are_cropped_in_the_step(photographs):
    loader = training(photographs, CROPPED, loader="in_memory")
    assert isinstance(loader, InMemoryLoader)
    raw_batch = fed(loader, 0)
    stored = {
        name: loader.device_arrays[name][raw_batch["position"]] for name in ("image", "label")
    }
    expected, _ = altered(CROPPED, stored)
    np.testing.assert_allclose(prepared(loader, raw_batch)["image"], expected, atol=1e-6)


def test_evaluation_sees_whole_images(photographs):
    data = data_of()
    data.augment.strength = "heavy"
    loaders, train = factory_and_examples(photographs, data)
    loader = loaders.evaluation(train, BATCH, 1)
    for step in (0, 1, 2, 0):
        raw_batch = fed(loader, step)
        positions, _ = loader.sampler.batches(step, 1)
        expected = train.source.read(positions[0])["image"]
        np.testing.assert_array_equal(raw_batch["image"], expected)
        plain = PREPROCESS(jax.numpy.asarray(expected))
        np.testing.assert_array_equal(prepared(loader, raw_batch)["image"], plain)
    loader.close()


def test_an_experiment_streams_crops_into_training_alone(photographs):
    config = ExperimentConfig()
    config.seed = SEED
    config.data = data_of(validation_fraction=0.4, mean=(0.5,) * 3, std=(0.25,) * 3)
    config.data.augment.options = {"crop_area": AREA, "crop_aspect": ASPECT}
    config.train.batch_size = config.evaluate.batch_size = 4
    config.train.num_epochs = 1
    config.optim.schedule.warmup_steps = 0
    experiment = build_experiment(config, open_data=lambda *_: photographs)
    train, held_out = experiment.train_loader, experiment.validation_loader
    assert held_out is not None
    source = photographs.split("train").with_image_size(SIZE)
    for loader, crops in ((train, RandomCrops(AREA, ASPECT, SEED)(0, 4)), (held_out, None)):
        positions, _ = loader.sampler.batches(0, 1)
        expected = source.read(positions[0], crops)["image"]
        np.testing.assert_array_equal(fed(loader, 0)["image"], expected)
        loader.close()
    config.data.augment.options = {"crop_area": (0.5, 0.2)}
    with pytest.raises(ConfigError) as caught:
        build_experiment(config, open_data=lambda *_: photographs)
    assert caught.value.where == "config.data.augment.options.crop_area"
    assert caught.value.found == (0.5, 0.2)
