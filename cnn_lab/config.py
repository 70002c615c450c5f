"""One experiment as typed dataclasses.

An experiment file defines `get_config()` (or `get_config(argument)`) and returns an
`ExperimentConfig`; every field can be overridden by `--config.a.b=value`. Durations carry their
unit in the name. A field marked `runtime()` says where or how fast a run happens, not what it
computes, so it may differ when a run is resumed. Only the standard library is used here.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

from cnn_lab.core.errors import ConfigError
from cnn_lab.core.typed import Node


RUNTIME = {"runtime": True}


def runtime(default: Any) -> Any:
    """A field that does not change what is computed, such as a folder or a device count."""
    return dataclasses.field(default=default, metadata=RUNTIME)


def runtime_node(factory: Callable[[], Node]) -> Any:
    """A sub-node of which no field changes what is computed."""
    return dataclasses.field(default_factory=factory, metadata=RUNTIME)


@dataclasses.dataclass(kw_only=True)
class ModelSpec(Node):
    """A model by its name in `cnn_lab.models.MODELS` and the options its module declares."""

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
        num_validation: examples held out of train; None uses `validation_fraction`.
        validation_fraction: share of train held out; 0 trains on everything.
        split_seed: seed of the held-out slice, apart from the training seed.
        pipeline: `resident` keeps the whole data set on the devices, `streaming` decodes in
            workers, `auto` decides by size.
        resident_limit_mib: largest data set that `auto` keeps resident.
        num_workers: decoding processes of the streaming pipeline; 0 decodes in threads.
        data_dir: where prepared data sets live; None is the user's cache.
    """

    name: str = "digits"
    image_size: tuple[int, int] | None = None
    pad: int = 0
    channels: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    num_validation: int | None = None
    validation_fraction: float = 0.1
    split_seed: int = 0
    pipeline: Literal["auto", "resident", "streaming"] = runtime("auto")
    resident_limit_mib: int = runtime(2048)
    num_workers: int = runtime(0)
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
    warmup_steps: int = 0
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
    learning_rate: float = 0.1
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    schedule: ScheduleConfig = dataclasses.field(default_factory=ScheduleConfig)
    l2: float = 0.0


@dataclasses.dataclass(kw_only=True)
class TaskConfig(Node):
    """What is learned: a name in `cnn_lab.tasks.TASKS` and the loss it minimises."""

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

    num_epochs: int = 10
    batch_size: int = 128
    log_every_steps: int | None = None
    max_steps_per_dispatch: int = runtime(128)


@dataclasses.dataclass(kw_only=True)
class EvaluateConfig(Node):
    """When the validation split is looked at, and how much of it at a time."""

    every_epochs: int = 1
    batch_size: int = runtime(500)


@dataclasses.dataclass(kw_only=True)
class SelectionConfig(Node):
    """The validation metric that decides which weights are the best, and its direction."""

    metric: str = "accuracy"
    mode: Literal["max", "min"] = "max"


@dataclasses.dataclass(kw_only=True)
class EarlyStoppingConfig(Node):
    """When to give up: after `patience` checks in a row without an improvement over `min_delta`.

    Attributes:
        every_epochs: epochs between checks.
        patience: checks in a row without improvement after which training stops; 1 stops at the
            first check that is not better.
        min_delta: smallest change of the selection metric that counts as an improvement.
    """

    every_epochs: int = 1
    patience: int = 5
    min_delta: float = 0.0


@dataclasses.dataclass(kw_only=True)
class CheckpointConfig(Node):
    """How often the state is saved between evaluations, and how many saves are kept.

    Attributes:
        every_steps: steps between saves; None saves at every evaluation only.
        keep_latest: newest checkpoints kept, beside the best one.
    """

    every_steps: int | None = None
    keep_latest: int = 2


@dataclasses.dataclass(kw_only=True)
class LogConfig(Node):
    """Where metrics go besides the terminal and `metrics.jsonl`."""

    tensorboard: bool = True
    wandb_project: str | None = None


@dataclasses.dataclass(kw_only=True)
class MeshConfig(Node):
    """How many devices share the batch; None takes as many as divide it well."""

    num_devices: int | None = None


@dataclasses.dataclass(kw_only=True)
class ExperimentConfig(Node):
    """Everything that defines one run."""

    seed: int = 0
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    model: ModelSpec = dataclasses.field(default_factory=ModelSpec)
    task: TaskConfig = dataclasses.field(default_factory=TaskConfig)
    optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    evaluate: EvaluateConfig = dataclasses.field(default_factory=EvaluateConfig)
    selection: SelectionConfig = dataclasses.field(default_factory=SelectionConfig)
    early_stopping: EarlyStoppingConfig | None = None
    checkpoint: CheckpointConfig = runtime_node(CheckpointConfig)
    log: LogConfig = runtime_node(LogConfig)
    mesh: MeshConfig = runtime_node(MeshConfig)


def validate(config: ExperimentConfig) -> None:
    """Checks the ranges that types cannot express.

    Raises:
        ConfigError: names the field, its value and what is allowed.
    """
    data, train, optim = config.data, config.train, config.optim
    at_least = {
        "config.data.pad": (data.pad, 0),
        "config.data.num_workers": (data.num_workers, 0),
        "config.data.resident_limit_mib": (data.resident_limit_mib, 0),
        "config.data.num_validation": (data.num_validation, 0),
        "config.train.num_epochs": (train.num_epochs, 1),
        "config.train.batch_size": (train.batch_size, 1),
        "config.train.log_every_steps": (train.log_every_steps, 1),
        "config.train.max_steps_per_dispatch": (train.max_steps_per_dispatch, 1),
        "config.evaluate.every_epochs": (config.evaluate.every_epochs, 1),
        "config.evaluate.batch_size": (config.evaluate.batch_size, 1),
        "config.checkpoint.every_steps": (config.checkpoint.every_steps, 1),
        "config.checkpoint.keep_latest": (config.checkpoint.keep_latest, 1),
        "config.mesh.num_devices": (config.mesh.num_devices, 1),
        "config.optim.l2": (optim.l2, 0.0),
        "config.optim.schedule.warmup_steps": (optim.schedule.warmup_steps, 0),
    }
    if config.early_stopping is not None:
        stopping = config.early_stopping
        at_least["config.early_stopping.every_epochs"] = (stopping.every_epochs, 1)
        at_least["config.early_stopping.patience"] = (stopping.patience, 1)
        at_least["config.early_stopping.min_delta"] = (stopping.min_delta, 0.0)
    if data.image_size is not None:
        at_least["config.data.image_size"] = (min(data.image_size), 1)
    for path, (value, least) in at_least.items():
        if value is not None and not (math.isfinite(value) and value >= least):
            raise ConfigError(f"{path} must be at least {least}; found {value}.")
    if not (math.isfinite(optim.learning_rate) and optim.learning_rate > 0):
        raise ConfigError(
            "config.optim.learning_rate must be a positive, finite number; found "
            f"{optim.learning_rate}."
        )
    if not 0 <= data.validation_fraction < 1:
        raise ConfigError(
            "config.data.validation_fraction must be at least 0 and below 1; found "
            f"{data.validation_fraction}."
        )
    if data.channels not in (None, 1, 3):
        raise ConfigError(f"config.data.channels must be 1, 3 or none; found {data.channels}.")
    if data.std is not None and min(data.std, default=0) <= 0:
        raise ConfigError(f"config.data.std must be positive; found {data.std}.")
    if (data.mean is None) != (data.std is None):
        raise ConfigError("config.data.mean and config.data.std must be set together.")
    if config.evaluate.every_epochs > train.num_epochs:
        raise ConfigError(
            f"config.evaluate.every_epochs is {config.evaluate.every_epochs}, but the run has only "
            f"{train.num_epochs} epochs, so it would never be evaluated; lower it."
        )
    if config.early_stopping is not None:
        check, look = config.early_stopping.every_epochs, config.evaluate.every_epochs
        if check % look:
            raise ConfigError(
                f"config.early_stopping.every_epochs ({check}) must be a multiple of "
                f"config.evaluate.every_epochs ({look}), since a check needs an evaluation."
            )


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Lists the fields that differ between two configs as dicts, runtime fields left out.

    Args:
        old: `to_dict` of one config, possibly read back from JSON.
        new: `to_dict` of the other.

    Returns:
        Dotted path -> (old value, new value).
    """

    def walk(a: Any, b: Any, node_type: type[Node] | None, path: str) -> None:
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            fields = {f.name: f for f in dataclasses.fields(node_type)} if node_type else {}  # pyright: ignore[reportArgumentType]
            for name in sorted({*a, *b}):
                field = fields.get(name)
                if field is None or not field.metadata.get("runtime"):
                    child = field.default_factory if field else None
                    child = child if isinstance(child, type) and issubclass(child, Node) else None
                    walk(a.get(name), b.get(name), child, f"{path}{name}.")
        elif _plain(a) != _plain(b):
            found[path[:-1]] = (a, b)

    found: dict[str, tuple[Any, Any]] = {}
    walk(old, new, ExperimentConfig, "")
    return found


def _plain(value: Any) -> Any:
    return [_plain(entry) for entry in value] if isinstance(value, list | tuple) else value
