"""Rules that hold between the fields of a config, and the fields in which two configs differ."""

from collections.abc import Mapping
from typing import Any

from cnn_lab.config.data import DataConfig
from cnn_lab.config.experiment import ExperimentConfig
from cnn_lab.config.learning import AverageConfig
from cnn_lab.config.values import annotations_of, group_in, with_tuples
from cnn_lab.core.errors import ConfigError
from cnn_lab.core.text import counted

# The kind of average that a field belongs to.
AVERAGE_KINDS = {"decay": "ema", "start_epoch": "swa", "every_epochs": "swa"}
HOLD_OUT = "config.data.validation_fraction or config.data.num_validation above 0"


def validate(config: ExperimentConfig) -> None:
    """Checks the rules between fields; the range of a field alone is checked when it is set.

    Raises:
        ConfigError: names the fields, their values and the remedy.
    """
    data, train = config.data, config.train
    if (data.mean is None) != (data.std is None):
        raise _clash("data", "needs both config.data.mean and config.data.std, or neither.")
    if train.batch_size % train.num_micro_batches:
        number, size = train.num_micro_batches, train.batch_size
        problem = f"is {number}, which does not divide config.train.batch_size, {size}, evenly"
        raise _clash("train.num_micro_batches", f"{problem}; use one that does.", number)
    has_l2_sp = config.transfer is not None and config.transfer.l2_sp
    if config.optim.l2_vectors and not (config.optim.l2 or has_l2_sp):
        problem = "is set, but there is no L2 penalty; set config.optim.l2 too."
        raise _clash("optim.l2_vectors", problem, True)
    if data.sampling == "balanced" and config.task.class_weights == "balanced":
        raise _clash(
            "data.sampling",
            "and config.task.class_weights are both 'balanced', which would count rare classes "
            "twice; set one of them.",
            "balanced",
        )
    _validate_schedule(config)
    _validate_average(config)
    _validate_early_stopping(config)


def _validate_schedule(config: ExperimentConfig) -> None:
    schedule, num_epochs = config.optim.schedule, config.train.num_epochs
    where, warmup_epochs = "optim.schedule", schedule.warmup_epochs
    if schedule.warmup_steps and warmup_epochs:
        both = f"warmup_steps={schedule.warmup_steps} and warmup_epochs={warmup_epochs:g}"
        raise _clash(where, f"has {both}; set one of them, and the other to 0.")
    if warmup_epochs >= num_epochs:
        raise _clash(
            f"{where}.warmup_epochs",
            f"is {warmup_epochs:g}, but the whole run has only {counted(num_epochs, 'epoch')}; "
            "lower it or train longer.",
            warmup_epochs,
        )
    if schedule.name == "plateau" and not _has_validation(config.data):
        raise _clash(
            f"{where}.name",
            "is 'plateau', which watches a validation metric, but nothing is held out; set "
            f"{HOLD_OUT}, or take another schedule.",
            schedule.name,
        )


def _validate_average(config: ExperimentConfig) -> None:
    average, num_epochs = config.average, config.train.num_epochs
    if average is None:
        return
    if _is_fitted_at_once(config):
        raise _clash(
            "average",
            "is set, but config.transfer.strategy=logistic takes no steps whose weights could be "
            "averaged; set config.average to none.",
        )
    for field, kind in AVERAGE_KINDS.items():
        value = getattr(average, field)
        if kind != average.kind and value != getattr(AverageConfig(), field):
            raise _clash(
                f"average.{field}",
                f"is {value:g}, but it belongs to {kind!r} and config.average.kind is "
                f"{average.kind!r}; leave it out, or take the other.",
                value,
            )
    field = "start_epoch" if average.start_epoch else "every_epochs"
    first = getattr(average, field)
    if average.kind == "swa" and first > num_epochs:
        raise _clash(
            f"average.{field}",
            f"is {first}, but the run has only {counted(num_epochs, 'epoch')}, so there would be "
            "no average; lower it.",
            first,
        )


def _validate_early_stopping(config: ExperimentConfig) -> None:
    stopping, num_epochs = config.early_stopping, config.train.num_epochs
    if stopping is None:
        return
    where, every = "early_stopping", stopping.every_epochs
    if _is_fitted_at_once(config):
        raise _clash(
            where,
            "is set, but config.transfer.strategy=logistic tries every strength of its penalty; "
            "set config.early_stopping to none.",
        )
    if every > num_epochs:
        raise _clash(
            f"{where}.every_epochs",
            f"is {every}, but the run has only {counted(num_epochs, 'epoch')}, so its turn would "
            "never come: lower it.",
            every,
        )
    if not _has_validation(config.data):
        raise _clash(where, f"needs a validation split, but nothing is held out; set {HOLD_OUT}.")
    # A longer evaluate.every_epochs alone is fine: the last epoch is evaluated whatever it is.
    if every % config.evaluate.every_epochs:
        raise _clash(
            f"{where}.every_epochs",
            f"({every}) must be a multiple of config.evaluate.every_epochs "
            f"({config.evaluate.every_epochs}), since a check needs an evaluation.",
            every,
        )


def _clash(field: str, problem: str, found: Any = None) -> ConfigError:
    return ConfigError(f"config.{field} {problem}", where=f"config.{field}", found=found)


def _has_validation(data: DataConfig) -> bool:
    return bool(data.validation_fraction if data.num_validation is None else data.num_validation)


def _is_fitted_at_once(config: ExperimentConfig) -> bool:
    """Whether the output layer is fitted to its optimum, in place of a training by steps."""
    return config.transfer is not None and config.transfer.strategy == "logistic"


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Dotted path -> (old value, new value) of the fields that differ, but for runtime fields.

    Both configs are given as `to_dict` returns them, possibly read back from JSON.
    """

    def walk(a: Any, b: Any, group: Any, path: str) -> None:
        if not (isinstance(a, Mapping) and isinstance(b, Mapping)):
            if with_tuples(a) != with_tuples(b):
                found[path[:-1]] = (a, b)
            return
        fields = getattr(group, "__dataclass_fields__", {})
        annotations = annotations_of(group) if group else {}
        for name in sorted({*a, *b}):
            if name not in fields or not fields[name].metadata.get("runtime"):
                below = group_in(annotations.get(name))
                walk(a.get(name), b.get(name), below, f"{path}{name}.")

    found: dict[str, tuple[Any, Any]] = {}
    walk(old, new, ExperimentConfig, "")
    return found
