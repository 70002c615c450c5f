"""What holds between the fields of a config, and what is made of a whole one."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from cnn_lab.config import (
    AverageConfig,
    CheckpointConfig,
    DataConfig,
    EarlyStoppingConfig,
    EvaluateConfig,
    ExperimentConfig,
    LogConfig,
    TrainConfig,
)
from cnn_lab.config.node import Node, from_dict, to_dict
from cnn_lab.config.values import annotations_of, group_in
from cnn_lab.core.errors import ConfigError
from cnn_lab.core.formatting import counted

# Fields of each kind of average.
AVERAGE_FIELDS = {"ema": ("decay",), "swa": ("start_epoch", "every_epochs")}


def validate(config: ExperimentConfig) -> None:
    """Checks what concerns several fields at once; a field's own range is checked when it is set.

    Raises:
        ConfigError: names the fields, their values and what is allowed.
    """
    data, train = config.data, config.train
    if (data.mean is None) != (data.std is None):
        raise ConfigError("config.data.mean and config.data.std must be set together.")
    if train.batch_size % train.num_micro_batches:
        raise ConfigError(
            f"config.train.num_micro_batches is {train.num_micro_batches}, which does not divide "
            f"config.train.batch_size, {train.batch_size}, evenly; use one that does."
        )
    pulled = config.transfer is not None and config.transfer.l2_sp
    if config.optim.l2_vectors and not (config.optim.l2 or pulled):
        raise ConfigError(
            "config.optim.l2_vectors is set, but there is no L2 penalty; set config.optim.l2 too."
        )
    _validate_schedule(config)
    _validate_average(config)
    stopping, look = config.early_stopping, config.evaluate.every_epochs
    fits = config.transfer is not None and config.transfer.strategy == "logistic"
    if stopping is not None and fits:
        raise ConfigError(
            "config.early_stopping is set, but config.transfer.strategy=logistic tries every "
            "strength of its penalty; set config.early_stopping to none."
        )
    # A longer evaluate.every_epochs is fine: the last epoch is evaluated whatever it says.
    if stopping is not None:
        if stopping.every_epochs > train.num_epochs:
            raise ConfigError(
                f"config.early_stopping.every_epochs is {stopping.every_epochs}, but the run has "
                f"only {counted(train.num_epochs, 'epoch')}, so its turn would never come: lower "
                "it."
            )
        if not _held_out(data):
            raise ConfigError(
                "config.early_stopping needs a validation split, but nothing is held out; set "
                "config.data.validation_fraction or config.data.num_validation above 0."
            )
        if stopping.every_epochs % look:
            raise ConfigError(
                f"config.early_stopping.every_epochs ({stopping.every_epochs}) must be a multiple "
                f"of config.evaluate.every_epochs ({look}), since a check needs an evaluation."
            )


def _held_out(data: DataConfig) -> bool:
    """Whether a config asks for validation examples."""
    asked = data.validation_fraction if data.num_validation is None else data.num_validation
    return bool(asked)


def _validate_schedule(config: ExperimentConfig) -> None:
    schedule, num_epochs = config.optim.schedule, config.train.num_epochs
    if schedule.warmup_steps and schedule.warmup_epochs:
        raise ConfigError(
            f"config.optim.schedule has warmup_steps={schedule.warmup_steps} and warmup_epochs="
            f"{schedule.warmup_epochs:g}; set one of them, and the other to 0."
        )
    if schedule.warmup_epochs >= num_epochs:
        raise ConfigError(
            f"config.optim.schedule.warmup_epochs is {schedule.warmup_epochs:g}, but the whole run "
            f"has only {counted(num_epochs, 'epoch')}; lower it or train longer."
        )
    if schedule.name == "plateau" and not _held_out(config.data):
        raise ConfigError(
            "config.optim.schedule.name is 'plateau', which watches a validation metric, but "
            "nothing is held out; set config.data.validation_fraction or "
            "config.data.num_validation above 0, or take another schedule."
        )
    if config.data.sampling == "balanced" and config.task.class_weights == "balanced":
        raise ConfigError(
            "config.data.sampling and config.task.class_weights are both 'balanced', which would "
            "count rare classes twice; set one of them."
        )


def _validate_average(config: ExperimentConfig) -> None:
    average, num_epochs = config.average, config.train.num_epochs
    if average is None:
        return
    if config.transfer is not None and config.transfer.strategy == "logistic":
        raise ConfigError(
            "config.average is set, but config.transfer.strategy=logistic takes no steps whose "
            "weights could be averaged; set config.average to none."
        )
    for name in AVERAGE_FIELDS.keys() - {average.kind}:
        for field in AVERAGE_FIELDS[name]:
            value = getattr(average, field)
            if value != getattr(AverageConfig(), field):
                raise ConfigError(
                    f"config.average.{field} is {value:g}, but it belongs to {name!r} and "
                    f"config.average.kind is {average.kind!r}; leave it out, or take the other."
                )
    first = average.start_epoch or average.every_epochs
    if average.kind == "swa" and first > num_epochs:
        field = "start_epoch" if average.start_epoch else "every_epochs"
        raise ConfigError(
            f"config.average.{field} is {first}, but the run has only "
            f"{counted(num_epochs, 'epoch')}, so there would be no average; lower it."
        )


def smoke(config: ExperimentConfig) -> ExperimentConfig:
    """The same experiment shrunk to two steps on a few of scikit-learn's digits, for tests."""
    small = from_dict(ExperimentConfig, to_dict(config))
    small.data = DataConfig(
        name="digits",
        image_size=config.data.image_size or (32, 32),
        pad=config.data.pad,
        channels=config.data.channels,
        num_train=16,
        num_validation=16,
    )
    small.data.augment, small.data.sampling = config.data.augment, config.data.sampling
    small.optim.schedule.warmup_steps = min(1, config.optim.schedule.warmup_steps)
    small.optim.schedule.warmup_epochs = min(0.5, config.optim.schedule.warmup_epochs)
    small.optim.schedule.options.pop("milestones_epochs", None)  # beyond so short a run
    if small.average is not None:
        small.average.start_epoch, small.average.every_epochs = 0, 1
    small.train = TrainConfig(
        num_epochs=1,
        batch_size=8,
        num_micro_batches=min(2, config.train.num_micro_batches),
        rematerialise=config.train.rematerialise,
    )
    if small.optim.schedule.name == "plateau":  # with evaluations enough to lower the rate
        small.train.num_epochs, small.optim.schedule.options["patience"] = 3, 1
    small.evaluate = EvaluateConfig(batch_size=8)
    if config.early_stopping is not None:
        small.early_stopping = EarlyStoppingConfig()
    small.checkpoint = CheckpointConfig()
    small.log = LogConfig(tensorboard=False)
    return small


def differences(
    old: Mapping[str, Any], new: Mapping[str, Any], *, runtime: bool = False
) -> dict[str, tuple[Any, Any]]:
    """Lists the fields that differ between two configs as dicts.

    Args:
        old: `to_dict` of one config, possibly read back from JSON.
        new: `to_dict` of the other.
        runtime: whether runtime fields count too.

    Returns:
        Dotted path -> (old value, new value).
    """

    def walk(a: Any, b: Any, node_type: type[Node] | None, path: str) -> None:
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            fields = {f.name: f for f in dataclasses.fields(node_type)} if node_type else {}  # pyright: ignore[reportArgumentType]
            annotations = annotations_of(node_type) if node_type else {}
            for name in sorted({*a, *b}):
                field = fields.get(name)
                if runtime or field is None or not field.metadata.get("runtime"):
                    walk(
                        a.get(name), b.get(name), group_in(annotations.get(name)), f"{path}{name}."
                    )
        elif _plain(a) != _plain(b):
            found[path[:-1]] = (a, b)

    found: dict[str, tuple[Any, Any]] = {}
    walk(old, new, ExperimentConfig, "")
    return found


def _plain(value: Any) -> Any:
    return [_plain(entry) for entry in value] if isinstance(value, list | tuple) else value
