"""The network, the task and its loss, the optimizer, the average of the weights and transfer."""

import dataclasses
from typing import Any, Literal

from cnn_lab.config.node import Node, runtime
from cnn_lab.config.values import Count, Natural, NonNegative, Positive, ProperFraction, Share


@dataclasses.dataclass(kw_only=True)
class ModelConfig(Node):
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
        name: as `cnn-lab list tasks` shows it.
        options: those that the task declares; `cnn-lab list tasks NAME` shows them.
        loss: as `cnn-lab list losses` shows it; None is the task's own.
        loss_options: those that the loss declares, such as `label_smoothing`.
        class_weights: factors of the losses of each class's examples; `balanced` makes them
            inversely proportional to the class's share of the training examples, 1 on average.
    """

    name: str = "classification"
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    loss: str | None = None
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


@dataclasses.dataclass(kw_only=True)
class TransferConfig(Node):
    """The weights of another run to start from; which are trained, how fast and from which epoch.

    Attributes:
        source: folder of the run, trained or imported; its model is this one's. It may be moved
            between two sessions of a training, not exchanged.
        checkpoint: which of its weights: `best`, `latest` or a step.
        strategy: the trained part: `head` alone; `last_stages:N`, the head and that many stages
            before it; `stages:A,B`, the stages of these names; `all`; `gradual`, the head first and
            then stage after stage; `logistic`, the output layer alone, fitted to its optimum by
            scikit-learn with an L2 penalty whose strength is chosen on the validation split, in
            place of `optim` and `train`; or `auto`, by the number of training images.
        rates: in place of a strategy: regular expression of parameter paths to the factor of the
            learning rate, 0 for frozen; every parameter must match exactly one.
        stage_decay: factor of the learning rate from each stage to the one before it.
        epochs_per_stage: of `gradual`: epochs between a stage and the one before it.
        classes: rows of the output layer for classes whose name the source has too: `shared` keeps
            them, `fresh` initialises all of them.
        fresh: regular expression of parameter paths that are initialised too.
        dropout: share of the features that are dropped in training before they reach the head; None
            leaves it to the model.
        cache_features: where the head alone is trained, on images that are the same in every epoch,
            run the backbone over them once and keep its features beside the data.
        augmented_passes: where the head alone is trained: augmented passes over the images whose
            features are kept, for the epochs in turn; 0 augments images in every epoch.
        l2_sp: weight of 1/2 * squared distance of the kernels from the source's, added to the loss
            (of vectors too where `optim.l2_vectors` is set); `optim.l2` is left for those without a
            source.
    """

    source: str = runtime("")
    checkpoint: str = "best"
    strategy: str = "auto"
    rates: dict[str, Any] = dataclasses.field(default_factory=dict)
    stage_decay: Share = 1.0
    epochs_per_stage: Count = 1
    classes: Literal["shared", "fresh"] = "shared"
    fresh: str | None = None
    dropout: ProperFraction | None = None
    cache_features: bool = runtime(True)
    augmented_passes: Natural = 0
    l2_sp: NonNegative = 0.0
