"""A whole experiment: its length, evaluation, selection, checkpoints, logs and devices."""

import dataclasses
from typing import Literal

from cnn_lab.config.data import DataConfig
from cnn_lab.config.learning import (
    AverageConfig,
    ModelConfig,
    OptimConfig,
    TaskConfig,
    TransferConfig,
)
from cnn_lab.config.node import RUNTIME, Node, runtime
from cnn_lab.config.values import Count, NonNegative, Positive, Seed


@dataclasses.dataclass(kw_only=True)
class TrainConfig(Node):
    """The length of the training, and the portions it is computed in.

    Attributes:
        num_epochs: passes over the training split; an epoch is ceil(n / batch_size) steps.
        batch_size: examples per step, over all devices.
        num_micro_batches: parts of a batch whose gradients are taken one after the other and added
            up, for batches that do not fit in memory at once.
        rematerialise: recompute activations in the backward pass instead of keeping them: less
            memory, some more time. On CPUs the compiler undoes it.
        batch_statistics: examples that batch normalisation measures in a step: `global`, the whole
            batch, so that the number of devices changes nothing; or `per_device`, each device its
            share, as other frameworks do by default, with no traffic between layers. Running
            statistics are then the mean over devices, and dropout draws differently on each.
        log_every_steps: steps between training rows in the metrics; None is once an epoch.
        max_steps_per_dispatch: maximal number of steps that one call of the compiled program runs.
    """

    num_epochs: Count = 10
    batch_size: Count = 128
    num_micro_batches: Count = 1
    rematerialise: bool = runtime(False)
    batch_statistics: Literal["global", "per_device"] = "global"
    log_every_steps: Count | None = None
    max_steps_per_dispatch: Count = runtime(128)


@dataclasses.dataclass(kw_only=True)
class EvaluateConfig(Node):
    """The evaluations of the validation split, and the size of their batches.

    Attributes:
        every_epochs: epochs between evaluations; the last epoch is always evaluated.
        batch_size: examples per step, over all devices; metrics do not depend on it.
        weight_complexity: record the number, the absolute sum and the sum of squares of the
            kernels' non-zero values with every evaluation.
    """

    every_epochs: Count = 1
    batch_size: Count = runtime(500)
    weight_complexity: bool = runtime(False)


@dataclasses.dataclass(kw_only=True)
class SelectionConfig(Node):
    """The measure by which the best weights are chosen.

    Attributes:
        metric: a validation metric of the task, such as `accuracy` or `loss`; None is the task's
            own.
    """

    metric: str | None = None


@dataclasses.dataclass(kw_only=True)
class EarlyStoppingConfig(Node):
    """The end of a training after `patience` checks without an improvement over `min_delta`.

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
    """The checkpoints saved between evaluations, and the number of them that is kept.

    Attributes:
        every_steps: steps between saves; None saves at every evaluation only.
        keep_latest: newest checkpoints kept, beside the best one.
    """

    every_steps: Count | None = None
    keep_latest: Count = 2


@dataclasses.dataclass(kw_only=True)
class LogConfig(Node):
    """The places where metrics go besides the terminal and `metrics.jsonl`.

    Attributes:
        tensorboard: write event files.
        wandb_project: project at Weights & Biases; None sends nothing.
    """

    tensorboard: bool = True
    wandb_project: str | None = None


@dataclasses.dataclass(kw_only=True)
class MeshConfig(Node):
    """The mesh of devices, which share the work.

    Attributes:
        num_devices: devices that share the batch; None takes as many as divide it well.
        num_slices: groups of devices with fast links inside and slower ones between them; None
            takes the number that the hardware reports (slices of TPUs).
        fsdp: keep a part of every large array of the state (parameters, optimizer, averages) on
            each device of a slice, in place of all on each: less memory, more traffic, the same
            results up to rounding.
        hang_seconds: longest wait for the devices, after which the training ends and prints its
            stacks; None is 600 s where several processes train, and no bound for one alone.
    """

    num_devices: Count | None = None
    num_slices: Count | None = None
    fsdp: bool = False
    hang_seconds: Positive | None = None


@dataclasses.dataclass(kw_only=True)
class ExperimentConfig(Node):
    """Everything that defines one run.

    Attributes:
        seed: of initial weights, order of examples, dropout and augmentation.
        imports: modules of your own, by their dotted names, that register models, losses or
            whatever else the config names; they must be importable wherever the run is used:
            installed, in PYTHONPATH, or, for a training, beside the experiment file.
        average: the average of the weights that is evaluated and used; None uses the last weights.
        early_stopping: the end before `train.num_epochs`; None trains all of them.
        transfer: weights of another run to start from, and which of them are trained; None starts
            from random ones.
    """

    seed: Seed = 0
    imports: tuple[str, ...] = runtime(())
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    task: TaskConfig = dataclasses.field(default_factory=TaskConfig)
    optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)
    average: AverageConfig | None = None
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    evaluate: EvaluateConfig = dataclasses.field(default_factory=EvaluateConfig)
    selection: SelectionConfig = dataclasses.field(default_factory=SelectionConfig)
    early_stopping: EarlyStoppingConfig | None = None
    checkpoint: CheckpointConfig = dataclasses.field(
        default_factory=CheckpointConfig, metadata=RUNTIME
    )
    log: LogConfig = dataclasses.field(default_factory=LogConfig, metadata=RUNTIME)
    transfer: TransferConfig | None = None
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig, metadata=RUNTIME)
