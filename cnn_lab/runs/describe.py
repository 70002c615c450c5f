"""Description of the training that a config stands for: it is compiled, and nothing is trained."""

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

NUM_SAMPLED_RATES = 50


@dataclasses.dataclass(frozen=True)
class TrainingMemory:
    """Bytes that a training needs on each device, and those available, None where not known.

    Where the devices share the machine's memory, as those of a CPU do, `needed` and `available` are
    of the machine. `scratch` is that of a compiled program.
    """

    data: int
    parameters: int
    optimizer: int
    scratch: int
    needed: int
    available: int | None
    is_shared: bool


@dataclasses.dataclass(frozen=True)
class TrainingDescription:
    """Sizes and costs of a training.

    Attributes:
        experiment: of which nothing is in memory.
        parameters: shapes, as a tree.
        collectives: exchanges between the devices in a step, by kind.
        learning_rates: of steps spread evenly over the training, the first one first.
    """

    experiment: Experiment
    parameters: Tree
    collectives: dict[str, Collective]
    compile_seconds: float
    learning_rates: list[float]
    memory: TrainingMemory


def describe_training(config: ExperimentConfig) -> TrainingDescription:
    """Describes the training of a config, whose data must be prepared.

    It leaves no file, but in a compilation cache that is on.
    """
    config = complete_config(config)
    with traceless_data() as open_data:
        return _describe(
            build_experiment(config, open_data, unmeasured_preprocess, shapes_of_split)
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


def _describe(experiment: Experiment) -> TrainingDescription:
    last = len(experiment.phases) - 1  # in which most is trained
    mesh, device_arrays = experiment.mesh, experiment.train_loader.device_arrays
    state, program = experiment.state_shapes(last), CompiledPhase(experiment, last).program
    variables, evaluator = evaluated_variables(state), experiment.evaluator()
    scratch = program.temporary_bytes
    if evaluator is not None:
        scratch = max(scratch, evaluator.compile(variables).temporary_bytes)
    devices = mesh.device_grid.devices.flatten()
    is_shared = devices[0].platform == "cpu"
    data = sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape) if leaf.sharding else leaf.shape)
        * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(device_arrays)
    )
    on_each = mesh.bytes_of(state) + scratch
    steps = np.linspace(0, experiment.intervals.total_steps - 1, NUM_SAMPLED_RATES, dtype=int)
    return TrainingDescription(
        experiment=experiment,
        parameters=variables["params"],
        collectives=collectives_in(program.text),
        compile_seconds=program.compile_seconds,
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
