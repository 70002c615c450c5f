"""One experiment as typed dataclasses.

An experiment file defines `get_config()` (or `get_config(argument)`) and returns an
`ExperimentConfig`; every field can be overridden by `--config.a.b=value`. Durations carry their
unit in the name. A field marked `runtime()` says where or how fast a run happens, not what it
computes, so it may differ when a run is resumed. Only the standard library is used here.
"""

import dataclasses
from typing import Annotated, Any, Literal

from cnn_lab.core.ranges import (
    Count,
    Fraction,
    Natural,
    NonNegative,
    Positive,
    ProperFraction,
    Range,
)
from cnn_lab.core.typed import Node

RUNTIME = {"runtime": True}
NO_DATA = "none"  # the name of the data of a run whose weights came from elsewhere
Seed = Annotated[int, Range(least=0, below=2**32)]


def runtime(default: Any) -> Any:
    """A field that does not change what is computed, such as a folder or a device count."""
    return dataclasses.field(default=default, metadata=RUNTIME)


@dataclasses.dataclass(kw_only=True)
class ModelSpec(Node):
    """A model by its name in `cnn_lab.models.MODELS`.

    Attributes:
        name: as `cnn-lab list models` shows it.
        options: what the model declares; `cnn-lab list models NAME` shows them.
    """

    name: str = "lenet5"
    options: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(kw_only=True)
class DataConfig(Node):
    """Which images, in which form, split how, fed by which pipeline.

    Attributes:
        name: a catalogue name (`mnist`), `folder:PATH`, `tfds:PATH` or `tfds:NAME`.
        image_size: (height, width) that images are brought to; None keeps their own.
        pad: rows and columns of black added on every side after resizing, in pixels.
        channels: 1 or 3; None keeps the data's own.
        mean: per-channel mean in [0, 1]; None measures the training split.
        std: per-channel standard deviation; None measures the training split.
        num_validation: examples held out of train, or taken from the data's own validation split
            where there is one; None uses `validation_fraction`.
        validation_fraction: share of train held out where the data have no validation split of
            their own; 0 looks at no validation examples.
        num_train: examples of train that are used, each class in proportion; None uses all.
        split_seed: seed of these choices, apart from the training seed.
        pipeline: `resident` keeps the whole data set on the devices, `streaming` decodes in
            workers, `auto` decides by size.
        resident_limit_mib: largest data set that `auto` keeps resident.
        num_workers: decoding processes of the streaming pipeline; 0 decodes in threads.
        data_dir: where prepared data sets live; None is the user's cache.
    """

    name: str = "digits"
    image_size: tuple[Count, Count] | None = None
    pad: Natural = 0
    channels: Literal[1, 3] | None = None
    mean: tuple[Fraction, ...] | None = None
    std: tuple[Positive, ...] | None = None
    num_validation: Natural | None = None
    validation_fraction: ProperFraction = 0.1
    num_train: Count | None = None
    split_seed: Seed = 0
    pipeline: Literal["auto", "resident", "streaming"] = runtime("auto")
    resident_limit_mib: Natural = runtime(2048)
    num_workers: Natural = runtime(0)
    data_dir: str | None = runtime(None)


@dataclasses.dataclass(kw_only=True)
class ScheduleConfig(Node):
    """How the learning rate moves: a name in `cnn_lab.optim.schedules.SCHEDULES`.

    Attributes:
        name: `constant` or `cosine`.
        warmup_steps: steps of linear rise from 0 before the schedule starts.
        options: what the schedule's function declares, such as `final_fraction`.
    """

    name: str = "constant"
    warmup_steps: Natural = 0
    options: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(kw_only=True)
class OptimConfig(Node):
    """The optimizer: a name in `cnn_lab.optim.optimizers.OPTIMIZERS` and its options.

    Attributes:
        name: `sgd`, `momentum`, `adam` or `adamw`.
        learning_rate: peak rate, after warm-up.
        options: what the optimizer's function declares, such as `momentum` or `weight_decay`.
        schedule: how the rate moves.
        l2: weight of 1/2 * sum of squared kernels, added to the loss.
    """

    name: str = "momentum"
    learning_rate: Positive = 0.1
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    schedule: ScheduleConfig = dataclasses.field(default_factory=ScheduleConfig)
    l2: NonNegative = 0.0


@dataclasses.dataclass(kw_only=True)
class TaskConfig(Node):
    """What is learned: a name in `cnn_lab.tasks.TASKS` and the loss it minimises.

    Attributes:
        name: `classification`.
        loss: as `cnn-lab list losses` shows it.
    """

    name: str = "classification"
    loss: str = "cross_entropy"


@dataclasses.dataclass(kw_only=True)
class TrainConfig(Node):
    """How long, and in which portions.

    Attributes:
        num_epochs: passes over the training split; an epoch is ceil(n / batch_size) steps.
        batch_size: examples per step, over all devices.
        log_every_steps: steps between training rows in the metrics; None is once an epoch.
        max_steps_per_dispatch: steps that one call of the compiled program may run.
    """

    num_epochs: Count = 10
    batch_size: Count = 128
    log_every_steps: Count | None = None
    max_steps_per_dispatch: Count = runtime(128)


@dataclasses.dataclass(kw_only=True)
class EvaluateConfig(Node):
    """When the validation split is looked at, and how much of it at a time.

    Attributes:
        every_epochs: epochs between evaluations; the last epoch is always evaluated.
        batch_size: examples per step, over all devices; metrics do not depend on it.
    """

    every_epochs: Count = 1
    batch_size: Count = runtime(500)


@dataclasses.dataclass(kw_only=True)
class SelectionConfig(Node):
    """What decides which weights are the best.

    Attributes:
        metric: a validation metric of the task, `accuracy` or `loss`.
    """

    metric: str = "accuracy"


@dataclasses.dataclass(kw_only=True)
class EarlyStoppingConfig(Node):
    """When to give up: after `patience` checks in a row without an improvement over `min_delta`.

    Attributes:
        every_epochs: epochs between checks.
        patience: checks in a row without improvement after which training stops; 1 stops at the
            first check that is not better.
        min_delta: smallest change of the selection metric that counts as an improvement.
    """

    every_epochs: Count = 1
    patience: Count = 5
    min_delta: NonNegative = 0.0


@dataclasses.dataclass(kw_only=True)
class CheckpointConfig(Node):
    """How often the state is saved between evaluations, and how many saves are kept.

    Attributes:
        every_steps: steps between saves; None saves at every evaluation only.
        keep_latest: newest checkpoints kept, beside the best one.
    """

    every_steps: Count | None = None
    keep_latest: Count = 2


@dataclasses.dataclass(kw_only=True)
class LogConfig(Node):
    """Where metrics go besides the terminal and `metrics.jsonl`.

    Attributes:
        tensorboard: write event files.
        wandb_project: project at Weights & Biases; None sends nothing.
    """

    tensorboard: bool = True
    wandb_project: str | None = None


@dataclasses.dataclass(kw_only=True)
class MeshConfig(Node):
    """How the devices share the work.

    Attributes:
        num_devices: devices that share the batch; None takes as many as divide it well.
    """

    num_devices: Count | None = None


@dataclasses.dataclass(kw_only=True)
class ExperimentConfig(Node):
    """Everything that defines one run.

    Attributes:
        seed: of initial weights, order of examples, dropout and augmentation.
        data: the images.
        model: the network.
        task: what is learned.
        optim: how.
        train: how long.
        evaluate: when validation is looked at.
        selection: which weights are the best.
        early_stopping: when to give up; None never does.
        checkpoint: what is saved.
        log: where metrics go.
        mesh: the devices.
    """

    seed: Seed = 0
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    model: ModelSpec = dataclasses.field(default_factory=ModelSpec)
    task: TaskConfig = dataclasses.field(default_factory=TaskConfig)
    optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    evaluate: EvaluateConfig = dataclasses.field(default_factory=EvaluateConfig)
    selection: SelectionConfig = dataclasses.field(default_factory=SelectionConfig)
    early_stopping: EarlyStoppingConfig | None = None
    checkpoint: CheckpointConfig = dataclasses.field(
        default_factory=CheckpointConfig, metadata=RUNTIME
    )
    log: LogConfig = dataclasses.field(default_factory=LogConfig, metadata=RUNTIME)
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig, metadata=RUNTIME)
