"""Description of the training that a config stands for: it is traced, and nothing is trained."""

import contextlib
import dataclasses
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np

from cnn_lab.analysis.cost import Collective, collectives_in
from cnn_lab.config import ExperimentConfig
from cnn_lab.core import trees
from cnn_lab.core.arrays import Tree
from cnn_lab.core.memory import device_bytes
from cnn_lab.data.datasets.catalog import Dataset, open_dataset
from cnn_lab.data.loaders.factory import unmeasured_preprocess
from cnn_lab.data.loaders.in_memory import shapes_of_split
from cnn_lab.experiment.build import build_experiment
from cnn_lab.experiment.experiment import Experiment
from cnn_lab.experiment.initialization import complete_config
from cnn_lab.runs.trainer import CompiledPhase
from cnn_lab.training.averaging import evaluated_variables
from cnn_lab.training.state import TrainState
from cnn_lab.training.stepper import batch_at, prepare_key

NUM_SAMPLED_RATES = 50


@dataclasses.dataclass(frozen=True)
class TrainingMemory:
    """Bytes that a training needs on each device, and those available, None where not known.

    Where the devices share the machine's memory, as those of a CPU do, `needed` and `available` are
    of the machine. `scratch` is that of a compiled program; None, and left out of `needed`, where
    none was compiled.
    """

    data: int
    parameters: int
    optimizer: int
    scratch: int | None
    needed: int
    available: int | None
    is_shared: bool


@dataclasses.dataclass(frozen=True)
class TrainingDescription:
    """Sizes and costs of a training.

    Attributes:
        experiment: of which nothing is in memory.
        parameters: shapes, as a tree.
        collectives: exchanges between the devices in a step, by kind; None where it was not
            compiled.
        compile_seconds: of the step; None where it was not compiled.
        learning_rates: of steps spread evenly over the training, the first one first.
    """

    experiment: Experiment
    parameters: Tree
    collectives: dict[str, Collective] | None
    compile_seconds: float | None
    learning_rates: list[float]
    memory: TrainingMemory


def describe_training(config: ExperimentConfig, *, compiles: bool = False) -> TrainingDescription:
    """Describes the training of a config, whose data must be prepared.

    Its step is traced, so that a mistake in the network shows. It is compiled only where that is
    asked for, which may take minutes. No file is left, but in a compilation cache that is on.
    """
    config = complete_config(config)
    with traceless_data() as open_data:
        return _describe(
            build_experiment(config, open_data, unmeasured_preprocess, shapes_of_split), compiles
        )


@contextlib.contextmanager
def traceless_data() -> Iterator[Callable[[str, str | None], Dataset]]:
    """A function (name, data_dir) -> data set, to be called once, that leaves no file behind.

    It raises a `DataError` for data that are not prepared. Others are opened by links to their
    files, since reading keeps arrays beside them.
    """
    with tempfile.TemporaryDirectory(prefix="cnn-lab-dry-run-") as folder:

        def open_data(name: str, data_dir: str | None) -> Dataset:
            dataset = open_dataset(name, data_dir, prepare=False)
            assert dataset.storage.directory is not None
            links = Path(folder, "data")
            directory = Path(dataset.storage.directory).resolve()
            shutil.copytree(directory, links, copy_function=os.symlink)
            storage = dataclasses.replace(dataset.storage, directory=str(links))
            return dataclasses.replace(dataset, storage=storage)

        yield open_data


def _describe(experiment: Experiment, compiles: bool) -> TrainingDescription:
    last = len(experiment.phases) - 1  # in which most is trained
    mesh, device_arrays = experiment.mesh, experiment.train_loader.device_arrays
    state = experiment.state_shapes(last)
    variables, evaluator = evaluated_variables(state), experiment.evaluator()
    collectives, compile_seconds, scratch = None, None, None
    if compiles:
        program = CompiledPhase(experiment, last).program
        collectives, compile_seconds = collectives_in(program.text), program.compile_seconds
        scratch = program.temporary_bytes
        if evaluator is not None:
            scratch = max(scratch, evaluator.compile(variables).result().temporary_bytes)
    else:
        _trace_step(experiment, last)
    devices = mesh.device_grid.devices.flatten()
    is_shared = devices[0].platform == "cpu"
    data = sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape) if leaf.sharding else leaf.shape)
        * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(device_arrays)
    )
    on_each = mesh.bytes_of(state) + (scratch or 0)
    steps = np.linspace(0, experiment.intervals.total_steps - 1, NUM_SAMPLED_RATES, dtype=int)
    return TrainingDescription(
        experiment=experiment,
        parameters=variables["params"],
        collectives=collectives,
        compile_seconds=compile_seconds,
        learning_rates=[experiment.learning_rate(step) for step in steps],
        memory=TrainingMemory(
            data=data,
            parameters=mesh.bytes_of(variables["params"]),
            optimizer=mesh.bytes_of(state.opt_state),
            scratch=scratch,
            needed=on_each * len(devices) + trees.num_bytes(device_arrays)
            if is_shared
            else on_each + data,
            available=device_bytes(devices[0]),
            is_shared=is_shared,
        ),
    )


def _trace_step(experiment: Experiment, phase: int) -> None:
    loader = experiment.train_loader

    def step(state: TrainState, device_arrays: Tree, raw_batches: Tree) -> Tree:
        batch = loader.prepare(device_arrays, batch_at(raw_batches, 0), prepare_key(state))
        return experiment.phases[phase].step(state, batch)

    shapes = experiment.state_shapes(phase)
    jax.eval_shape(step, shapes, loader.device_arrays, loader.raw_shapes())
