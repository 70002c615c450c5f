"""Tasks: all that differs between learning one thing and another, behind one protocol.

A file per task registers a subclass of `Task`. The step, the evaluation, predictions, reports and
the config know this base and no task by its name.
"""

import abc
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from cnn_lab.config import TaskConfig
from cnn_lab.config.values import check_options
from cnn_lab.core.arrays import PerExample, Tree
from cnn_lab.core.errors import ConfigError
from cnn_lab.core.registry import Registry
from cnn_lab.core.targets import TargetKind, TargetSpec

Better = Mapping[str, Literal["max", "min"]]


class Predictions(abc.ABC):
    """Predictions for images, as a person wants to read them."""

    @abc.abstractmethod
    def rows(self) -> list[dict[str, Any]]:
        """One row of a table an image: plain values by column."""

    @abc.abstractmethod
    def describe(self, top: int) -> list[str]:
        """One line an image; of several answers to one it shows the `top` best."""


class Task(abc.ABC):
    """The targets, losses, metrics and predictions of one thing to be learned.

    The parameters of a subclass's `__init__` that have a default are its options in a config
    (`config.task.options`).

    Args:
        config: the branch `task` of an experiment's config.
        target: of the data.
        measured: what `measure` returned for the training examples.

    Attributes:
        target_kind: the kind of targets that the data must have.
        model_outputs: the outputs of the models that fit: a kind of `ModelEntry.outputs`.
        better: validation metrics, each with the direction that is better; the first one selects
            the best weights where the config names none.
        default_loss: the loss where the config names none.
        has_classes: whether outputs are logits of classes, which have probabilities and confusions.
    """

    target_kind: ClassVar[TargetKind] = "class"
    model_outputs: ClassVar[str] = "logits"
    better: ClassVar[Better]
    default_loss: ClassVar[str]
    has_classes: ClassVar[bool] = False

    def __init__(self, config: TaskConfig, target: TargetSpec, measured: Mapping[str, Any]) -> None:
        del config, measured
        self.target = target

    @classmethod
    def check(cls, config: TaskConfig) -> None:
        """Raises a `ConfigError` for settings that the task cannot serve; data are not open yet."""
        del config

    @classmethod
    def measure(
        cls, config: TaskConfig, target: TargetSpec, labels: Shaped[np.ndarray, "n ..."]
    ) -> dict[str, Any]:
        """Constants of the training examples that the task needs; JSON, saved with the weights."""
        del config, target, labels
        return {}

    @property
    def num_outputs(self) -> int:
        """Number of values that the model gives an image."""
        return len(self.target.names)

    @abc.abstractmethod
    def losses(self, outputs: Any, batch: Mapping[str, Tree]) -> PerExample:
        """Per-example losses [n], which the step minimises, of a batch with `label`."""

    @abc.abstractmethod
    def metrics(self, outputs: Any, batch: Mapping[str, Tree]) -> dict[str, PerExample]:
        """Per-example values [n] by name, `loss` among them; their means become the metrics."""

    def summarize(self, means: Mapping[str, float]) -> dict[str, float]:
        """The metrics that follow from the means of per-example values over a split.

        Those means themselves, unless a metric is no mean, as a root or a share of variance. Other
        names, such as `gradient_norm`, stay as they are.
        """
        return dict(means)

    def average(self, outputs: Float[Array, "views n k"]) -> Float[Array, "n k"]:
        """The outputs of several views of the same images, or of several networks, as one."""
        return jnp.mean(outputs, axis=0)

    @abc.abstractmethod
    def predictions(self, outputs: Float[np.ndarray, "n k"]) -> Predictions:
        """The predictions that the model's outputs stand for."""


# (task config, target, measured constants, **options) -> task
TASKS: Registry[type[Task]] = Registry("task", "cnn_lab.tasks")


def create_task(
    name: str,
    names: Sequence[str] | int,
    *,
    loss: str | None = None,
    loss_options: Mapping[str, Any] | None = None,
    measured: Mapping[str, Any] | None = None,
    **options: Any,
) -> Task:
    """A task by its name, for a training loop of one's own.

    Args:
        name: `classification`, `regression`, or one of your own.
        names: of the classes or numbers, or how many there are.
        loss: by default the task's own.
        loss_options: those that the loss declares.
        measured: what the task's `measure` gives for the training labels, such as the mean and
            deviation of numbers; by default nothing is known of them.
        options: those that the task declares.

    Raises:
        ConfigError: an unknown name or option, a loss of other targets, or one text as `names`.

    >>> task = create_task("classification", ["cat", "dog"], loss="focal")
    >>> task.num_outputs
    2
    """
    if isinstance(names, str):  # a sequence of letters otherwise
        allowed = "a list of names, such as ['cat', 'dog'], or their number"
        raise ConfigError(where="names", found=names, allowed=allowed)
    task = TASKS.lookup(name, "name")
    chosen = check_options(task, options, "options", "name")
    config = TaskConfig(name=name, options=chosen, loss=loss, loss_options=dict(loss_options or {}))
    if isinstance(names, int):
        names = [str(index) for index in range(names)]
    return task(config, TargetSpec(task.target_kind, tuple(names)), measured or {}, **chosen)


class WithAuxiliary(flax.struct.PyTreeNode):
    """Outputs of the last head and, in training, of heads on earlier maps.

    The leaves are arrays, or their shapes where outputs are only planned.

    Attributes:
        logits: the outputs of the last head, [n k].
        auxiliary: the outputs of each earlier head, [n k] too; empty in evaluation.
        weight: of each auxiliary loss beside the last head's.
    """

    logits: Tree
    auxiliary: tuple[Tree, ...]
    weight: float = flax.struct.field(pytree_node=False)


def last_logits(outputs: Tree) -> Tree:
    """The logits of the last head [n k]."""
    return outputs.logits if isinstance(outputs, WithAuxiliary) else outputs


def all_heads(outputs: Tree) -> Sequence[tuple[jax.Array, float]]:
    """The outputs [n k] of each head and the weight of its loss, the last head first."""
    if not isinstance(outputs, WithAuxiliary):
        return [(outputs, 1.0)]
    return [(outputs.logits, 1.0), *((each, outputs.weight) for each in outputs.auxiliary)]
