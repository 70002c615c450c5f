"""What a training would be, in words."""

import dataclasses
import os
import shutil
import tempfile
from pathlib import Path

import jax
import numpy as np

from cnn_lab.build import Experiment, build
from cnn_lab.config import ExperimentConfig
from cnn_lab.core import trees
from cnn_lab.data.assemble import MIB, unmeasured_preprocess
from cnn_lab.data.catalog import Dataset, open_dataset
from cnn_lab.run import plan_of
from cnn_lab.train.dispatch import compile_train


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

        return describe(config, build(config, open_data, unmeasured_preprocess))


def describe(config: ExperimentConfig, experiment: Experiment) -> str:
    """Shapes, parameters, steps, memory and pipeline; compiles, but trains nothing."""
    network, pipeline = experiment.network, experiment.train_pipeline
    state, plan = experiment.state_shapes(), plan_of(config, experiment)
    program = compile_train(
        experiment.step,
        pipeline.prepare,
        experiment.mesh,
        state,
        pipeline.resident,
        pipeline.feed_shapes(),
    )
    validation = experiment.validation_pipeline
    num_validation = len(validation.order.indices) if validation else 0
    sampled = np.linspace(0, plan.total_steps - 1, 50, dtype=int)
    lines = [
        f"model       {config.model.name}: {trees.count(state.params):,} parameters",
        *(f"  {path:<28} {shape.shape}" for path, shape in trees.flatten(state.params).items()),
        f"input       {network.image_shape} stored, {network.input_shape} to the model, "
        f"{len(network.class_names)} classes",
        f"data        {config.data.name}: {len(pipeline.order.indices):,} training and "
        f"{num_validation:,} validation images",
        f"pipeline    {pipeline.name}, {trees.num_bytes(pipeline.resident) / MIB:,.1f} MiB of data "
        "on every device",
        f"steps       {plan.total_steps:,} = {plan.num_epochs} epochs of {plan.steps_per_epoch} "
        f"(batch {config.train.batch_size}), up to {pipeline.max_steps} per call",
        f"devices     {experiment.mesh.devices.size} of {jax.device_count()} "
        f"{jax.default_backend()}",
        f"memory      {trees.num_bytes(state.params) / MIB:,.2f} MiB parameters, "
        f"{trees.num_bytes(state.opt_state) / MIB:,.2f} MiB optimizer, "
        f"{program.temporary_bytes / MIB:,.1f} MiB scratch",
        f"compiled    in {program.compile_seconds:.1f} s",
        f"rate        {experiment.learning_rate(0):.3g} at the first step, "
        f"{max(map(experiment.learning_rate, sampled)):.3g} at most",
    ]
    return "\n".join(lines)
