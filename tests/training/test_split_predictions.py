"""Predictions of a split: every example once, in order, however they are grouped."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import refused

from cnn_lab.core.errors import ConfigError, TrainingError
from cnn_lab.data.datasets.catalog import open_dataset
from cnn_lab.data.loaders.in_memory import InMemoryLoader
from cnn_lab.data.loaders.streaming import StreamingLoader
from cnn_lab.data.normalize import Preprocess
from cnn_lab.data.sampler import Sampler
from cnn_lab.distributed.mesh import DeviceMesh, make_mesh
from cnn_lab.models.simple import mlp
from cnn_lab.tasks.classification import classification
from cnn_lab.training.evaluate import Evaluator, SplitPredictor
from cnn_lab.training.views import TTA, make_views, mirrored, shifted

NUM_EXAMPLES, SHAPE, MEAN, STD = 50, (4, 5, 1), 0.25, 0.5
MODEL, TASK = mlp(10, (8,)), classification("cross_entropy")
# Not in the order in which they are stored, and not all of them.
CHOSEN = np.random.default_rng(2).permutation(NUM_EXAMPLES + 3)[:NUM_EXAMPLES].astype(np.int64)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (NUM_EXAMPLES + 3, *SHAPE), np.uint8)


@pytest.fixture(scope="module")
def labels() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 10, NUM_EXAMPLES + 3).astype(np.int32)


@pytest.fixture(scope="module")
def variables():
    return MODEL.init(jax.random.key(0), jnp.zeros((1, *SHAPE)), train=False)


def logits_of(variables, x: np.ndarray) -> np.ndarray:
    """In double precision, by numpy, from normalised images."""
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])
    hidden = p["backbone"]["dense1"]
    x = np.maximum(x.reshape(len(x), -1) @ hidden["kernel"] + hidden["bias"], 0)
    return x @ p["head"]["output"]["kernel"] + p["head"]["output"]["bias"]


def normalised(images: np.ndarray) -> np.ndarray:
    return (images[CHOSEN].astype(np.float64) / 255 - MEAN) / STD


def make_loader(images, labels, batch_size: int, mesh: DeviceMesh) -> InMemoryLoader:
    sampler = Sampler(CHOSEN, batch_size, None)
    device_arrays = mesh.put({"image": images, "label": labels})
    preprocess = Preprocess((MEAN,), (STD,), 0)
    return InMemoryLoader(device_arrays, preprocess, sampler, sampler.steps_per_epoch)


def make_predictor(images, labels, batch_size: int, num_devices: int, **options):
    mesh = make_mesh(num_devices)
    loader = make_loader(images, labels, batch_size, mesh)
    return SplitPredictor(MODEL.apply, TASK, loader, mesh, **options), loader


def predict(variables, *arguments, **options):
    return make_predictor(*arguments, **options)[0](variables)


@pytest.mark.parametrize(
    ("batch_size", "num_devices"), [(1, 1), (7, 1), (NUM_EXAMPLES, 1), (64, 2), (8, 4)]
)
def test_the_batch_size_and_the_devices_do_not_matter(
    images, labels, variables, batch_size, num_devices
):
    found = predict(variables, images, labels, batch_size, num_devices)
    np.testing.assert_array_equal(found.labels, labels[CHOSEN])
    wanted = logits_of(variables, normalised(images))
    np.testing.assert_allclose(found.logits, wanted, atol=1e-5)
    mesh = make_mesh(num_devices)
    evaluate = Evaluator(MODEL.apply, TASK, make_loader(images, labels, batch_size, mesh), mesh)
    assert found.metrics == pytest.approx(evaluate(mesh.put(variables)))


def test_streamed_examples_come_in_the_same_order():
    source = open_dataset("digits").split("train")
    preprocess = Preprocess((MEAN,), (STD,), 0)
    variables = MODEL.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)), train=False)
    sampler = Sampler(CHOSEN, 8, None)
    loader = StreamingLoader(source, preprocess, sampler, num_workers=0, total_steps=None)
    predictor = SplitPredictor(MODEL.apply, TASK, loader, make_mesh(2))
    for _ in range(2):  # a second network reads them anew
        found = predictor(variables)
        stored = source.read(CHOSEN)
        np.testing.assert_array_equal(found.labels, stored["label"])
        x = (stored["image"].astype(np.float64) / 255 - MEAN) / STD
        np.testing.assert_allclose(found.logits, logits_of(variables, x), atol=1e-5)
    loader.close()


def test_the_outputs_of_a_call_are_bounded(images, labels, variables, monkeypatch):
    row = 4 * 10 + 4 + 4  # logits, label, weight
    predictor, loader = make_predictor(images, labels, 8, 2, max_bytes=2 * 8 * row + 1)  # 7 steps
    lengths, load = [], loader.load
    monkeypatch.setattr(loader, "load", lambda f, n: lengths.append(n) or load(f, n))
    found = [predictor(variables) for _ in range(2)]
    assert max(lengths) <= 2
    assert sum(lengths) == 14
    mesh = make_mesh(2)
    raw_batches = mesh.put(load(0, 1), mesh.batches)
    rows, _ = predictor.compile(variables).call(variables, loader.device_arrays, raw_batches, 1)
    assert rows["logits"].shape == (2, 8, 10)
    tiny = predict(variables, images, labels, 8, 2, max_bytes=1)  # one step, whatever it takes
    for other in (found[1], tiny):
        np.testing.assert_array_equal(found[0].logits, other.logits)


def test_it_is_compiled_once_for_all_weights(images, labels, variables):
    predictor, _ = make_predictor(images, labels, 16, 2)
    first, program = predictor(variables), predictor.compile(variables)
    zeros = predictor(jax.tree.map(jnp.zeros_like, variables))
    assert not zeros.logits.any()
    np.testing.assert_array_equal(predictor(variables).logits, first.logits)
    assert predictor.compile(variables) is program


def test_devices_do_not_exchange_outputs(images, labels, variables):
    predictor, _ = make_predictor(images, labels, 16, 2)
    text = predictor.compile(variables).text
    assert "all-reduce" in text  # the metrics
    assert "all-gather" not in text
    assert "collective-permute" not in text


@pytest.mark.parametrize(("place", "weight"), [((0, 0), 0.0), ((-1, -1), 1.0)])
def test_a_wrong_count_is_never_reported_as_a_result(
    images, labels, variables, monkeypatch, place, weight
):
    predictor, loader = make_predictor(images, labels, NUM_EXAMPLES + 2, 1)
    raw_batches = loader.load(0, 1)
    raw_batches["weight"][place] = weight  # an example lost, or a filled-up row counted
    monkeypatch.setattr(loader, "load", lambda *_: raw_batches)
    counted = int(NUM_EXAMPLES + 2 * weight - 1)
    with refused(TrainingError, found=counted, allowed="50"):
        predictor(variables)


def test_views_move_and_mirror_pixels():
    image = np.arange(12, dtype=np.float32).reshape(1, 3, 4, 1)
    assert mirrored(jnp.asarray(image))[0, 0, :, 0].tolist() == [3, 2, 1, 0]
    down = np.asarray(shifted(1, 0)(jnp.asarray(image)))[0, :, :, 0]
    assert down.tolist() == [[0, 1, 2, 3], [0, 1, 2, 3], [4, 5, 6, 7]]
    left = np.asarray(shifted(0, -2)(jnp.asarray(image)))[0, :, :, 0]
    assert left.tolist() == [[2, 3, 3, 3], [6, 7, 7, 7], [10, 11, 11, 11]]
    assert {name: len(make_views(name, 1)) for name in TTA} == {
        "none": 1,
        "flip": 2,
        "shifts": 5,
        "flip+shifts": 10,
    }
    seen = {np.asarray(view(jnp.asarray(image))).tobytes() for view in make_views("flip+shifts", 1)}
    assert len(seen) == 10
    assert image.tobytes() in seen


@pytest.mark.parametrize("name", ["flip", "shifts", "flip+shifts"])
def test_probabilities_are_averaged_over_views(images, labels, variables, name):
    views = make_views(name, 2)
    found = predict(variables, images, labels, 8, 2, views=views)
    np.testing.assert_array_equal(found.labels, labels[CHOSEN])
    x = normalised(images).astype(np.float32)
    logits = [logits_of(variables, np.asarray(view(jnp.asarray(x)))) for view in views]
    each = [np.exp(z) / np.exp(z).sum(1, keepdims=True) for z in logits]
    wanted = np.mean(each, axis=0)
    np.testing.assert_allclose(np.exp(found.logits), wanted, atol=1e-6)
    assert np.abs(wanted - each[0]).max() > 1e-2  # the views differ
    right = wanted.argmax(1) == labels[CHOSEN]
    assert found.metrics["accuracy"] == pytest.approx(right.mean())


def test_one_view_gives_the_networks_own_logits(images, labels, variables):
    plain = predict(variables, images, labels, 8, 1)
    seen = predict(variables, images, labels, 8, 1, views=make_views("none", 1))
    np.testing.assert_array_equal(plain.logits, seen.logits)


@pytest.mark.parametrize(
    ("name", "pixels", "fields"),
    [
        ("flop", 1, {"where": "--tta", "found": "flop", "nearest": ("flip",)}),
        ("shifts", 0, {"where": "--tta_pixels", "found": 0, "allowed": "at least 1"}),
    ],
)
def test_wrong_views_are_told(name, pixels, fields):
    with refused(ConfigError, **fields):
        make_views(name, pixels)
