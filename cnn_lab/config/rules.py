"""Rules that hold between the fields of a config, and the fields in which two configs differ."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from cnn_lab.config.data import DataConfig
from cnn_lab.config.experiment import ExperimentConfig
from cnn_lab.config.learning import AverageConfig
from cnn_lab.config.node import Node
from cnn_lab.config.values import annotations_of, group_in
from cnn_lab.core.errors import ConfigError, counted

# Fields of each kind of average.
AVERAGE_FIELDS = {"ema": ("decay",), "swa": ("start_epoch", "every_epochs")}


def validate(config: ExperimentConfig) -> None:
    """Checks the rules between fields; the range of a field alone is checked when it is set.

    Raises:
        ConfigError: names the fields, their values and what is allowed.
    """
    data, train = config.data, config.train
    if (data.mean is None) != (data.std is None):
        raise ConfigError(
            "config.data.mean and config.data.std must be set together.", where="config.data"
        )
    if train.batch_size % train.num_micro_batches:
        raise ConfigError(
            f"config.train.num_micro_batches is {train.num_micro_batches}, which does not divide "
            f"config.train.batch_size, {train.batch_size}, evenly; use one that does.",
            where="config.train.num_micro_batches",
            found=train.num_micro_batches,
        )
    has_l2_sp = config.transfer is not None and config.transfer.l2_sp
    if config.optim.l2_vectors and not (config.optim.l2 or has_l2_sp):
        raise ConfigError(
            "config.optim.l2_vectors is set, but there is no L2 penalty; set config.optim.l2 too.",
            where="config.optim.l2_vectors",
            found=True,
        )
    if data.sampling == "balanced" and config.task.class_weights == "balanced":
        raise ConfigError(
            "config.data.sampling and config.task.class_weights are both 'balanced', which would "
            "count rare classes twice; set one of them.",
            where="config.data.sampling",
            found="balanced",
        )
    _validate_schedule(config)
    _validate_average(config)
    _validate_early_stopping(config)


def _validate_schedule(config: ExperimentConfig) -> None:
    schedule, num_epochs = config.optim.schedule, config.train.num_epochs
    where = "config.optim.schedule"
    if schedule.warmup_steps and schedule.warmup_epochs:
        raise ConfigError(
            f"{where} has warmup_steps={schedule.warmup_steps} and warmup_epochs="
            f"{schedule.warmup_epochs:g}; set one of them, and the other to 0.",
            where=where,
        )
    if schedule.warmup_epochs >= num_epochs:
        raise ConfigError(
            f"{where}.warmup_epochs is {schedule.warmup_epochs:g}, but the whole run "
            f"has only {counted(num_epochs, 'epoch')}; lower it or train longer.",
            where=f"{where}.warmup_epochs",
            found=schedule.warmup_epochs,
        )
    if schedule.name == "plateau" and not _has_validation(config.data):
        raise ConfigError(
            f"{where}.name is 'plateau', which watches a validation metric, but "
            "nothing is held out; set config.data.validation_fraction or "
            "config.data.num_validation above 0, or take another schedule.",
            where=f"{where}.name",
            found=schedule.name,
        )


def _validate_average(config: ExperimentConfig) -> None:
    average, num_epochs = config.average, config.train.num_epochs
    if average is None:
        return
    if _is_fitted_at_once(config):
        raise ConfigError(
            "config.average is set, but config.transfer.strategy=logistic takes no steps whose "
            "weights could be averaged; set config.average to none.",
            where="config.average",
        )
    for name in AVERAGE_FIELDS.keys() - {average.kind}:
        for field in AVERAGE_FIELDS[name]:
            value = getattr(average, field)
            if value != getattr(AverageConfig(), field):
                raise ConfigError(
                    f"config.average.{field} is {value:g}, but it belongs to {name!r} and "
                    f"config.average.kind is {average.kind!r}; leave it out, or take the other.",
                    where=f"config.average.{field}",
                    found=value,
                )
    first = average.start_epoch or average.every_epochs
    if average.kind == "swa" and first > num_epochs:
        field = "start_epoch" if average.start_epoch else "every_epochs"
        raise ConfigError(
            f"config.average.{field} is {first}, but the run has only "
            f"{counted(num_epochs, 'epoch')}, so there would be no average; lower it.",
            where=f"config.average.{field}",
            found=first,
        )


def _validate_early_stopping(config: ExperimentConfig) -> None:
    stopping, num_epochs = config.early_stopping, config.train.num_epochs
    if stopping is None:
        return
    where = "config.early_stopping"
    if _is_fitted_at_once(config):
        raise ConfigError(
            f"{where} is set, but config.transfer.strategy=logistic tries every "
            f"strength of its penalty; set {where} to none.",
            where=where,
        )
    if stopping.every_epochs > num_epochs:
        raise ConfigError(
            f"{where}.every_epochs is {stopping.every_epochs}, but the run has only "
            f"{counted(num_epochs, 'epoch')}, so its turn would never come: lower it.",
            where=f"{where}.every_epochs",
            found=stopping.every_epochs,
        )
    if not _has_validation(config.data):
        raise ConfigError(
            f"{where} needs a validation split, but nothing is held out; set "
            "config.data.validation_fraction or config.data.num_validation above 0.",
            where=where,
        )
    # A longer evaluate.every_epochs alone is fine: the last epoch is evaluated whatever it is.
    if stopping.every_epochs % config.evaluate.every_epochs:
        raise ConfigError(
            f"{where}.every_epochs ({stopping.every_epochs}) must be a multiple of "
            f"config.evaluate.every_epochs ({config.evaluate.every_epochs}), since a check needs "
            "an evaluation.",
            where=f"{where}.every_epochs",
            found=stopping.every_epochs,
        )


def _has_validation(data: DataConfig) -> bool:
    """Whether a config asks for validation examples."""
    return bool(data.validation_fraction if data.num_validation is None else data.num_validation)


def _is_fitted_at_once(config: ExperimentConfig) -> bool:
    """Whether the output layer is fitted to its optimum, in place of a training by steps."""
    return config.transfer is not None and config.transfer.strategy == "logistic"


def differences(
    old: Mapping[str, Any], new: Mapping[str, Any], *, runtime: bool = False
) -> dict[str, tuple[Any, Any]]:
    """The fields that differ between two configs as dicts.

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
