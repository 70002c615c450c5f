"""Classification: one label per image."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped

from cnn_lab.config import TaskConfig
from cnn_lab.core.arrays import Logits, PerExample, Tree
from cnn_lab.core.errors import ConfigError
from cnn_lab.core.targets import TargetSpec
from cnn_lab.tasks.losses import make_loss
from cnn_lab.tasks.metrics import accuracy
from cnn_lab.tasks.task import (
    TASKS,
    Better,
    Predictions,
    Task,
    WithAuxiliary,
    all_heads,
    last_logits,
)


@dataclasses.dataclass(frozen=True)
class ClassPredictions(Predictions):
    """Class probabilities of images.

    Attributes:
        class_names: label to name.
        probabilities: [n k].
    """

    class_names: tuple[str, ...]
    probabilities: Float[np.ndarray, "n k"]

    @property
    def labels(self) -> Int[np.ndarray, " n"]:
        """The most probable class of each image: its place in `class_names`, the first on ties."""
        return self.probabilities.argmax(axis=1)

    @property
    def names(self) -> list[str]:
        """The name of the most probable class of each image."""
        return [self.class_names[label] for label in self.labels]

    def top(self, count: int) -> list[list[tuple[str, float]]]:
        """Names and probabilities of the most probable classes of each image, best first."""
        return [
            [(self.class_names[k], float(row[k])) for k in np.argsort(-row, kind="stable")[:count]]
            for row in self.probabilities
        ]

    def rows(self) -> list[dict[str, Any]]:
        """The most probable class of each image, and its probability."""
        best = (row[0] for row in self.top(1))
        return [{"class": name, "probability": probability} for name, probability in best]

    def describe(self, top: int) -> list[str]:
        """Names and probabilities of the `top` most probable classes, one line an image."""
        return ["  ".join(f"{name} {p:.4f}" for name, p in row) for row in self.top(top)]


@TASKS.register(name="classification")
class Classification(Task):
    """The task of naming one class per image.

    The loss of auxiliary heads is added to that of the last one; metrics see the last one only.
    """

    better: ClassVar[Better] = {"accuracy": "max", "loss": "min"}
    default_loss = "cross_entropy"
    has_classes = True

    def __init__(self, config: TaskConfig, target: TargetSpec, measured: Mapping[str, Any]) -> None:
        super().__init__(config, target, measured)
        self.class_weights: Sequence[float] | None = measured.get("class_weights")
        loss = config.loss or self.default_loss
        self._loss = make_loss(loss, config.loss_options, self.class_weights)

    @classmethod
    def measure(
        cls, config: TaskConfig, target: TargetSpec, labels: Shaped[np.ndarray, "n ..."]
    ) -> dict[str, Any]:
        """One factor a class, where the config asks for class weights.

        Raises:
            ConfigError: there are not as many weights as classes, or all are 0.
        """
        if config.class_weights is None:
            return {}
        return {"class_weights": _class_weights(config, labels, target.names)}

    def losses(self, outputs: Logits | WithAuxiliary, batch: Mapping[str, Tree]) -> PerExample:
        """Per-example losses [n] of a batch with `label`, [n] or shares of the classes [n k]."""
        (logits, _), *others = all_heads(outputs)
        losses = self._loss(logits, batch["label"])
        for logits, weight in others:
            losses = losses + weight * self._loss(logits, batch["label"])
        return losses

    def metrics(
        self, outputs: Logits | WithAuxiliary, batch: Mapping[str, Tree]
    ) -> dict[str, PerExample]:
        """Loss and accuracy of each example [n]."""
        return {
            "loss": self.losses(outputs, batch),
            "accuracy": accuracy(last_logits(outputs), batch["label"]),
        }

    def average(self, outputs: Float[Array, "views n k"]) -> Logits:
        """The logarithm of the mean of the views' probabilities, which are logits too."""
        summed = jax.nn.logsumexp(jax.nn.log_softmax(outputs), axis=0)
        return summed - np.log(len(outputs)).item()

    def predictions(self, outputs: Float[np.ndarray, "n k"]) -> ClassPredictions:
        """The probabilities that logits stand for."""
        probabilities = np.asarray(jax.nn.softmax(jnp.asarray(outputs)))
        return ClassPredictions(self.target.names, probabilities)


def classification(
    loss: str = "cross_entropy",
    loss_options: Mapping[str, Any] | None = None,
    class_weights: Sequence[float] | None = None,
    class_names: Sequence[str] = (),
) -> Classification:
    """The task of naming one class per image, by the loss of that name (`losses.make_loss`).

    The names of the classes are for predictions alone.
    """
    config = TaskConfig(loss=loss, loss_options=dict(loss_options or {}))
    measured = {} if class_weights is None else {"class_weights": class_weights}
    return Classification(config, TargetSpec("class", tuple(class_names)), measured)


def _class_weights(
    config: TaskConfig, labels: Int[np.ndarray, " n"], class_names: Sequence[str]
) -> list[float]:
    """One factor a class: the config's, or those that give all classes the same weight."""
    wanted, where = config.class_weights, "config.task.class_weights"
    assert wanted is not None
    if wanted == "balanced":
        counts = np.bincount(labels, minlength=len(class_names))
        present = counts > 0
        weights = np.where(present, len(labels) / (present.sum() * np.maximum(counts, 1)), 1.0)
        return weights.tolist()
    if not any(wanted):
        problem = f"{where} are all 0, so nothing would be learned; set at least one above 0."
        raise ConfigError(problem, where=where, found=wanted)
    if len(wanted) != len(class_names):
        problem = (
            f"{where} has {len(wanted)} values, but the data have {len(class_names)} classes; give "
            "one value a class, or 'balanced'."
        )
        raise ConfigError(problem, where=where, found=wanted)
    return list(wanted)
