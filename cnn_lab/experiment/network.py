"""A model with its task and preprocessing, from a config or from a checkpoint."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn

from cnn_lab.config import ExperimentConfig
from cnn_lab.config.values import check_options
from cnn_lab.core.errors import ConfigError
from cnn_lab.core.targets import PLURALS, TargetSpec
from cnn_lab.data.normalize import Preprocess, padded_shape
from cnn_lab.layers.initialize import trace_module
from cnn_lab.models.heads import Classifier
from cnn_lab.models.registry import MODELS
from cnn_lab.tasks.losses import check_loss
from cnn_lab.tasks.task import TASKS, Task

OUTPUTS = {
    "logits": "one vector an image",
    "pixel_logits": "one vector a pixel",
    "images": "an image",
}
REMEDIES = {"numbers": " (classes in arrays of floats: labels.astype(int))"}
# Fields of heads: the share of the features that are dropped, the first that there is.
BEFORE_HEAD = ("input_dropout_rate", "dropout_rate")


@dataclasses.dataclass(frozen=True)
class Network:
    """A trained model with its task and preprocessing: no data, no optimizer.

    Attributes:
        model: the module.
        task: losses, metrics and predictions.
        image_shape: (h, w, c) of stored images, before `preprocess`.
        preprocess: from stored pixels to the model's input.
        measured: constants of the training examples that the task was made with.
    """

    model: nn.Module
    task: Task
    image_shape: tuple[int, int, int]
    preprocess: Preprocess
    measured: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def target(self) -> TargetSpec:
        """The kind of the targets, and their names."""
        return self.task.target

    @property
    def class_names(self) -> tuple[str, ...]:
        """Label to class name; empty where targets are no classes."""
        return self.target.class_names

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
            "target": dataclasses.asdict(self.target),
            "measured": dict(self.measured),
            "image_shape": list(self.image_shape),
            "preprocess": dataclasses.asdict(self.preprocess),
        }


def model_options(config: ExperimentConfig) -> dict[str, Any]:
    """The options of the model that a config names, checked."""
    entry = MODELS.lookup(config.model.name)
    return check_options(entry.make, config.model.options, "config.model.options")


def check_task(config: ExperimentConfig) -> type[Task]:
    """The class of the task that a config names, whose settings, loss and model fit it.

    Raises:
        ConfigError: an unknown name or option, a loss of other targets, a model of other outputs.
    """
    task = TASKS.lookup(config.task.name, "config.task.name")
    check_options(task, config.task.options, "config.task.options", "config.task.name")
    check_loss(config.task.loss or task.default_loss, config.task.loss_options, task.target_kind)
    task.check(config.task)
    outputs = MODELS.lookup(config.model.name).outputs
    if outputs != task.model_outputs:
        fitting = [name for name, entry in MODELS.items() if entry.outputs == task.model_outputs]
        raise ConfigError(
            f"The model {config.model.name} gives {OUTPUTS[outputs]}, but the task "
            f"{config.task.name} needs {OUTPUTS[task.model_outputs]}; take another model, such as "
            f"{', '.join(fitting[:3])}, or another config.task.name.",
            where="config.model.name",
            found=config.model.name,
            allowed=", ".join(fitting),
        )
    return task


def make_task(config: ExperimentConfig, target: TargetSpec, measured: Mapping[str, Any]) -> Task:
    """The task that a config names.

    Args:
        config: the experiment.
        target: of the data.
        measured: what the task measured on the training examples.

    Raises:
        ConfigError: the data have targets of another kind.
    """
    task = check_task(config)
    if target.kind != task.target_kind:
        fitting = [name for name, other in TASKS.items() if other.target_kind == target.kind]
        raise ConfigError(
            f"The targets of {config.data.name} are {PLURALS[target.kind]}, but the task "
            f"{config.task.name} needs {PLURALS[task.target_kind]}; set config.task.name to "
            f"{' or '.join(fitting)}, or take other data{REMEDIES.get(target.kind, '')}.",
            where="config.task.name",
            found=config.task.name,
            allowed=", ".join(fitting),
        )
    options = check_options(task, config.task.options, "config.task.options", "config.task.name")
    return task(config.task, target, measured, **options)


def make_model(config: ExperimentConfig, num_outputs: int) -> nn.Module:
    """The model that a config names, for that many classes or numbers."""
    options = model_options(config)  # an unknown model is refused here, with the nearest names
    model = MODELS[config.model.name].make(num_outputs, **options)
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
    task = make_task(config, TargetSpec.from_json(metadata["target"]), metadata["measured"])
    return Network(
        model=make_model(config, task.num_outputs),
        task=task,
        image_shape=tuple(metadata["image_shape"]),
        preprocess=Preprocess.from_json(metadata["preprocess"]),
        measured=metadata["measured"],
    )
