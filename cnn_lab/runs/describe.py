"""Description of the training that a config stands for: it is compiled, and nothing is trained."""

import dataclasses
import math
import os
import shutil
import tempfile
from pathlib import Path

import jax
import numpy as np

from cnn_lab.analysis.collectives import Collective, collectives_in
from cnn_lab.config import ExperimentConfig
from cnn_lab.core import trees
from cnn_lab.core.arrays import Tree
from cnn_lab.core.memory import device_bytes
from cnn_lab.data.datasets.catalog import Dataset, open_dataset
from cnn_lab.data.loaders.assemble import shapes_of_split, unmeasured_preprocess
from cnn_lab.experiment.build import build
from cnn_lab.experiment.experiment import Experiment
from cnn_lab.runs.compiled import CompiledPhase
from cnn_lab.runs.training import describe_loader, describe_mesh
from cnn_lab.train.averaging import evaluated_variables
from cnn_lab.workdir.session import devices_in_words

NUM_SAMPLED_RATES = 50


@dataclasses.dataclass(frozen=True)
class MemoryNeed:
    """Bytes that a training needs, and has.

    Attributes:
        data: of the split in memory, on each device.
        parameters: on each device.
        optimizer: state, on each device.
        scratch: of a compiled program, on each device.
        needed: in all, on each device, or on the machine where its devices share the memory.
        available: of the same; None where it is not known.
        is_shared: whether the devices share the machine's memory, as those of a CPU do.
    """

    data: int
    parameters: int
    optimizer: int
    scratch: int
    needed: int
    available: int | None
    is_shared: bool

    @property
    def is_enough(self) -> bool:
        """Whether there is as much as is needed, as far as that is known."""
        return self.available is None or self.needed <= self.available


@dataclasses.dataclass(frozen=True)
class TrainingDescription:
    """Sizes and costs of a training.

    Attributes:
        config: of the experiment.
        parameter_shapes: by path.
        notes: lines on pretrained weights, and other lines for the user.
        image_shape: of stored images (h, w, c).
        input_shape: of the images that the model takes (h, w, c).
        num_classes: of the data.
        num_train: training examples.
        num_validation: validation examples.
        loader: the way of the data to the devices, in words.
        total_steps: of the training.
        num_epochs: of the training.
        steps_per_epoch: ceil(training examples / batch size).
        max_steps_per_call: of the compiled program.
        devices: their number and kind, and the parts of the state that they hold, in words.
        collectives: exchanges between the devices in a step, by kind.
        compile_seconds: of the training step.
        first_learning_rate: at the first step.
        max_learning_rate: of 50 steps spread over the training.
        memory: needed and available.
    """

    config: ExperimentConfig
    parameter_shapes: dict[str, tuple[int, ...]]
    notes: list[str]
    image_shape: tuple[int, int, int]
    input_shape: tuple[int, int, int]
    num_classes: int
    num_train: int
    num_validation: int
    loader: str
    total_steps: int
    num_epochs: int
    steps_per_epoch: int
    max_steps_per_call: int
    devices: str
    collectives: dict[str, Collective]
    compile_seconds: float
    first_learning_rate: float
    max_learning_rate: float
    memory: MemoryNeed

    @property
    def num_parameters(self) -> int:
        """Trainable values."""
        return sum(math.prod(shape) for shape in self.parameter_shapes.values())


def describe_training(config: ExperimentConfig) -> TrainingDescription:
    """Describes the training of a config, and leaves no file behind.

    Raises:
        DataError: the data are not prepared yet.
    """
    with tempfile.TemporaryDirectory(prefix="cnn-lab-dry-run-") as folder:

        def open_data(name: str, data_dir: str | None) -> Dataset:
            """Opens the data by links to their files, since reading keeps arrays beside them."""
            dataset = open_dataset(name, data_dir, prepare=False)
            links = Path(folder, "data")
            directory = Path(dataset.storage.directory).resolve()
            shutil.copytree(directory, links, copy_function=os.symlink)
            storage = dataclasses.replace(dataset.storage, directory=str(links))
            return dataclasses.replace(dataset, storage=storage)

        return _describe(build(config, open_data, unmeasured_preprocess, shapes_of_split))


def _describe(experiment: Experiment) -> TrainingDescription:
    config, network, loader = experiment.config, experiment.network, experiment.train_loader
    last = len(experiment.phases) - 1  # in which most is trained
    state, plan, mesh = experiment.state_shapes(last), experiment.plan, experiment.mesh
    program, variables = CompiledPhase(experiment, last).program, evaluated_variables(state)
    evaluator, scratch = experiment.evaluator(), program.temporary_bytes
    if evaluator is not None:
        scratch = max(scratch, evaluator.compile(variables).temporary_bytes)
    params, beginning, notes = variables["params"], experiment.beginning, []
    if beginning is not None:
        notes = beginning.describe(params, config.optim.learning_rate)
    validation = experiment.validation_loader
    sampled = np.linspace(0, plan.total_steps - 1, NUM_SAMPLED_RATES, dtype=int)
    devices = mesh.device_grid.devices.flatten()
    is_shared, data = devices[0].platform == "cpu", _bytes_on_each_device(loader.in_memory)
    held = mesh.bytes_of(state) + scratch
    needed = held + data
    if is_shared:
        needed = held * len(devices) + trees.num_bytes(loader.in_memory)
    return TrainingDescription(
        config=config,
        parameter_shapes={path: leaf.shape for path, leaf in trees.flatten(params).items()},
        notes=[*notes, *experiment.notes],
        image_shape=network.image_shape,
        input_shape=network.input_shape,
        num_classes=len(network.class_names),
        num_train=len(loader.sampler.indices),
        num_validation=len(validation.sampler.indices) if validation else 0,
        loader=describe_loader(experiment),
        total_steps=plan.total_steps,
        num_epochs=plan.num_epochs,
        steps_per_epoch=plan.steps_per_epoch,
        max_steps_per_call=loader.max_steps,
        devices=devices_in_words(mesh.num_devices) + describe_mesh(mesh),
        collectives=collectives_in(program.text),
        compile_seconds=program.compile_seconds,
        first_learning_rate=experiment.learning_rate(0),
        max_learning_rate=max(map(experiment.learning_rate, sampled)),
        memory=MemoryNeed(
            data=data,
            parameters=mesh.bytes_of(params),
            optimizer=mesh.bytes_of(state.opt_state),
            scratch=scratch,
            needed=needed,
            available=device_bytes(devices[0]),
            is_shared=is_shared,
        ),
    )


def _bytes_on_each_device(in_memory: Tree) -> int:
    """Bytes of a split, or of a part of one, on each device."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape) if leaf.sharding else leaf.shape)
        * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(in_memory)
    )
