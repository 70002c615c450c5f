"""Both loaders give the same batches, in an order that depends on seed and step alone."""

import dataclasses

import jax
import numpy as np
import pytest

from cnn_lab.data import normalize
from cnn_lab.data.datasets.catalog import open_dataset
from cnn_lab.data.loaders.in_memory import InMemoryLoader
from cnn_lab.data.loaders.streaming import StreamingLoader
from cnn_lab.data.normalize import Preprocess, measure, padded_shape
from cnn_lab.data.sampler import Sampler
from cnn_lab.data.source import Source

PREPROCESS = Preprocess(mean=(0.3,), std=(0.4,), pad=1)
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def source(data_dir) -> Source:
    return open_dataset("digits").split("train")


def in_memory(source: Source, sampler: Sampler, max_steps: int = 8) -> InMemoryLoader:
    images, labels = source.read_all()
    arrays = {"image": jax.device_put(images), "label": jax.device_put(labels)}
    return InMemoryLoader(arrays, PREPROCESS, sampler, max_steps)


def batch(loader, step: int) -> dict[str, np.ndarray]:
    raw_batch = jax.tree.map(lambda stack: stack[0], loader.load(step, 1))
    raw_batch = jax.tree.map(jax.device_put, raw_batch)
    return jax.tree.map(np.asarray, loader.prepare(loader.device_arrays, raw_batch, KEY))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_streaming_equals_resident(source: Source, num_workers: int):
    sampler = Sampler(
        np.arange(0, 1400, 7), 48, seed=3
    )  # 200 examples: the last batch is filled up
    total = 2 * sampler.steps_per_epoch
    stream = StreamingLoader(
        source, PREPROCESS, sampler, num_workers=num_workers, total_steps=total
    )
    fixed = in_memory(source, sampler)
    for step in [*range(total), 3, 4, 1]:  # in order, then from elsewhere, as after a resume
        expected, found = batch(fixed, step), batch(stream, step)
        assert expected.keys() == found.keys()
        for name in expected:
            np.testing.assert_array_equal(found[name], expected[name], err_msg=f"{name} {step}")
    stream.close()


def test_streaming_feed_has_the_shapes_it_announces(source: Source):
    sampler = Sampler(np.arange(64), 16, seed=0)
    for loader in (
        in_memory(source, sampler),
        StreamingLoader(source, PREPROCESS, sampler, num_workers=0, total_steps=4),
    ):
        raw_batch = loader.load(0, 1)
        assert jax.tree.map(lambda a: (a.shape, a.dtype), raw_batch) == jax.tree.map(
            lambda a: (a.shape, a.dtype), loader.raw_shapes()
        )
        loader.close()


def test_every_epoch_holds_every_example_once():
    indices = np.arange(100, 150)
    sampler = Sampler(indices, 16, seed=1)
    assert sampler.steps_per_epoch == 4
    epochs = []
    for epoch in range(3):
        positions, weights = sampler.batches(4 * epoch, 4)
        assert positions.shape == weights.shape == (4, 16)
        assert sorted(positions[weights > 0]) == list(indices)
        assert weights.sum() == 50
        epochs.append(positions)
    assert not np.array_equal(epochs[0], epochs[1])
    assert not np.array_equal(epochs[1], epochs[2])


def test_order_is_a_function_of_seed_and_step():
    indices = np.arange(40)
    whole = Sampler(indices, 8, seed=5).batches(0, 15)
    for first, count in ((0, 15), (3, 4), (4, 2), (14, 1)):
        part = Sampler(indices, 8, seed=5).batches(first, count)
        np.testing.assert_array_equal(part[0], whole[0][first : first + count])
        np.testing.assert_array_equal(part[1], whole[1][first : first + count])
    other = Sampler(indices, 8, seed=6).batches(0, 15)
    assert not np.array_equal(other[0], whole[0])


def test_order_stays_the_same_on_other_versions():
    """Resuming with another numpy must meet the same examples."""
    positions, _ = Sampler(np.arange(10), 10, seed=7).batches(0, 2)
    assert positions.tolist() == [[6, 3, 9, 1, 2, 0, 5, 7, 8, 4], [1, 9, 2, 8, 5, 0, 4, 3, 7, 6]]


@pytest.mark.parametrize("seed", [4, None])
def test_the_last_batch_is_filled_up_with_the_first_examples_of_its_epoch(seed: int | None):
    """Batch normalisation sees them: one example many times, or zeros, would bend its mean."""
    sampler = Sampler(np.arange(100, 137), 16, seed)
    for epoch in range(2):
        positions, weights = sampler.batches(3 * epoch, 3)
        filled = weights[-1] == 0
        assert filled.sum() == 3 * 16 - 37
        assert positions[-1][filled].tolist() == positions[0][: filled.sum()].tolist()
        assert len(set(positions[-1])) == 16


@pytest.mark.parametrize("batch_size", [1, 40])
def test_single_and_full_batches(batch_size: int):
    sampler = Sampler(np.arange(40), batch_size, seed=0)
    positions, weights = sampler.batches(0, sampler.steps_per_epoch)
    assert sorted(positions.ravel()) == list(range(40))
    assert weights.min() == 1


def test_unshuffled_order_keeps_the_indices():
    positions, weights = Sampler(np.array([5, 3, 9]), 2, seed=None).batches(0, 2)
    assert positions.tolist() == [[5, 3], [9, 5]]
    assert weights.tolist() == [[1, 1], [1, 0]]


def test_measured_normalisation_is_of_the_given_examples(source: Source):
    indices = np.arange(0, 300, 3)
    pixels = source.read(indices)["image"] / 255.0
    mean, std = measure(lambda chosen: source.read(chosen)["image"], indices)
    assert mean == pytest.approx((pixels.mean(),), rel=1e-12)
    assert std == pytest.approx((pixels.std(),), rel=1e-9)
    normalised = dataclasses.replace(PREPROCESS, mean=mean, std=std, pad=0)(
        jax.device_put(source.read(indices)["image"])
    )
    assert float(normalised.mean()) == pytest.approx(0, abs=1e-4)
    assert float(normalised.std()) == pytest.approx(1, abs=1e-4)


def test_measuring_large_images_takes_a_share_of_them(monkeypatch):
    monkeypatch.setattr(normalize, "MAX_MEASURED_PIXELS", 4 * 6 * 6)
    monkeypatch.setattr(normalize, "PIXELS_AT_ONCE", 40)
    images = np.random.default_rng(0).integers(0, 256, (10, 6, 6, 3), np.uint8)
    mean, std = measure(lambda chosen: images[chosen], np.arange(10)[::-1])
    assert mean == pytest.approx(images[::3].mean((0, 1, 2)) / 255, rel=1e-12)
    assert std == pytest.approx(images[::3].std((0, 1, 2)) / 255, rel=1e-9)


def test_padding_is_black():
    images = np.full((1, 2, 2, 1), 255, np.uint8)
    out = np.asarray(PREPROCESS(jax.numpy.asarray(images)))
    assert out.shape == (1, 4, 4, 1) == (1, *padded_shape((2, 2, 1), PREPROCESS.pad))
    assert out[0, 0, 0, 0] == pytest.approx((0 - 0.3) / 0.4)
    assert out[0, 1, 1, 0] == pytest.approx((1 - 0.3) / 0.4)


def test_both_loaders_augment_the_batch_before_they_normalise_it(source: Source):
    def darker(key, images, labels):
        factor = jax.random.uniform(key)
        return images.astype("float32") * factor, labels + 1

    sampler = Sampler(np.arange(40), 16, seed=0)
    images, labels = source.read_all()
    arrays = {"image": jax.device_put(images), "label": jax.device_put(labels)}
    fixed = InMemoryLoader(arrays, PREPROCESS, sampler, 8, darker)
    stream = StreamingLoader(
        source, PREPROCESS, sampler, num_workers=0, total_steps=3, augment=darker
    )
    plain, found, other = (
        batch(in_memory(source, sampler), 1),
        batch(fixed, 1),
        batch(stream, 1),
    )
    stream.close()
    factor = float(jax.random.uniform(KEY))
    raw = plain["image"] * 0.4 * 255 + 0.3 * 255
    np.testing.assert_allclose(found["image"], (raw * factor - 76.5) / 102, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(found["label"], plain["label"] + 1)
    for name, values in found.items():
        np.testing.assert_array_equal(other[name], values)
