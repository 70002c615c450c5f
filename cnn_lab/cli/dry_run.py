"""What a training would be, in words."""

import dataclasses
import math
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cnn_lab.analysis.exchanges import exchanges_in
from cnn_lab.cli.reference import flag_text
from cnn_lab.config import ExperimentConfig, OptimConfig
from cnn_lab.config.node import to_dict
from cnn_lab.core import trees
from cnn_lab.core.arrays import Tree
from cnn_lab.core.formatting import counted, human_bytes
from cnn_lab.core.memory import device_bytes
from cnn_lab.data.datasets.catalog import Dataset, open_dataset
from cnn_lab.data.loaders.factory import unmeasured_preprocess
from cnn_lab.data.loaders.in_memory import MIB, shapes_of_split
from cnn_lab.experiment.build import build
from cnn_lab.experiment.experiment import Experiment
from cnn_lab.runs.compiled import CompiledPhase
from cnn_lab.runs.training import describe_loader, describe_mesh
from cnn_lab.train.averaging import evaluated_variables
from cnn_lab.train.dispatch import Program
from cnn_lab.workdir.session import devices_in_words


def dry_run(config: ExperimentConfig) -> str:
    """Describes the training of a config, and leaves no file behind.

    Raises:
        DataError: the data are not prepared yet.
    """
    jax.config.update("jax_enable_compilation_cache", False)
    with tempfile.TemporaryDirectory(prefix="cnn-lab-dry-run-") as folder:

        def open_data(name: str, data_dir: str | None) -> Dataset:
            """Opens the data by links to their files, since reading keeps arrays beside them."""
            dataset = open_dataset(name, data_dir, prepare=False)
            links = Path(folder, "data")
            directory = Path(dataset.storage.directory).resolve()
            shutil.copytree(directory, links, copy_function=os.symlink)
            storage = dataclasses.replace(dataset.storage, directory=str(links))
            return dataclasses.replace(dataset, storage=storage)

        return describe(config, build(config, open_data, unmeasured_preprocess, shapes_of_split))


def describe(config: ExperimentConfig, experiment: Experiment) -> str:
    """Shapes, parameters, steps, memory and loader; compiles, but trains nothing."""
    network, loader, mesh = experiment.network, experiment.train_loader, experiment.mesh
    last = len(experiment.phases) - 1  # in which most is trained
    state, plan = experiment.state_shapes(last), experiment.plan
    program = CompiledPhase(experiment, last).program
    evaluator, scratch = experiment.evaluator(), program.temporary_bytes
    if evaluator is not None:
        evaluation = evaluator.compile(evaluated_variables(state))
        scratch = max(scratch, evaluation.temporary_bytes)
    validation = experiment.validation_loader
    num_validation = len(validation.sampler.indices) if validation else 0
    sampled = np.linspace(0, plan.total_steps - 1, 50, dtype=int)
    params, beginning = evaluated_variables(state)["params"], experiment.beginning
    rate = config.optim.learning_rate
    lines = [
        f"model       {config.model.name}: {trees.count(params):,} parameters",
        *(f"  {path:<28} {shape.shape}" for path, shape in trees.flatten(params).items()),
        *([] if beginning is None else beginning.describe(params, rate)),
        *experiment.notes,
        f"input       {network.image_shape} stored, {network.input_shape} to the model, "
        f"{len(network.class_names)} classes",
        f"data        {config.data.name}: {len(loader.sampler.indices):,} training and "
        f"{counted(num_validation, 'validation image')}",
        *learning(config),
        f"pipeline    {describe_loader(experiment)}, "
        f"{_lying_bytes(loader.in_memory) / MIB:,.1f} MiB of data on every device",
        f"steps       {plan.total_steps:,} = {counted(plan.num_epochs, 'epoch')} of "
        f"{plan.steps_per_epoch:,} (batch {config.train.batch_size}), up to "
        f"{loader.max_steps} per call",
        f"devices     {devices_in_words(mesh.num_devices)}{describe_mesh(mesh)}"
        f"{_exchanged(program)}",
        f"memory      on every device {mesh.bytes_of(params) / MIB:,.2f} MiB parameters, "
        f"{mesh.bytes_of(state.opt_state) / MIB:,.2f} MiB optimizer, "
        f"{scratch / MIB:,.1f} MiB scratch",
        f"compiled    in {program.compile_seconds:.1f} s",
        f"rate        {experiment.learning_rate(0):.3g} at the first step, "
        f"{max(map(experiment.learning_rate, sampled)):.3g} at most",
    ]
    held = mesh.bytes_of(state) + scratch
    return "\n".join([*lines, *_memory_warning(experiment, held, loader.in_memory)])


def learning(config: ExperimentConfig) -> list[str]:
    """What a config says of loss, optimizer, schedule, augmentation and average."""
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


def _lying_bytes(in_memory: Tree) -> int:
    """That a split, or a part of one, takes on each device."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape) if leaf.sharding else leaf.shape)
        * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(in_memory)
    )


def _exchanged(program: Program) -> str:
    """What the devices exchange in a step."""
    found = exchanges_in(program.text)
    parts = [
        f"{exchange.count} x {kind} of {exchange.num_bytes / MIB:,.2f} MiB in all"
        for kind, exchange in found.items()
    ]
    return f", exchange a step {', '.join(parts)}" if parts else ""


def _memory_warning(experiment: Experiment, held: int, in_memory: Tree) -> list[str]:
    """A line when a training needs more memory than its devices have.

    Args:
        experiment: knows the devices.
        held: bytes that every device has for itself.
        in_memory: the training split, which the devices of a CPU share.
    """
    devices = experiment.mesh.device_grid.devices.flatten()
    on_cpu = devices[0].platform == "cpu"
    needed = held + _lying_bytes(in_memory)
    if on_cpu:
        needed = held * len(devices) + trees.num_bytes(in_memory)
    most = device_bytes(devices[0])
    if most is None or needed <= most:
        return []
    whose = "this machine" if on_cpu else "each device"
    return [
        f"WARNING     it needs about {human_bytes(needed)} of memory, but {whose} has "
        f"{human_bytes(most)}: lower config.train.batch_size, config.evaluate.batch_size or the "
        "size of the model, or set config.data.loader=streaming"
    ]
