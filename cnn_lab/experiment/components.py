"""The components that the names in a config stand for, checked before anything is opened."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import optax

from cnn_lab.config import ExperimentConfig, OptimConfig
from cnn_lab.config.imports import import_modules
from cnn_lab.config.rules import validate
from cnn_lab.config.values import check_options, declared_options
from cnn_lab.core.errors import ConfigError
from cnn_lab.core.text import counted
from cnn_lab.data.augment.recipes import Augmentation, choose_augmentation
from cnn_lab.experiment.network import check_task, model_options
from cnn_lab.experiment.outside import check_outside
from cnn_lab.optim import penalties
from cnn_lab.optim.assemble import (
    LrMultiplier,
    adaptive_clip,
    assemble,
    grouped,
    max_norm,
    proximal_l1,
    with_clipping,
)
from cnn_lab.optim.optimizers import OPTIMIZERS
from cnn_lab.optim.penalties import Penalty
from cnn_lab.optim.schedule_free import evaluation_params
from cnn_lab.optim.schedules import SCHEDULES, make_schedule
from cnn_lab.tasks.losses import LOSSES
from cnn_lab.training.averaging import NO_AVERAGE, Average, ema, of_optimizer, swa
from cnn_lab.training.monitor import Plateau, Selection
from cnn_lab.transfer.plan import check_transfer


@dataclasses.dataclass(frozen=True)
class Components:
    """The components that a config names, beside model and task.

    Attributes:
        make_schedule: (num_steps, steps_per_epoch) -> (step -> learning rate).
        make_optimizer: (step -> learning rate, multipliers by the path of a parameter) ->
            optimizer, with what goes before and after it.
        penalty: (params, anchor) -> what is added to the mean loss.
        selection: which validation metric decides, in which direction, and how patiently.
        plateau: when the learning rate is lowered; None never does.
        augmentation: of the training images.
    """

    make_schedule: Callable[[int, int], optax.Schedule]
    make_optimizer: Callable[..., optax.GradientTransformationExtraArgs]
    penalty: Penalty
    selection: Selection
    plateau: Plateau | None
    augmentation: Augmentation


def make_components(config: ExperimentConfig) -> Components:
    """Looks up every name in a config and checks every option; touches neither data nor devices.

    Raises:
        ConfigError: a name, option or combination of settings that cannot be, or a name that no
            module in `config.imports` registers.
    """
    import_modules(config.imports)
    validate(config)
    if config.transfer is not None:
        check_transfer(config.transfer)
    model_options(config)
    _check_needs_classes(config)
    optim, schedule = config.optim, config.optim.schedule
    optimizer_options = _optimizer_options(optim)
    if OPTIMIZERS.lookup(optim.name).keeps_average and config.average is not None:
        problem = (
            f"config.average is set, but {optim.name} keeps an average of the weights itself; set "
            "config.average to none, or take another optimizer."
        )
        raise ConfigError(problem, where="config.average", found=config.average.kind)
    schedule_options = check_options(
        SCHEDULES.lookup(schedule.name), schedule.options, "config.optim.schedule.options"
    )
    selection, plateau = _selection(config), None
    if schedule.name == "plateau":
        plateau = _plateau(config, selection, schedule_options)
    augmentation = _augmentation(config)
    check_outside(config)
    return Components(
        make_schedule=functools.partial(_make_schedule, config, schedule_options),
        make_optimizer=functools.partial(
            _make_optimizer, optim, optimizer_options, plateau is not None
        ),
        penalty=_penalty(config),
        selection=selection,
        plateau=plateau,
        augmentation=augmentation,
    )


def _check_needs_classes(config: ExperimentConfig) -> None:
    """Refuses what is for classes where the task's targets are others."""
    if check_task(config).target_kind == "class":
        return
    transfer = config.transfer
    wanted = {
        "data.sampling": config.data.sampling if config.data.sampling == "balanced" else None,
        "data.classes": config.data.classes,
        "transfer.strategy": None
        if transfer is None or transfer.strategy != "logistic"
        else transfer.strategy,
    }
    for field, found in wanted.items():
        if found is not None:
            problem = (
                f"config.{field} is {found!r}, which is for classes, but the targets of the task "
                f"{config.task.name} are none; leave it out."
            )
            raise ConfigError(problem, where=f"config.{field}", found=found)


def make_average(config: ExperimentConfig, steps_per_epoch: int) -> Average:
    """The average of the weights that a config asks for."""
    average = config.average
    if config.transfer is not None and config.transfer.strategy == "logistic":
        return NO_AVERAGE
    if OPTIMIZERS[config.optim.name].keeps_average:
        return of_optimizer(evaluation_params)
    if average is None:
        return NO_AVERAGE
    if average.kind == "ema":
        return ema(average.decay)
    every = average.every_epochs
    first = average.start_epoch or every
    return swa(first * steps_per_epoch, every * steps_per_epoch)


def _augmentation(config: ExperimentConfig) -> Augmentation:
    augmentation, task = choose_augmentation(config.data), check_task(config)
    if not augmentation.mixes:
        return augmentation
    name = config.task.loss or task.default_loss
    if not task.has_classes:  # a task of one's own may not know shares of classes
        problem = (
            f"config.task.name is {config.task.name!r}, whose outputs are no logits of classes, "
            "but mixup or CutMix mixes classes; set --config.data.augment.options.mixup=0 and "
            "--config.data.augment.options.cutmix=0."
        )
        raise ConfigError(problem, where="config.task.name", found=config.task.name)
    if LOSSES[name].needs_one_class:
        others = ", ".join(
            other
            for other, loss in LOSSES.items()
            if loss.target == "class" and not loss.needs_one_class
        )
        problem = (
            f"config.task.loss is {name!r}, which needs one class an example, but mixup or CutMix "
            "mixes images; set --config.data.augment.options.mixup=0 and "
            f"--config.data.augment.options.cutmix=0, or take one of {others}."
        )
        raise ConfigError(problem, where="config.task.loss", found=name)
    return augmentation


def _optimizer_options(optim: OptimConfig) -> dict[str, Any]:
    make = OPTIMIZERS.lookup(optim.name).make
    declared = declared_options(make)
    asked = [name for name in ("weight_decay", "decay_vectors") if name in optim.options]
    if asked and "weight_decay" not in declared:
        others = [n for n, o in OPTIMIZERS.items() if "weight_decay" in declared_options(o.make)]
        where = f"config.optim.options.{asked[0]}"
        problem = (
            f"{where} is set, but {optim.name} has no weight decay; take one that has "
            f"({', '.join(others)}), or a penalty by config.optim.l2 (and l2_vectors, for biases "
            "too)."
        )
        raise ConfigError(problem, where=where, found=optim.options[asked[0]])
    options = check_options(make, optim.options, "config.optim.options")
    if options.get("decay_vectors") and not options.get(
        "weight_decay", declared["weight_decay"][1]
    ):
        problem = (
            "config.optim.options.decay_vectors is set, but there is no decay; set "
            "config.optim.options.weight_decay too."
        )
        raise ConfigError(problem, where="config.optim.options.decay_vectors", found=True)
    return options


def _make_schedule(
    config: ExperimentConfig, options: dict[str, Any], num_steps: int, steps_per_epoch: int = 1
) -> optax.Schedule:
    optim, schedule = config.optim, config.optim.schedule
    warmup_steps = schedule.warmup_steps or round(schedule.warmup_epochs * steps_per_epoch)
    return make_schedule(
        schedule.name,
        peak=optim.learning_rate,
        num_steps=num_steps,
        steps_per_epoch=steps_per_epoch,
        warmup_steps=warmup_steps,
        warmup_field="warmup_steps" if schedule.warmup_steps else "warmup_epochs",
        **options,
    )


def _make_optimizer(
    optim: OptimConfig,
    options: dict[str, Any],
    adjustable: bool,
    learning_rate: optax.Schedule,
    lr_multipliers: Mapping[str, LrMultiplier] | None = None,
) -> optax.GradientTransformationExtraArgs:
    entry = OPTIMIZERS.lookup(optim.name)
    if entry.single_group and lr_multipliers is not None:
        problem = (
            f"config.optim.name is {optim.name}, which trains all weights together; it cannot "
            "train them at different rates: take another optimizer, or "
            "config.transfer.strategy=head, last_stages:N or all."
        )
        raise ConfigError(problem, where="config.optim.name", found=optim.name)
    clips = [
        clip(limit)
        for clip, limit in (
            (optax.clip, optim.clip_value),
            (adaptive_clip, optim.clip_adaptive),
            (optax.clip_by_global_norm, optim.clip_norm),
        )
        if limit is not None
    ]

    def make(learning_rate: optax.Schedule) -> optax.GradientTransformationExtraArgs:
        after = []
        if optim.l1 and optim.l1_method == "proximal":
            after.append(proximal_l1(optim.l1, learning_rate))
        if optim.max_norm is not None:
            after.append(max_norm(optim.max_norm))
        base = entry.make(learning_rate, **options)
        return assemble(base, after=after, adjustable=adjustable)

    optimizer = (
        make(learning_rate)
        if lr_multipliers is None
        else grouped(make, learning_rate, lr_multipliers)
    )
    return with_clipping(optax.chain(*clips), optimizer) if clips else optimizer


def _penalty(config: ExperimentConfig) -> Penalty:
    optim, transfer = config.optim, config.transfer
    parts = [penalties.l2(optim.l2, optim.l2_vectors)] if optim.l2 else []
    if optim.l1 and optim.l1_method == "subgradient":
        parts.append(penalties.l1(optim.l1))
    if transfer is not None and transfer.l2_sp:
        parts.append(penalties.l2_sp(transfer.l2_sp, optim.l2_vectors))
    return penalties.sum_of(*parts)


def _selection(config: ExperimentConfig) -> Selection:
    better, stopping = check_task(config).better, config.early_stopping
    metric = config.selection.metric or next(iter(better))
    if metric not in better:
        raise ConfigError(
            f"config.selection.metric is {metric!r}, which the task does not measure",
            where="config.selection.metric",
            found=metric,
            allowed=better,
        )
    if stopping is None:
        return Selection(metric, better[metric])
    return Selection(
        metric,
        better[metric],
        check_every_epochs=stopping.every_epochs,
        patience=stopping.patience,
        min_delta=stopping.min_delta,
    )


def _plateau(config: ExperimentConfig, selection: Selection, options: dict[str, Any]) -> Plateau:
    declared = declared_options(SCHEDULES["plateau"])
    rule = {name: default for name, (_, default) in declared.items()} | options
    num_evaluations = -(-config.train.num_epochs // config.evaluate.every_epochs)
    if rule["patience"] + 1 >= num_evaluations:  # the first sets the best, the last is the end
        where = "config.optim.schedule.options.patience"
        problem = (
            f"{where} is {rule['patience']}, but the run has only "
            f"{counted(num_evaluations, 'evaluation')}, so the rate could never be lowered: lower "
            "it or config.evaluate.every_epochs, or train longer."
        )
        raise ConfigError(problem, where=where, found=rule["patience"])
    watch = Selection(
        selection.metric,
        selection.mode,
        check_every_epochs=1,
        patience=rule["patience"],
        min_delta=rule["min_delta"],
    )
    return Plateau(watch, factor=rule["factor"], min_fraction=rule["min_fraction"])
