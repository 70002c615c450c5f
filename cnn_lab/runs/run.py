"""A run as an object: train, load, look at, evaluate, predict, fine-tune, from Python.

Nothing is printed but what is asked for, no flags are read, and Ctrl-C leaves a run that goes on
from where it was (`Run.resume`).
"""

import functools
import itertools
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

import flax.linen as nn
import jax
import numpy as np
from jaxtyping import Array, Float, UInt8
from numpy.typing import ArrayLike

from cnn_lab.config import ExperimentConfig, TransferConfig
from cnn_lab.config.load import load_config
from cnn_lab.config.node import from_dict, to_dict
from cnn_lab.core import compilation_cache
from cnn_lab.core.errors import ConfigError, WorkdirError
from cnn_lab.data.datasets.arrays import as_pixels
from cnn_lab.data.datasets.catalog import Dataset, open_dataset
from cnn_lab.data.decoding import decode, read_image_file
from cnn_lab.data.subsets import Subset
from cnn_lab.distributed.processes import current_processes
from cnn_lab.experiment.outside import check_registered
from cnn_lab.experiment.restore import RestoredRun, checkpoint_steps, restore_run
from cnn_lab.runs.comparable import EvaluationOptions, Split, read_runs
from cnn_lab.runs.evaluate import evaluate_on, evaluate_runs
from cnn_lab.runs.finetune import finetune_config
from cnn_lab.runs.import_weights import write_imported
from cnn_lab.runs.predict import Predictor
from cnn_lab.runs.split_runner import SplitRunner
from cnn_lab.runs.train import run_training
from cnn_lab.tasks.task import Predictions
from cnn_lab.workdir.metric_writers import METRICS_FILE, read_rows
from cnn_lab.workdir.run_dir import read_config, read_record
from cnn_lab.workdir.training_log import PlainDisplay, make_display

RUNS = Path("runs")


class Run:
    """A trained network in the folder of its run, as `train` and `load_run` return it.

    Args:
        workdir: the run's folder.
        checkpoint: `best`, `latest` or a step.
        data: that it was trained on, where they are arrays in memory.

    Attributes:
        workdir: the run's folder.
        config: the experiment.
    """

    def __init__(
        self,
        workdir: str | os.PathLike[str],
        checkpoint: str | int = "best",
        data: Dataset | None = None,
    ) -> None:
        self.workdir, self._checkpoint, self._data = Path(workdir), str(checkpoint), data
        self.config = read_config(self.workdir)
        if self._checkpoint not in ("best", "latest"):
            steps = checkpoint_steps(self.workdir)
            if not self._checkpoint.isdecimal() or int(self._checkpoint) not in steps:
                allowed = f"best, latest or one of the steps {steps}"
                raise ConfigError(where="checkpoint", found=checkpoint, allowed=allowed)
        check_registered(self.config, self.workdir)
        self._runner: tuple[tuple[str, int | None], SplitRunner] | None = None

    def __repr__(self) -> str:
        progress = self.record.get("progress", {})
        best, metric = progress.get("selection", {}), self.record.get("selection_metric")
        value = best.get("best_value")
        found = "" if value is None else f", best {metric} {value:.4f}"
        return (
            f"Run({str(self.workdir)!r}: {self.config.model.name} on {self.config.data.name}, "
            f"{self.status} at step {progress.get('step', 0)}{found})"
        )

    @property
    def record(self) -> dict[str, Any]:
        """The contents of `run.json`: versions, devices, sessions, openings of the test split."""
        return read_record(self.workdir)

    @property
    def status(self) -> str:
        """How it ended: `finished`, `stopped early`, `interrupted`, `failed` or `running`."""
        return self.record.get("status", "unknown")

    @property
    def model(self) -> nn.Module:
        """The network, a Linen module; `run.model.apply(run.variables, images, train=False)`."""
        return self._restored.network.model

    @property
    def variables(self) -> dict[str, Any]:
        """Parameters and statistics of the checkpoint, by collection."""
        return self._restored.variables

    @property
    def class_names(self) -> tuple[str, ...]:
        """Label to name; empty where the task has no classes."""
        return self._restored.network.class_names

    def metrics(self) -> list[dict[str, Any]]:
        """The rows of `metrics.jsonl`: step, epoch, split and metrics; a table for a data frame."""
        return read_rows(self.workdir / METRICS_FILE)

    def preprocess(self, images: ArrayLike) -> Float[Array, "n padded_h padded_w c"]:
        """The model's input of images [n h w] or [n h w c] (see `predict`)."""
        return self._restored.network.preprocess(jax.numpy.asarray(self._pixels(images)))

    def predict(self, images: ArrayLike | Sequence[str | os.PathLike[str]]) -> Predictions:
        """Predictions for images, or for image files.

        Args:
            images: [n h w] or [n h w c], whole numbers in [0, 255] or numbers in [0, 1], brought to
                the size and channels that the network was trained on; or paths of image files.

        Returns:
            Of a classifier `ClassPredictions` with `names`, `labels` [n] and `probabilities` [n k],
            of a regression `NumberPredictions` with `values` [n d]; `rows()` of either is a table.
        """
        return self._predictor(self._pixels(images)).predictions

    def features(
        self, images: ArrayLike | Sequence[str | os.PathLike[str]], name: str | None = None
    ) -> Float[np.ndarray, "n ..."]:
        """A named map of the backbone for images [n h w c] (see `predict`), as in evaluation.

        Args:
            images: as in `predict`.
            name: of the map, as `cnn-lab summary` lists them; None is the last one.

        Raises:
            ConfigError: the backbone has no map of that name.
        """
        names = self._predictor.map_names
        name = names[-1] if name is None else name
        if name not in names:
            problem = f"{self.config.model.name} has no map {name!r}"
            raise ConfigError(problem, where="name", found=name, allowed=names)
        return self._predictor.features(self._pixels(images), name)

    def evaluate(
        self,
        data: Dataset | None = None,
        split: Split | None = None,
        *,
        batch_size: int | None = None,
    ) -> dict[str, float]:
        """Metrics of all examples of a split.

        Args:
            data: other data of the same classes or numbers; by default those of the training.
            split: `train`, `validation` or `test`, whose openings are counted; by default what the
                training held out, and of other data `train`, which is all of `from_arrays`.
            batch_size: images per step; no metric depends on it.

        Raises:
            ConfigError: other classes, a split that is not there.
            DataError: the data of the training have changed, or are no longer in memory.
        """
        compilation_cache.enable()
        _require_dataset(data)
        if split is not None and split not in get_args(Split):
            raise ConfigError(where="split", found=split, allowed="train, validation or test")
        if data is None or data.info.fingerprint == self.record.get("fingerprint"):
            known = self._data if data is None else data
            options = EvaluationOptions(
                split=split or "validation", batch_size=batch_size, num_resamples=0
            )
            (run,) = read_runs([self.workdir])
            results = evaluate_runs([run], [self._checkpoint], options, open_data=_opener(known))
            return dict(results.networks[0].metrics)
        if split == "test":
            problem = (
                "The test split of other data is locked; to evaluate on it, give its examples as a "
                "data set of their own, as by from_arrays(images, labels)."
            )
            raise ConfigError(problem, where="split", found=split)
        network, classes = self._restored.network, self.config.data.classes
        height, width, channels = network.image_shape
        source = data.split(split or "train").with_channels(channels)
        source = source.with_image_size((height, width))
        if classes is not None and source.info.class_names != network.class_names:
            source = source.with_classes(classes)
        if source.info.target != network.target:
            found, allowed = source.info.target.names, network.target.names
            raise ConfigError(
                f"{data.info.name} has other targets ({', '.join(found)}) than {self.workdir} was "
                f"trained on ({', '.join(allowed)}); give data of the same, as by "
                "from_arrays(images, labels, class_names=run.class_names).",
                where="data",
                found=found,
                allowed=", ".join(allowed),
            )
        if network.target.kind == "class":
            subset = Subset(source, np.flatnonzero(source.labels >= 0))
        else:
            subset = Subset(source, np.arange(len(source)))
        key = (data.info.fingerprint, batch_size)
        if self._runner is None or self._runner[0] != key:  # the data of one alone stay in memory
            self._runner = (key, SplitRunner(batch_size))
        return dict(evaluate_on(self._runner[1], self._restored, self.workdir, subset).metrics)

    def resume(self, data: Dataset | None = None, *, progress: bool = False) -> "Run":
        """Trains on from where the run was interrupted.

        Args:
            data: the arrays that it was trained on, where this object does not know them.
            progress: as of `train`.
        """
        return _train(self.config, data or self._data, self.workdir, progress=progress)

    def finetune(
        self,
        data: Dataset,
        workdir: str | os.PathLike[str] | None = None,
        *,
        strategy: str = "auto",
        config: ExperimentConfig | None = None,
        progress: bool = False,
    ) -> "Run":
        """Trains the network further on other data, from the weights of this run.

        Classes, head, size, channels and normalisation follow from the data and this run.

        Args:
            data: such as of `from_arrays` or `load_dataset`.
            workdir: the new run's folder; by default a new one in `runs/`.
            strategy: the part that is trained: `auto` (by the number of images), `head`,
                `last_stages:N`, `stages:A,B`, `all`, `gradual` or `logistic`.
            config: everything else; by default a usual recipe for that number of images.
            progress: as of `train`.

        Raises:
            CnnLabError: a strategy or data that cannot be.
        """
        _require_dataset(data)
        recipe = (
            ExperimentConfig() if config is None else from_dict(ExperimentConfig, to_dict(config))
        )
        recipe.data.name, recipe.data.data_dir = data.reference, data.data_dir
        recipe.transfer = recipe.transfer or TransferConfig()
        recipe.transfer.source, recipe.transfer.strategy = str(self.workdir), strategy
        recipe.transfer.checkpoint = self._checkpoint
        open_data = _opener(data)
        chosen = finetune_config(recipe, usual=config is None, open_data=open_data)
        folder = Path(workdir) if workdir else _new_workdir(chosen)
        return _train(chosen, data, folder, progress=progress)

    @functools.cached_property
    def _restored(self) -> RestoredRun:
        compilation_cache.enable()
        return restore_run(self.workdir, self._checkpoint, named="checkpoint")

    @functools.cached_property
    def _predictor(self) -> Predictor:
        return Predictor(self._restored)

    def _pixels(self, images: Any) -> UInt8[np.ndarray, "n h w c"]:
        """Images as the network was trained on them, before its preprocessing."""
        shape = self._restored.network.image_shape
        if isinstance(images, str | os.PathLike):
            images = [images]
        are_paths = [isinstance(image, str | os.PathLike) for image in images]
        if are_paths and all(are_paths):
            return np.stack([read_image_file(Path(path), shape) for path in images])
        pixels = as_pixels("images", images)
        if pixels.shape[1:] == shape:
            return pixels
        return np.stack([decode(image, shape) for image in pixels])


def load_run(
    workdir: str | os.PathLike[str], checkpoint: str | int = "best", data: Dataset | None = None
) -> Run:
    """Opens the run in a folder.

    Args:
        workdir: the run's folder.
        checkpoint: `best` (the newest where nothing was validated), `latest` or a step.
        data: the arrays that it was trained on; data on the disk are opened by their name.

    Raises:
        WorkdirError: there is no run.
        ConfigError: it needs a module, or what a notebook registered, that is not here.

    >>> import tempfile
    >>> config = ExperimentConfig()
    >>> config.model.name, config.train.num_epochs = "linear", 1
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = train(config, open_dataset("digits"), folder)
    ...     load_run(folder).status
    'finished'
    """
    return Run(workdir, checkpoint, data)


def train(
    config: ExperimentConfig | str | os.PathLike[str],
    data: Dataset | None = None,
    workdir: str | os.PathLike[str] | None = None,
    *,
    progress: bool = False,
) -> Run:
    """Trains an experiment, or goes on with the one in `workdir`.

    Args:
        config: the experiment, or its file.
        data: a data set, such as of `from_arrays` or `load_dataset`; by default the one that the
            config names.
        workdir: the run's folder; by default a new one in `runs/`, named after model and data.
        progress: whether to show a bar (in a terminal or a notebook) or lines; otherwise nothing is
            printed.

    Returns:
        The run; interrupted by Ctrl-C it is saved, and `Run.resume` goes on with it.

    Raises:
        CnnLabError: whatever cannot be, in one sentence, before anything is computed.

    >>> import tempfile
    >>> from cnn_lab.data.datasets.arrays import from_arrays
    >>> images = np.random.default_rng(0).integers(0, 255, (60, 8, 8), np.uint8)
    >>> images[:30, :, 4:] = 0
    >>> data = from_arrays(images, ["left"] * 30 + ["everywhere"] * 30)
    >>> config = ExperimentConfig()
    >>> config.model.name, config.train.batch_size, config.train.num_epochs = "linear", 16, 1
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     run = train(config, data, folder)
    ...     found = run.predict(images[:5])
    >>> run.config.model.name, found.probabilities.shape
    ('linear', (5, 2))
    """
    _require_dataset(data)
    if not isinstance(config, ExperimentConfig | str | os.PathLike):
        allowed = "an ExperimentConfig, or the file or name of an experiment"
        raise ConfigError(where="config", found=type(config).__name__, allowed=allowed)
    if not isinstance(config, ExperimentConfig):
        config = load_config(os.fspath(config), [])
    config = from_dict(ExperimentConfig, to_dict(config))
    if data is not None:
        config.data.name, config.data.data_dir = data.reference, data.data_dir
    return _train(
        config, data, Path(workdir) if workdir else _new_workdir(config), progress=progress
    )


def import_weights(
    model: str,
    file: str | os.PathLike[str],
    workdir: str | os.PathLike[str],
    *,
    class_names: Sequence[str] | None = None,
    new_head: bool = False,
    **options: Any,
) -> Run:
    """Imports published weights of torchvision or timm as a run, to be used or trained further.

    Args:
        model: its name here.
        file: safetensors, or a PyTorch file, which is read as weights alone and needs torch.
        workdir: the run's folder, empty or new.
        class_names: label to name; by default `class_0` and so on, as many as in the paper.
        new_head: whether the output layer is left at its initial values.
        options: those that the model declares.

    Raises:
        CnnLabError: weights that do not fit, all of which are listed; nothing is written then.

    >>> run = import_weights("squeezenet1_1", "squeezenet.safetensors", "runs/squeezenet"
    ... )  # doctest: +SKIP
    """
    names = None if class_names is None else tuple(class_names)
    place = Path(workdir)
    write_imported(model, Path(file), place, options=options, class_names=names, new_head=new_head)
    return Run(place)


def _train(config: ExperimentConfig, data: Dataset | None, workdir: Path, *, progress: bool) -> Run:
    # So late an import would be broken by a second Ctrl-C, for all trainings of the session.
    from cnn_lab.report.run import write_report

    compilation_cache.enable()
    processes = current_processes()
    before = read_record(workdir).get("fingerprint")
    if data is not None and before not in (None, data.info.fingerprint):
        problem = (
            f"{workdir} was trained on other data than these; give another workdir, or the "
            "data that it started with."
        )
        raise WorkdirError(problem, where="workdir", found=str(workdir))
    log: Callable[[str], None] = functools.partial(print, flush=True) if progress else _silent
    run_training(
        config,
        workdir,
        log,
        processes=processes,
        open_data=_opener(data),
        make_display=make_display if progress else PlainDisplay,
    )
    if processes.is_primary:
        write_report(workdir)
    return Run(workdir, data=data)


def _require_dataset(data: Any) -> None:
    if data is not None and not isinstance(data, Dataset):
        allowed = "a data set, as of from_arrays(images, labels) or load_dataset(name)"
        raise ConfigError(where="data", found=type(data).__name__, allowed=allowed)


def _silent(line: str) -> None:
    del line


def _opener(data: Dataset | None) -> Callable[..., Dataset]:
    """Opens these data whatever name is asked for; None opens those of the name."""
    if data is None:
        return open_dataset

    def opened(*_: Any, **__: Any) -> Dataset:
        return data

    return opened


def _new_workdir(config: ExperimentConfig) -> Path:
    """A folder in `runs/` that is not there yet; of several processes each would find another."""
    if current_processes().count > 1:
        problem = "workdir is missing: several processes that train together need one folder."
        raise ConfigError(problem, where="workdir")
    name = re.sub(r"[^\w.]+", "-", f"{config.model.name}-{config.data.name.rpartition(':')[2]}")
    for number in itertools.count(1):
        folder = RUNS / f"{name.strip('-')}-{number}"
        if not folder.exists():
            return folder
    raise AssertionError("unreachable: numbers do not end")
