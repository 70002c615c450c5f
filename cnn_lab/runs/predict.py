"""Class probabilities of images by a trained network."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, UInt8

from cnn_lab.data.decoding import looks_inverted, read_image_file
from cnn_lab.experiment.restore import RestoredRun

BATCH_SIZE = 64


@dataclasses.dataclass(frozen=True)
class ImagePredictions:
    """Predictions for images.

    Those that may be negatives are about as bright as one of the training images; none in colour.
    """

    class_names: tuple[str, ...]
    probabilities: Float[np.ndarray, "n k"]
    may_be_negatives: Bool[np.ndarray, " n"]

    def top(self, count: int) -> list[list[tuple[str, float]]]:
        """Names and probabilities of the most probable classes of each image, best first."""
        return [
            [(self.class_names[k], float(row[k])) for k in np.argsort(-row, kind="stable")[:count]]
            for row in self.probabilities
        ]


def predict_files(
    restored: RestoredRun, paths: Sequence[Path], *, invert: bool = False
) -> ImagePredictions:
    """Classifies PNG or JPEG files, at least one, in the colours and size of the training images.

    `invert` exchanges black and white first. A file that cannot be read is a `DataError`.
    """
    shape = restored.network.image_shape
    images = np.stack([read_image_file(path, shape) for path in paths])
    return predict(restored, 255 - images if invert else images)


def predict(restored: RestoredRun, images: UInt8[np.ndarray, "n h w c"]) -> ImagePredictions:
    """Classifies images of the size and channels that the network was trained on."""
    network = restored.network

    @jax.jit
    def probabilities_of(variables, images):
        logits = network.model.apply(variables, network.preprocess(images), train=False)
        return jax.nn.softmax(jnp.asarray(logits))

    batch_size = min(BATCH_SIZE, len(images))
    batches = []
    for start in range(0, len(images), batch_size):
        part = images[start : start + batch_size]
        filled = np.pad(part, ((0, batch_size - len(part)), (0, 0), (0, 0), (0, 0)))
        batches.append(np.asarray(probabilities_of(restored.variables, filled))[: len(part)])
    mean, may_be_negatives = network.preprocess.mean, np.zeros(len(images), bool)
    if len(mean) == 1:
        may_be_negatives = looks_inverted(images, mean[0])
    return ImagePredictions(network.class_names, np.concatenate(batches), may_be_negatives)
