"""Regression: one or more numbers per image.

The network learns numbers of mean 0 and deviation 1, by the mean and deviation of the training
examples, so that targets of any unit are learned at the same rates; metrics and predictions are in
the unit of the data.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Float32, Shaped

from cnn_lab.config import TaskConfig
from cnn_lab.core.arrays import Numbers, PerExample, Tree
from cnn_lab.core.errors import ConfigError
from cnn_lab.core.targets import TargetSpec
from cnn_lab.tasks.losses import make_loss
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
class NumberPredictions(Predictions):
    """Numbers that were predicted for images.

    Attributes:
        names: of the numbers.
        values: [n d], in the unit of the data.
    """

    names: tuple[str, ...]
    values: Float32[np.ndarray, "n d"]

    def rows(self) -> list[dict[str, Any]]:
        """The numbers of each image by name."""
        return [dict(zip(self.names, row, strict=True)) for row in self.values.tolist()]

    def describe(self, top: int) -> list[str]:
        """Names and numbers, one line an image."""
        del top  # each number is one answer
        return [
            "  ".join(f"{name} {value:.6g}" for name, value in row.items()) for row in self.rows()
        ]


@TASKS.register(name="regression")
class Regression(Task):
    """The task of predicting numbers.

    Metrics are means over the numbers: `mae` the mean absolute error, `rmse` the root of the mean
    squared error, `r2` the share of the variance that is explained (1 is perfect, 0 as good as the
    mean of the split).

    The best weights are those of the lowest loss where the config names no metric: the loss is of
    standardised numbers, each of which counts alike, while `mae` and `rmse` are means over numbers
    in their units, of which the largest decides. For one number and `mse` both choose the same.
    Losses of another kind are not comparable: to compare trainings by several, name `r2`.

    Args:
        standardize: whether the network learns numbers of mean 0 and deviation 1; without it, those
            of the data.
    """

    target_kind = "numbers"
    better: ClassVar[Better] = {"loss": "min", "rmse": "min", "mae": "min", "r2": "max"}
    default_loss = "mse"

    def __init__(
        self,
        config: TaskConfig,
        target: TargetSpec,
        measured: Mapping[str, Any],
        standardize: bool = True,
    ) -> None:
        super().__init__(config, target, measured)
        self._standardize = standardize
        num_values = len(target.names)
        self._mean = np.asarray([measured.get("mean", [0.0] * num_values)], np.float32)  # [1 d]
        self._std = np.asarray([measured.get("std", [1.0] * num_values)], np.float32)
        self._loss = make_loss(
            config.loss or self.default_loss, config.loss_options, target="numbers"
        )

    @classmethod
    def check(cls, config: TaskConfig) -> None:
        """Raises a `ConfigError` for class weights."""
        if config.class_weights is not None:
            problem = (
                "config.task.class_weights is set, but regression has no classes; leave it out."
            )
            where = "config.task.class_weights"
            raise ConfigError(problem, where=where, found=config.class_weights)

    @classmethod
    def measure(
        cls, config: TaskConfig, target: TargetSpec, labels: Shaped[np.ndarray, "n ..."]
    ) -> dict[str, Any]:
        """Mean and deviation of each number; a constant one gets deviation 1."""
        del config, target
        numbers = np.asarray(labels, np.float64)
        std = numbers.std(axis=0)
        return {"mean": numbers.mean(axis=0).tolist(), "std": np.where(std > 0, std, 1.0).tolist()}

    def losses(self, outputs: Numbers | WithAuxiliary, batch: Mapping[str, Tree]) -> PerExample:
        """Per-example losses [n] of a batch with `label` [n d]; those of all heads added up."""
        targets = self._standardized(batch) if self._standardize else batch["label"]
        (numbers, _), *others = all_heads(outputs)
        losses = self._loss(numbers, targets)
        for numbers, weight in others:
            losses = losses + weight * self._loss(numbers, targets)
        return losses

    def metrics(
        self, outputs: Numbers | WithAuxiliary, batch: Mapping[str, Tree]
    ) -> dict[str, PerExample]:
        """Loss, and of each number the errors and powers that `summarize` needs [n]."""
        targets = self._standardized(batch)
        numbers = last_logits(outputs).astype(jnp.float32)
        if not self._standardize:
            numbers = (numbers - self._mean) / self._std
        errors = numbers - targets
        values = {"loss": self.losses(outputs, batch)}
        for index in range(self.num_outputs):
            error, target = errors[:, index], targets[:, index]
            values |= {
                f"absolute_error_{index}": jnp.abs(error),
                f"squared_error_{index}": jnp.square(error),
                f"target_{index}": target,
                f"squared_target_{index}": jnp.square(target),
            }
        return values

    def summarize(self, means: Mapping[str, float]) -> dict[str, float]:
        """The loss, and the means over the numbers of `mae`, `rmse` and `r2`."""
        figures = dict(means)
        mae, rmse, r2 = [], [], []
        for index, unit in enumerate(self._std[0].tolist()):
            squared_error = figures.pop(f"squared_error_{index}")
            variance = figures.pop(f"squared_target_{index}") - figures.pop(f"target_{index}") ** 2
            mae.append(unit * figures.pop(f"absolute_error_{index}"))
            rmse.append(unit * math.sqrt(squared_error))
            # Of equal targets nothing is left to explain.
            r2.append(1 - squared_error / variance if variance > 0 else float(squared_error == 0))
        for name, values in {"mae": mae, "rmse": rmse, "r2": r2}.items():
            figures[name] = sum(values) / len(values)
        return figures

    def predictions(self, outputs: Float[np.ndarray, "n k"]) -> NumberPredictions:
        """The outputs in the unit of the data."""
        values = np.asarray(outputs, np.float32)
        if self._standardize:
            values = values * self._std + self._mean
        return NumberPredictions(self.target.names, values)

    def _standardized(self, batch: Mapping[str, Tree]) -> Numbers:
        return (batch["label"] - self._mean) / self._std
