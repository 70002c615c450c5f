"""What a training would be, in words."""

import jax
import numpy as np

from cnn_lab.build import Experiment
from cnn_lab.config import ExperimentConfig
from cnn_lab.core import trees
from cnn_lab.data.assemble import MIB
from cnn_lab.run import plan_of
from cnn_lab.train.dispatch import compile_train


def describe(config: ExperimentConfig, experiment: Experiment) -> str:
    """Shapes, parameters, steps, memory and pipeline; compiles, but runs and writes nothing."""
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
