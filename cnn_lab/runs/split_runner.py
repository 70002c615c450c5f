"""Runs of checkpoints over splits.

Data are opened once, and a program is compiled once, for all networks that differ in nothing but
their weights.
"""

import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cnn_lab.config import ExperimentConfig
from cnn_lab.config.node import to_dict
from cnn_lab.core.errors import ConfigError
from cnn_lab.data.datasets.catalog import Dataset, open_dataset, unlock_test
from cnn_lab.data.loaders.factory import LoaderFactory
from cnn_lab.data.loaders.loader import Loader
from cnn_lab.data.subsets import Subset, choose_examples, whole_split
from cnn_lab.distributed.mesh import choose_num_devices, make_mesh
from cnn_lab.experiment.restore import RestoredRun, restore_run
from cnn_lab.training.evaluate import Evaluator, SplitPredictions, SplitPredictor
from cnn_lab.training.views import View
from cnn_lab.training.views import whole as whole_view
from cnn_lab.workdir.run_dir import read_config, read_record


def examples_of(split: str, dataset: Dataset, config: ExperimentConfig) -> Subset:
    """The examples of a split, at least one, as the run of `config` divided the data."""
    if split == "test":
        return whole_split(unlock_test(dataset), config.data)
    train, validation = choose_examples(dataset, config.data)
    if split == "train":
        return train
    if not len(validation):
        sizes = dataset.info.split_sizes
        others = " or ".join(f"--split={name}" for name in ("train", "test") if name in sizes)
        problem = f"This run held out no validation examples; evaluate {others}."
        raise ConfigError(problem, where="--split", found=split)
    return validation


class SplitRunner:
    """Restores checkpoints and runs them over splits of the data that they were trained on.

    The batch size is each run's own where it is None; views are test-time augmentation; `open_data`
    is (name, data_dir) -> data set, `open_dataset` by default.
    """

    def __init__(
        self,
        batch_size: int | None = None,
        views: Sequence[View] = (whole_view,),
        log: Callable[[str], None] = lambda line: None,  # noqa: ARG005
        open_data: Callable[..., Dataset] | None = None,
    ):
        self._open_data = open_data or functools.partial(open_dataset, progress=log)
        self._batch_size, self._views = batch_size, views
        # Caches: by name and place of the data, by config of the loaders, and by split, and model.
        self._datasets: dict[tuple[str, str | None], Dataset] = {}
        self._factories: dict[str, LoaderFactory] = {}
        self._loaders: dict[tuple[str, str], Loader] = {}
        self._programs: dict[tuple[str, str, str], Callable[[Any], Any]] = {}
        self._last: tuple[tuple[Path, str], tuple[RestoredRun, Dataset]] | None = None

    def restore(self, workdir: Path, checkpoint: str) -> tuple[RestoredRun, Dataset]:
        """Restores a checkpoint and opens its data; the one restored last is cached."""
        if self._last is not None and self._last[0] == (workdir, checkpoint):
            return self._last[1]
        self._last = None  # two networks need not fit into the memory
        config = read_config(workdir)
        batch_size = self._batch_size or config.evaluate.batch_size
        mesh = make_mesh(choose_num_devices(batch_size, None))
        restored = restore_run(workdir, checkpoint, mesh.replicated)
        restored.config.evaluate.batch_size = batch_size
        place = (config.data.name, config.data.data_dir)
        if place not in self._datasets:
            self._datasets[place] = self._open_data(*place)
        dataset = self._datasets[place]
        fingerprint = dataset.info.fingerprint
        if read_record(workdir).get("fingerprint", fingerprint) != fingerprint:
            problem = (
                f"The data of {config.data.name} changed since {workdir} was trained; figures "
                "would not be comparable: bring the old data back."
            )
            raise ConfigError(problem, where="config.data.name", found=config.data.name)
        self._last = (workdir, checkpoint), (restored, dataset)
        return restored, dataset

    def run(
        self, restored: RestoredRun, subset: Subset, split: str
    ) -> SplitPredictions | dict[str, float]:
        """Runs a split through a network: its predictions, or metrics of outputs of many pixels."""
        config, network = restored.config, restored.network
        batch_size = self._batch_size or config.evaluate.batch_size
        content = subset.source.info.fingerprint
        data = json.dumps([to_dict(config.data), network.metadata(), batch_size, content])
        model = json.dumps([to_dict(config.model), to_dict(config.task)])
        if (data, split, model) not in self._programs:
            mesh = make_mesh(choose_num_devices(batch_size, None))
            if data not in self._factories:
                self._factories[data] = LoaderFactory(config.data, network.preprocess, mesh)
            if (data, split) not in self._loaders:
                factory = self._factories[data]
                loader = factory.evaluation(subset, batch_size, mesh.num_devices)
                self._loaders[data, split] = loader
            loader = self._loaders[data, split]
            self._programs[data, split, model] = (
                SplitPredictor(network.model.apply, network.task, loader, mesh, views=self._views)
                if network.task.model_outputs == "logits"
                else Evaluator(network.model.apply, network.task, loader, mesh)
            )
        mesh = make_mesh(choose_num_devices(batch_size, None))
        return self._programs[data, split, model](mesh.put(restored.variables))

    def close(self) -> None:
        """Stops reading ahead."""
        for loader in self._loaders.values():
            loader.close()
