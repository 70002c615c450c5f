"""The lines that `--dry_run` prints: the training of a config, in words."""

from collections.abc import Mapping
from typing import Any

import jax

from cnn_lab.cli.reference import flag_text
from cnn_lab.config import ExperimentConfig, OptimConfig
from cnn_lab.config.node import to_dict
from cnn_lab.core.formatting import counted, human_bytes
from cnn_lab.data.loaders.assemble import MIB
from cnn_lab.runs.describe import MemoryNeed, TrainingDescription, describe_training


def dry_run(config: ExperimentConfig) -> str:
    """Describes the training of a config, and leaves no file behind.

    Raises:
        DataError: the data are not prepared yet.
    """
    jax.config.update("jax_enable_compilation_cache", False)
    return "\n".join(description_lines(describe_training(config)))


def description_lines(found: TrainingDescription) -> list[str]:
    """Shapes, parameters, steps, memory and loader of a training."""
    config, memory = found.config, found.memory
    collectives = ", ".join(
        f"{collective.count} x {kind} of {collective.num_bytes / MIB:,.2f} MiB in all"
        for kind, collective in found.collectives.items()
    )
    return [
        f"model       {config.model.name}: {found.num_parameters:,} parameters",
        *(f"  {path:<28} {shape}" for path, shape in found.parameter_shapes.items()),
        *found.notes,
        f"input       {found.image_shape} stored, {found.input_shape} to the model, "
        f"{found.num_classes} classes",
        f"data        {config.data.name}: {found.num_train:,} training and "
        f"{counted(found.num_validation, 'validation image')}",
        *learning_lines(config),
        f"pipeline    {found.loader}, {memory.data / MIB:,.1f} MiB of data on every device",
        f"steps       {found.total_steps:,} = {counted(found.num_epochs, 'epoch')} of "
        f"{found.steps_per_epoch:,} (batch {config.train.batch_size}), up to "
        f"{found.max_steps_per_call} per call",
        f"devices     {found.devices}"
        + (f", exchange a step {collectives}" if collectives else ""),
        f"memory      on every device {memory.parameters / MIB:,.2f} MiB parameters, "
        f"{memory.optimizer / MIB:,.2f} MiB optimizer, {memory.scratch / MIB:,.1f} MiB scratch",
        f"compiled    in {found.compile_seconds:.1f} s",
        f"rate        {found.first_learning_rate:.3g} at the first step, "
        f"{found.max_learning_rate:.3g} at most",
        *_memory_warning(memory),
    ]


def learning_lines(config: ExperimentConfig) -> list[str]:
    """The lines of loss, optimizer, schedule, augmentation and average of a config."""
    optim, schedule, augment = config.optim, config.optim.schedule, config.data.augment
    plain = to_dict(OptimConfig())
    others = {
        name: value
        for name, value in to_dict(optim).items()
        if name not in ("name", "learning_rate", "options", "schedule") and value != plain[name]
    }
    warmup = {
        name: getattr(schedule, name)
        for name in ("warmup_steps", "warmup_epochs")
        if getattr(schedule, name)
    }
    weights = {"class_weights": config.task.class_weights} if config.task.class_weights else {}
    recipe = augment.recipe or "the usual recipe of the data"
    average = "" if config.average is None else str(to_dict(config.average)["kind"])
    return [
        f"loss        {_named(config.task.loss, {**config.task.loss_options, **weights})}",
        f"optimizer   {_named(optim.name, {**optim.options, **others})}, rate "
        f"{optim.learning_rate:g}, {_named(schedule.name, {**schedule.options, **warmup})}",
        f"augment     {augment.strength}"
        + (f", {recipe}" if augment.strength != "none" else "")
        + (f", {_named('', dict(augment.options))}" if augment.options else ""),
        *([f"average     {average}"] if average else []),
    ]


def _named(name: str, options: Mapping[str, Any]) -> str:
    values = ", ".join(f"{key}={flag_text(value)}" for key, value in options.items())
    return f"{name} ({values})".strip() if values else name


def _memory_warning(memory: MemoryNeed) -> list[str]:
    """A line where a training needs more memory than its devices have."""
    if memory.available is None or memory.is_enough:
        return []
    owner = "this machine" if memory.is_shared else "each device"
    return [
        f"WARNING     it needs about {human_bytes(memory.needed)} of memory, but {owner} has "
        f"{human_bytes(memory.available)}: lower config.train.batch_size, "
        "config.evaluate.batch_size or the size of the model, or set config.data.loader=streaming"
    ]
