"""Predictions for images by a trained network."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, UInt8

from cnn_lab.core.arrays import Tree
from cnn_lab.data.decoding import looks_inverted, read_image_file
from cnn_lab.experiment.restore import RestoredRun
from cnn_lab.models.create import feature_maps, map_shapes
from cnn_lab.tasks.task import Predictions

BATCH_SIZE = 64


@dataclasses.dataclass(frozen=True)
class ImagePredictions:
    """Predictions for images, and which of these may be negatives of what the network knows.

    Those are about as bright as the negative of one of the training images; none in colour.
    """

    predictions: Predictions
    may_be_negatives: Bool[np.ndarray, " n"]


class Predictor:
    """A network's outputs and named maps for images, compiled once for each size of batch."""

    def __init__(self, restored: RestoredRun) -> None:
        self.restored = restored
        self._compiled: dict[str | None, Callable[..., Array]] = {}

    @functools.cached_property
    def map_names(self) -> list[str]:
        """Names of the maps of the backbone, finest first."""
        network = self.restored.network
        return list(map_shapes(network.model, network.input_shape))

    def __call__(self, images: UInt8[np.ndarray, "n h w c"]) -> ImagePredictions:
        """Predictions for images of the size and channels that the network was trained on."""
        network = self.restored.network
        mean, may_be_negatives = network.preprocess.mean, np.zeros(len(images), bool)
        if len(mean) == 1:
            may_be_negatives = looks_inverted(images, mean[0])
        return ImagePredictions(network.task.predictions(self._run(images)), may_be_negatives)

    def features(
        self, images: UInt8[np.ndarray, "n h w c"], name: str
    ) -> Float[np.ndarray, "n ..."]:
        """A named map of the backbone, as in evaluation."""
        return self._run(images, name)

    def _run(
        self, images: UInt8[np.ndarray, "n h w c"], name: str | None = None
    ) -> Float[np.ndarray, "n ..."]:
        """The map of a name, or the model's outputs, for batches of equal size."""
        if name not in self._compiled:
            self._compiled[name] = self._compile(name)
        # Powers of two, so that calls with other numbers of images share programs.
        batch_size = min(BATCH_SIZE, 1 << (len(images) - 1).bit_length())
        batches = []
        for start in range(0, len(images), batch_size):
            part = images[start : start + batch_size]
            filled = np.pad(part, ((0, batch_size - len(part)), (0, 0), (0, 0), (0, 0)))
            found = self._compiled[name](self.restored.variables, filled)
            batches.append(np.asarray(found)[: len(part)])
        return np.concatenate(batches)

    def _compile(self, name: str | None) -> Callable[..., Array]:
        network = self.restored.network

        @jax.jit
        def outputs_of(variables: Tree, images: Array) -> Array:
            inputs = network.preprocess(images)
            if name is not None:
                return feature_maps(network.model, variables, inputs)[name]
            outputs: Any = network.model.apply(variables, inputs, train=False)
            return outputs

        return outputs_of


def predict(restored: RestoredRun, images: UInt8[np.ndarray, "n h w c"]) -> ImagePredictions:
    """Predictions for images of the size and channels that the network was trained on."""
    return Predictor(restored)(images)


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
