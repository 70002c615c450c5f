"""The network, the task and its loss, the optimizer and the average of the weights."""

import dataclasses
from typing import Any, Literal

from cnn_lab.config.node import Node
from cnn_lab.config.values import Count, Natural, NonNegative, Positive, ProperFraction


@dataclasses.dataclass(kw_only=True)
class ModelSpec(Node):
    """A model by its name (`cnn-lab list models`).

    Attributes:
        name: as `cnn-lab list models` shows it.
        options: those that the model declares; `cnn-lab list models NAME` shows them.
    """

    name: str = "lenet5"
    options: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(kw_only=True)
class TaskConfig(Node):
    """A task (`cnn-lab list tasks`) and the loss that is minimised.

    Attributes:
        name: `classification`.
        loss: as `cnn-lab list losses` shows it.
        loss_options: those that the loss declares, such as `label_smoothing`.
        class_weights: factors of the losses of each class's examples; `balanced` makes them
            inversely proportional to the class's share of the training examples, 1 on average.
    """

    name: str = "classification"
    loss: str = "cross_entropy"
    loss_options: dict[str, Any] = dataclasses.field(default_factory=dict)
    class_weights: Literal["balanced"] | tuple[NonNegative, ...] | None = None


@dataclasses.dataclass(kw_only=True)
class ScheduleConfig(Node):
    """The schedule of the learning rate (`cnn-lab list schedules`).

    Attributes:
        name: as `cnn-lab list schedules` shows it.
        warmup_steps: steps of linear rise from 0 before the schedule starts.
        warmup_epochs: the same in epochs, in place of steps.
        options: those that the schedule's function declares, such as `final_fraction`.
    """

    name: str = "constant"
    warmup_steps: Natural = 0
    warmup_epochs: NonNegative = 0.0
    options: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(kw_only=True)
class OptimConfig(Node):
    """The optimizer (`cnn-lab list optimizers`), its schedule, penalties and limits.

    Attributes:
        name: as `cnn-lab list optimizers` shows it.
        learning_rate: peak rate, after warm-up.
        options: those that the optimizer's function declares, such as `momentum` or `weight_decay`.
        schedule: the schedule of the rate.
        l2: weight of 1/2 * sum of squared kernels, added to the loss.
        l2_vectors: let `l2` take in biases, gains and other vectors.
        l1: weight of the sum of absolute kernels, added to the loss; with `l2` an elastic net.
        l1_method: `subgradient` adds the sign to the gradient; `proximal` shrinks the weights after
            each step, which makes many of them exactly 0.
        max_norm: longest vector of weights into one unit; longer ones are scaled back.
        clip_value: largest absolute value of any entry of the gradient.
        clip_adaptive: largest ratio of the norms of a unit's gradient and weights.
        clip_norm: largest norm of the whole gradient; of several clips it comes last.
    """

    name: str = "momentum"
    learning_rate: Positive = 0.1
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    schedule: ScheduleConfig = dataclasses.field(default_factory=ScheduleConfig)
    l2: NonNegative = 0.0
    l2_vectors: bool = False
    l1: NonNegative = 0.0
    l1_method: Literal["subgradient", "proximal"] = "subgradient"
    max_norm: Positive | None = None
    clip_value: Positive | None = None
    clip_adaptive: Positive | None = None
    clip_norm: Positive | None = None


@dataclasses.dataclass(kw_only=True)
class AverageConfig(Node):
    """An average of the weights along the training, which is what is evaluated and used.

    Attributes:
        kind: `ema`, an exponential moving average over steps, statistics of normalisation included;
            `swa`, the plain mean of the weights at the ends of epochs (stochastic weight
            averaging), whose statistics are measured on training images before each evaluation.
        decay: of `ema`: share of the average that a step keeps; lower in the first steps.
        start_epoch: of `swa`: epochs done when averaging starts; until then there is no average.
        every_epochs: of `swa`: epochs between weights that are averaged.
    """

    kind: Literal["ema", "swa"] = "ema"
    decay: ProperFraction = 0.999
    start_epoch: Natural = 0
    every_epochs: Count = 1
