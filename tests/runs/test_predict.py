"""Predictions for images and files, as a notebook asks for them."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from cnn_lab.config import ExperimentConfig
from cnn_lab.data.normalize import Preprocess
from cnn_lab.experiment.network import Network
from cnn_lab.experiment.restore import RestoredRun
from cnn_lab.models.simple import mlp
from cnn_lab.runs.predict import BATCH_SIZE, ImagePredictions, Predictor, predict, predict_files
from cnn_lab.tasks.classification import ClassPredictions, classification

SHAPE, CLASSES = (4, 5, 1), ("cat", "dog", "owl")


@pytest.fixture(scope="module")
def restored() -> RestoredRun:
    """A network that was never trained, on dark images."""
    model = mlp(len(CLASSES), (8,))
    variables = model.init(jax.random.key(0), jnp.zeros((1, *SHAPE)), train=False)
    preprocess = Preprocess((0.2,), (0.5,), 0)
    network = Network(model, classification(class_names=CLASSES), SHAPE, preprocess)
    return RestoredRun(ExperimentConfig(), network, dict(variables), 7)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 100, (BATCH_SIZE + 5, *SHAPE), np.uint8)


def test_probabilities_are_those_of_the_network(restored: RestoredRun, images):
    found = predict(restored, images).predictions
    assert isinstance(found, ClassPredictions)
    x = restored.network.preprocess(jnp.asarray(images))
    logits: Any = restored.network.model.apply(restored.variables, x, train=False)
    wanted = jax.nn.softmax(logits)
    np.testing.assert_allclose(found.probabilities, wanted, atol=1e-6)
    best = int(np.argmax(found.probabilities[-1]))
    ((name, probability), (_, second)) = found.top(2)[-1]
    assert (name, probability) == (CLASSES[best], found.probabilities[-1, best])
    assert second == np.sort(found.probabilities[-1])[-2]
    assert len(found.top(9)[0]) == len(CLASSES)


def probabilities(found: ImagePredictions) -> np.ndarray:
    assert isinstance(found.predictions, ClassPredictions)
    return found.predictions.probabilities


def test_files_are_read_as_images_and_negatives_are_marked(
    restored: RestoredRun, images, tmp_path: Path
):
    paths = [tmp_path / "dark.png", tmp_path / "bright.png"]
    for path, pixels in zip(paths, (images[0], 255 - images[0]), strict=True):
        Image.fromarray(pixels[:, :, 0]).save(path)
    found = predict_files(restored, paths)
    wanted = probabilities(predict(restored, images[:1]))[0]
    np.testing.assert_allclose(probabilities(found)[0], wanted)
    assert found.may_be_negatives.tolist() == [False, True]
    turned = predict_files(restored, paths[1:], invert=True)
    np.testing.assert_allclose(probabilities(turned)[0], wanted, atol=1e-6)
    assert turned.may_be_negatives.tolist() == [False]


def test_calls_with_other_numbers_of_images_share_a_program(
    restored: RestoredRun, images, monkeypatch
):
    traces, preprocess = [], Preprocess.__call__

    def traced(self, pixels, constants=None):
        traces.append(pixels.shape)
        return preprocess(self, pixels, constants)

    monkeypatch.setattr(Preprocess, "__call__", traced)
    predictor = Predictor(restored)
    found = [predictor(images[:number]) for number in (5, 8, 6, 5)]
    assert traces == [(8, *SHAPE)]
    np.testing.assert_array_equal(probabilities(found[0]), probabilities(found[1])[:5])
