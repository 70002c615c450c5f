"""A model with its task, classes and preprocessing, from a config or from a checkpoint."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import numpy as np
from jaxtyping import Int

from cnn_lab.config import ExperimentConfig
from cnn_lab.config.values import check_options
from cnn_lab.core.errors import ConfigError
from cnn_lab.data.normalize import Preprocess, padded_shape
from cnn_lab.layers.initialize import trace_module
from cnn_lab.models.heads import Classifier
from cnn_lab.models.registry import MODELS
from cnn_lab.tasks.task import TASKS, Task

# Fields of heads: the share of the features that are dropped, the first that there is.
BEFORE_HEAD = ("input_dropout_rate", "dropout_rate")


@dataclasses.dataclass(frozen=True)
class Network:
    """A trained model with its task, classes and preprocessing: no data, no optimizer.

    Attributes:
        model: the module.
        task: losses and metrics.
        class_names: label to name.
        image_shape: (h, w, c) of stored images, before `preprocess`.
        preprocess: from stored pixels to the model's input.
        class_weights: factors of the losses of each class, None without.
    """

    model: nn.Module
    task: Task
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    preprocess: Preprocess
    class_weights: tuple[float, ...] | None = None

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(h, w, c) of the model's input."""
        return padded_shape(self.image_shape, self.preprocess.pad)

    def variable_shapes(self) -> dict[str, Any]:
        """Shapes of the model's variables by collection; nothing is computed."""
        return dict(trace_module(self.model, self.input_shape).shapes)

    def metadata(self) -> dict[str, Any]:
        """JSON values that are saved with a checkpoint; `network_from_metadata` reads them back."""
        return {
            "class_weights": self.class_weights,
            "class_names": list(self.class_names),
            "image_shape": list(self.image_shape),
            "preprocess": dataclasses.asdict(self.preprocess),
        }


def model_options(config: ExperimentConfig) -> dict[str, Any]:
    """The options of the model that a config names, checked."""
    entry = MODELS.lookup(config.model.name)
    return check_options(entry.make, config.model.options, "config.model.options")


def make_task(config: ExperimentConfig, class_weights: Sequence[float] | None) -> Task:
    """The task that a config names."""
    make = TASKS.lookup(config.task.name)
    return make(config.task.loss, dict(config.task.loss_options), class_weights)


def class_weights(
    config: ExperimentConfig, labels: Int[np.ndarray, " n"], class_names: Sequence[str]
) -> tuple[float, ...] | None:
    """One factor a class, from the labels of the training examples; None where not asked for.

    Raises:
        ConfigError: there are not as many weights as classes, or all are 0.
    """
    wanted = config.task.class_weights
    if wanted is None:
        return None
    if wanted != "balanced":
        if not any(wanted):
            problem = (
                "config.task.class_weights are all 0, so nothing would be learned; set at least "
                "one above 0."
            )
            raise ConfigError(problem, where="config.task.class_weights", found=wanted)
        if len(wanted) != len(class_names):
            problem = (
                f"config.task.class_weights has {len(wanted)} values, but {config.data.name} has "
                f"{len(class_names)} classes; give one value a class, or 'balanced'."
            )
            raise ConfigError(problem, where="config.task.class_weights", found=wanted)
        return tuple(wanted)
    counts = np.bincount(labels, minlength=len(class_names))
    present = counts > 0
    weights = np.where(present, len(labels) / (present.sum() * np.maximum(counts, 1)), 1.0)
    return tuple(weights.tolist())


def make_model(config: ExperimentConfig, num_classes: int) -> nn.Module:
    """The model that a config names, for that many classes."""
    options = model_options(config)  # an unknown model is refused here, with the nearest names
    model = MODELS[config.model.name].make(num_classes, **options)
    if config.transfer is None or config.transfer.dropout is None:
        return model
    return _with_dropout(model, config.model.name, config.transfer.dropout)


def _with_dropout(model: nn.Module, name: str, rate: float) -> nn.Module:
    """The model whose head drops a share of the features that it gets, in training."""
    head = getattr(model, "head", None)
    fields = {field.name for field in dataclasses.fields(head)} if head is not None else set()
    found = [field for field in BEFORE_HEAD if field in fields]
    if not found:
        problem = (
            f"config.transfer.dropout is {rate:g}, but the head of {name} has no place for it; set "
            "it to none."
        )
        raise ConfigError(problem, where="config.transfer.dropout", found=rate)
    assert isinstance(model, Classifier)
    changed: dict[str, Any] = {found[0]: rate}
    return model.clone(head=model.head.clone(**changed))


def network_from_metadata(config: ExperimentConfig, metadata: Mapping[str, Any]) -> Network:
    """Rebuilds the network of a checkpoint from its config and metadata."""
    weights = metadata.get("class_weights")
    return Network(
        model=make_model(config, len(metadata["class_names"])),
        task=make_task(config, weights),
        class_names=tuple(metadata["class_names"]),
        image_shape=tuple(metadata["image_shape"]),
        preprocess=Preprocess.from_json(metadata["preprocess"]),
        class_weights=tuple(weights) if weights else None,
    )
