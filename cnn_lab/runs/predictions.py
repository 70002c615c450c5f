"""Runs checkpoints over a split, and over the validation split for the temperature.

Data are opened once, and a program is compiled once, for all networks that differ in nothing but
their weights.
"""

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cnn_lab.config import ExperimentConfig
from cnn_lab.config.node import to_dict
from cnn_lab.core.errors import ConfigError
from cnn_lab.data.datasets.catalog import Dataset, open_dataset, unlock_test
from cnn_lab.data.loaders.factory import LoaderFactory
from cnn_lab.data.loaders.loader import Loader
from cnn_lab.data.subsets import Subset, choose_examples, whole_split
from cnn_lab.distributed.mesh import DeviceMesh, choose_num_devices, make_mesh
from cnn_lab.experiment.experiment import make_evaluator
from cnn_lab.experiment.network import Network
from cnn_lab.experiment.restore import RestoredRun, restore_run
from cnn_lab.tasks.classification import Classification
from cnn_lab.train.outputs import Collected, Collector
from cnn_lab.train.views import View
from cnn_lab.workdir.run_dir import read_config, read_record

Examples = tuple[str, bytes]  # which ones: a split and positions in it


@dataclasses.dataclass(frozen=True)
class Seen:
    """What one checkpoint gave.

    Attributes:
        step: the checkpoint's.
        class_names: label to name.
        dataset: what it was trained on.
        num_examples: how many.
        means: the task's metrics.
        outputs: a classifier's; None for other tasks.
        held_out: its outputs for the validation examples, where there are any and they are others.
        held_out_examples: which ones.
        seconds: that the split took, with what was compiled for it.
    """

    step: int
    class_names: tuple[str, ...]
    dataset: Dataset
    num_examples: int
    means: dict[str, float]
    outputs: Collected | None
    held_out: Collected | None
    held_out_examples: Examples | None
    seconds: float


class Collecting:
    """Looks at one split with one checkpoint after the other.

    Args:
        split: train, validation or test.
        batch_size: None is each run's own.
        views: test-time augmentation.
        log: receives lines about downloads and checks of the data.
    """

    def __init__(
        self,
        split: str,
        batch_size: int | None,
        views: tuple[View, ...],
        log: Callable[[str], None],
    ):
        self._split, self._batch_size, self._views, self._say = split, batch_size, views, log
        self._datasets: dict[Any, Dataset] = {}
        self._makers: dict[str, LoaderFactory] = {}
        self._loaders: dict[tuple[str, str], Loader] = {}
        self._programs: dict[tuple[str, str, str], Callable[[Any], Any]] = {}
        self._last: tuple[tuple[Path, str], tuple[RestoredRun, Dataset]] | None = None

    def open(self, workdir: Path, which: str) -> tuple[RestoredRun, Dataset]:
        """Opens a checkpoint and its data; the one opened last is kept.

        Raises:
            ConfigError: the data are not those that the run was trained on.
        """
        if self._last is None or self._last[0] != (workdir, which):
            self._last = None  # two networks need not fit into the memory
            self._last = (workdir, which), self._open(workdir, which)
        return self._last[1]

    def _open(self, workdir: Path, which: str) -> tuple[RestoredRun, Dataset]:
        config = read_config(workdir)
        size = self._batch_size or config.evaluate.batch_size
        mesh = make_mesh(choose_num_devices(size, None))
        trained = restore_run(workdir, which, mesh.replicated)
        trained.config.evaluate.batch_size = size
        place = (config.data.name, config.data.data_dir)
        if place not in self._datasets:
            self._datasets[place] = open_dataset(*place, progress=self._say)
        dataset = self._datasets[place]
        recorded = read_record(workdir).get("fingerprint", dataset.info.fingerprint)
        if recorded != dataset.info.fingerprint:
            raise ConfigError(
                f"The data of {config.data.name} changed since {workdir} was trained; figures "
                "would not be comparable: bring the old data back."
            )
        return trained, dataset

    def look(self, trained: RestoredRun, dataset: Dataset) -> Seen:
        """Runs the split through an opened checkpoint, and the validation split too."""
        subset = _examples(self._split, dataset, trained.config)
        start = time.perf_counter()
        found = self._run(trained, subset, self._split)
        seconds = time.perf_counter() - start
        outputs = found if isinstance(found, Collected) else None
        held_out = held_out_examples = None
        if outputs is not None and self._split != "validation":
            validation = choose_examples(dataset, trained.config.data)[1]
            if len(validation):
                held_out = self._run(trained, validation, "validation")
                held_out_examples = _identity(validation)
        return Seen(
            step=trained.step,
            class_names=trained.network.class_names,
            dataset=dataset,
            num_examples=len(subset),
            means=found.means if isinstance(found, Collected) else found,
            outputs=outputs,
            held_out=held_out,
            held_out_examples=held_out_examples,
            seconds=seconds,
        )

    def examples(self, trained: RestoredRun, dataset: Dataset) -> Examples:
        """Which ones `look` would evaluate; the test split stays closed.

        Raises:
            ConfigError: there are none.
        """
        if self._split == "test":  # the whole of it
            return self._split, repr(trained.config.data.classes).encode()
        return _identity(_examples(self._split, dataset, trained.config))

    def is_classifier(self, trained: RestoredRun) -> bool:
        """Whether there are probabilities."""
        return isinstance(trained.network.task, Classification)

    def close(self) -> None:
        """Stops reading ahead."""
        for loader in self._loaders.values():
            loader.close()

    def _run(self, trained: RestoredRun, subset: Subset, split: str) -> Any:
        """Outputs of a classifier, metrics of another task."""
        config, network = trained.config, trained.network
        batch_size = config.evaluate.batch_size
        data = json.dumps([to_dict(config.data), network.metadata(), batch_size])
        model = json.dumps([to_dict(config.model), to_dict(config.task)])
        mesh = make_mesh(choose_num_devices(batch_size, None))
        if data not in self._makers:
            self._makers[data] = LoaderFactory(config.data, network.preprocess, mesh)
        if (data, split) not in self._loaders:
            loader = self._makers[data].evaluation(subset, batch_size, mesh.num_devices)
            self._loaders[data, split] = loader
        if (data, split, model) not in self._programs:
            loader = self._loaders[data, split]
            self._programs[data, split, model] = self._program(network, loader, mesh)
        return self._programs[data, split, model](trained.variables)

    def _program(self, network: Network, loader: Loader, mesh: DeviceMesh) -> Callable[[Any], Any]:
        if not isinstance(network.task, Classification):
            return make_evaluator(network, loader, mesh)
        return Collector(
            network.model.apply,
            network.task,
            loader,
            num_steps=loader.sampler.steps_per_epoch,
            num_examples=len(loader.sampler.indices),
            mesh=mesh,
            views=self._views,
        )


def _examples(split: str, dataset: Dataset, config: ExperimentConfig) -> Subset:
    """The examples of a split, as the run of `config` divided the data."""
    if split == "test":
        return whole_split(unlock_test(dataset), config.data)
    train, validation = choose_examples(dataset, config.data)
    if split == "train":
        return train
    if not len(validation):
        others = [
            f"--split={name}" for name in ("train", "test") if name in dataset.info.split_sizes
        ]
        raise ConfigError(
            f"This run held out no validation examples; evaluate {' or '.join(others)}."
        )
    return validation


def _identity(subset: Subset) -> Examples:
    return subset.source.split, subset.indices.tobytes()
