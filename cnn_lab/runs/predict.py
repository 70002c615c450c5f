"""Predictions for images by a trained network."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, UInt8

from cnn_lab.data.decoding import looks_inverted, read_image_file
from cnn_lab.experiment.restore import RestoredRun
from cnn_lab.tasks.task import Predictions

BATCH_SIZE = 64


@dataclasses.dataclass(frozen=True)
class ImagePredictions:
    """Predictions for images, and which of these may be negatives of what the network knows.

    Those are about as bright as the negative of one of the training images; none in colour.
    """

    predictions: Predictions
    may_be_negatives: Bool[np.ndarray, " n"]


def predict_files(
    restored: RestoredRun, paths: Sequence[Path], *, invert: bool = False
) -> ImagePredictions:
    """Predictions for PNG or JPEG files, at least one.

    They are brought to the colours and size of the training images; `invert` exchanges black and
    white first. A file that cannot be read is a `DataError`.
    """
    shape = restored.network.image_shape
    images = np.stack([read_image_file(path, shape) for path in paths])
    return predict(restored, 255 - images if invert else images)


def predict(restored: RestoredRun, images: UInt8[np.ndarray, "n h w c"]) -> ImagePredictions:
    """Predictions for images of the size and channels that the network was trained on."""
    network = restored.network

    @jax.jit
    def outputs_of(variables, images):
        return network.model.apply(variables, network.preprocess(images), train=False)

    outputs = in_batches(functools.partial(outputs_of, restored.variables), images)
    mean, may_be_negatives = network.preprocess.mean, np.zeros(len(images), bool)
    if len(mean) == 1:
        may_be_negatives = looks_inverted(images, mean[0])
    predictions = network.task.predictions(outputs)
    return ImagePredictions(predictions, may_be_negatives)


def in_batches(
    function: Callable[[UInt8[np.ndarray, "m h w c"]], Array], images: UInt8[np.ndarray, "n h w c"]
) -> Float[np.ndarray, "n ..."]:
    """The results of a compiled function of images, called with equally many at a time."""
    batch_size = min(BATCH_SIZE, len(images))
    batches = []
    for start in range(0, len(images), batch_size):
        part = images[start : start + batch_size]
        filled = np.pad(part, ((0, batch_size - len(part)), (0, 0), (0, 0), (0, 0)))
        batches.append(np.asarray(function(filled))[: len(part)])
    return np.concatenate(batches)
