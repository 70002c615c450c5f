"""The text that `--dry_run` prints: the training of a config, in words."""

from collections.abc import Callable, Mapping
from typing import Any

import jax

from cnn_lab.cli.reference import flag_text
from cnn_lab.config import ExperimentConfig, OptimConfig
from cnn_lab.config.node import to_dict
from cnn_lab.core import trees
from cnn_lab.core.text import counted, human_bytes
from cnn_lab.data.loaders.in_memory import MIB
from cnn_lab.runs.describe import describe_training
from cnn_lab.runs.train import describe_loader, describe_mesh
from cnn_lab.tasks.task import Task
from cnn_lab.workdir.run_dir import devices_in_words


def dry_run(config: ExperimentConfig, log: Callable[[str], None], *, compiles: bool) -> None:
    """Logs shapes, parameters, steps, memory and loader of a training, and leaves no file behind.

    Where it compiles the step, it also knows its scratch memory and the exchanges between devices.

    Raises:
        DataError: the data are not prepared yet.
    """
    done = "traced and compiled" if compiles else "traced"
    log(f"{config.model.name} on {config.data.name} is {done}, and not trained.")
    jax.config.update("jax_enable_compilation_cache", False)
    description = describe_training(config, compiles=compiles)
    experiment, memory = description.experiment, description.memory
    config, network, loader = experiment.config, experiment.network, experiment.train_loader
    validation, intervals = experiment.validation_loader, experiment.intervals
    num_validation = len(validation.sampler.indices) if validation else 0
    rates, params = description.learning_rates, description.parameters
    exchanges, scratch, compiled = "", "", []
    if description.collectives is None or memory.scratch is None:
        compiled = ["left out    scratch memory and exchanges of devices, which --compile shows"]
    else:
        scratch = f", {memory.scratch / MIB:,.1f} MiB scratch"
        compiled = [f"compiled    in {description.compile_seconds:.1f} s"]
        exchanges = ", ".join(
            f"{collective.count} x {kind} of {collective.num_bytes / MIB:,.2f} MiB in all"
            for kind, collective in description.collectives.items()
        )
    lines = [f"model       {config.model.name}: {trees.count(params):,} parameters"]
    lines += [f"  {path:<28} {shape.shape}" for path, shape in trees.flatten(params).items()]
    if experiment.initialization is not None:
        lines += experiment.initialization.describe(params, config.optim.learning_rate)
    lines += [
        *experiment.notes,
        f"input       {network.image_shape} stored, {network.input_shape} to the model, "
        f"{network.target.describe()}",
        f"data        {config.data.name}: {len(loader.sampler.indices):,} training and "
        f"{counted(num_validation, 'validation image')}",
        *learning_lines(config, network.task),
        f"loader      {describe_loader(experiment)}, {memory.data / MIB:,.1f} MiB of data on every "
        "device",
        f"steps       {intervals.total_steps:,} = {counted(intervals.num_epochs, 'epoch')} of "
        f"{intervals.steps_per_epoch:,} (batch {config.train.batch_size}), up to "
        f"{loader.max_steps} per call",
        f"devices     {devices_in_words(experiment.mesh.num_devices)}"
        f"{describe_mesh(experiment.mesh)}{', exchange a step ' * bool(exchanges)}{exchanges}",
        f"memory      on every device {memory.parameters / MIB:,.2f} MiB parameters, "
        f"{memory.optimizer / MIB:,.2f} MiB optimizer{scratch}",
        *compiled,
        f"rate        {rates[0]:.3g} at the first step, {max(rates):.3g} at most",
    ]
    if memory.available is not None and memory.needed > memory.available:
        owner = "this machine" if memory.is_shared else "each device"
        lines.append(
            f"WARNING     it needs about {human_bytes(memory.needed)} of memory, but {owner} has "
            f"{human_bytes(memory.available)}: lower config.train.batch_size, "
            "config.evaluate.batch_size or the size of the model, or set "
            "config.data.loader=streaming"
        )
    log("\n".join(lines))


def learning_lines(config: ExperimentConfig, task: Task) -> list[str]:
    """The lines of loss, optimizer, schedule, augmentation and average of a config."""
    optim, schedule, augment = config.optim, config.optim.schedule, config.data.augment
    shown, plain = ("name", "learning_rate", "options", "schedule"), to_dict(OptimConfig())
    changed = {n: v for n, v in to_dict(optim).items() if n not in shown and v != plain[n]}
    warmup = {n: getattr(schedule, n) for n in ("warmup_steps", "warmup_epochs")}
    warmup = {name: length for name, length in warmup.items() if length}
    weights = {"class_weights": config.task.class_weights} if config.task.class_weights else {}
    loss, recipe = config.task.loss or task.default_loss, ""
    if augment.strength != "none":
        recipe = f", {augment.recipe or 'the usual recipe of the data'}"
    options = f", {_named('', augment.options)}" if augment.options else ""
    extra = "".join(f", {name}" for name in augment.extra)
    lines = [
        f"loss        {_named(loss, {**config.task.loss_options, **weights})}",
        f"optimizer   {_named(optim.name, {**optim.options, **changed})}, rate "
        f"{optim.learning_rate:g}, {_named(schedule.name, {**schedule.options, **warmup})}",
        f"augment     {augment.strength}{recipe}{extra}{options}",
    ]
    if config.average is not None:
        lines.append(f"average     {to_dict(config.average)['kind']}")
    return lines


def _named(name: str, options: Mapping[str, Any]) -> str:
    values = ", ".join(f"{key}={flag_text(value)}" for key, value in options.items())
    return f"{name} ({values})".strip() if values else name
