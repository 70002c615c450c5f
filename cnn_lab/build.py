"""The only place that turns the names in a config into objects."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import optax
from jax.sharding import Mesh

from cnn_lab.config import DataConfig, ExperimentConfig, validate
from cnn_lab.core.errors import ConfigError, DataError, lookup, suggest
from cnn_lab.core.options import check_options
from cnn_lab.core.shapes import Scalar, Tree
from cnn_lab.data.catalog import Dataset, open_dataset
from cnn_lab.data.order import Order
from cnn_lab.data.pipelines import Pipeline, ResidentPipeline, StreamingPipeline
from cnn_lab.data.preprocess import Preprocess, check_channels, measure, padded_shape
from cnn_lab.data.source import Source
from cnn_lab.data.splits import stratified_split
from cnn_lab.models.catalog import MODELS
from cnn_lab.optim.optimizers import OPTIMIZERS
from cnn_lab.optim.penalties import l2
from cnn_lab.optim.schedules import SCHEDULES, make_schedule
from cnn_lab.tasks import TASKS, Classification
from cnn_lab.train.evaluate import Evaluator
from cnn_lab.train.mesh import choose_num_devices, make_mesh, replicated
from cnn_lab.train.state import TrainState, make_init
from cnn_lab.train.step import Step, make_train_step, no_penalty

MIB = 2**20


@dataclasses.dataclass(frozen=True)
class Network:
    """What is needed to run a trained model: no data, no optimizer.

    Attributes:
        model: the module.
        task: losses and metrics.
        class_names: label to name.
        image_shape: (h, w, c) of stored images, before `preprocess`.
        preprocess: from stored pixels to the model's input.
    """

    model: nn.Module
    task: Classification
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    preprocess: Preprocess

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(h, w, c) of what the model takes."""
        return self.preprocess.output_shape(self.image_shape)

    def about(self) -> dict[str, Any]:
        """What travels with a checkpoint, as JSON values; `network_from_about` reads it back."""
        return {
            "class_names": list(self.class_names),
            "image_shape": list(self.image_shape),
            "preprocess": self.preprocess.to_json(),
        }


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Everything that a run of a config needs."""

    network: Network
    dataset: Dataset
    mesh: Mesh
    train_pipeline: Pipeline
    validation_pipeline: Pipeline | None
    optimizer: optax.GradientTransformation
    learning_rate: Callable[[int], float]
    step: Step
    init: Callable[[Any], TrainState]

    @property
    def fingerprint(self) -> str:
        """What the data are, whatever they are called."""
        return self.dataset.info.fingerprint

    @property
    def steps_per_epoch(self) -> int:
        """ceil(training examples / batch size)."""
        return self.train_pipeline.order.steps_per_epoch

    def state_shapes(self) -> TrainState:
        """Shapes of the state; nothing is computed."""
        return jax.eval_shape(self.init, jax.random.key(0))

    def evaluator(self) -> Evaluator | None:
        """Metrics on the validation split, None without one."""
        if self.validation_pipeline is None:
            return None
        return make_evaluator(self.network, self.validation_pipeline, self.mesh)


def build(config: ExperimentConfig) -> Experiment:
    """Builds the experiment that a config describes; trains nothing.

    Raises:
        ConfigError: a name, option or combination that cannot work.
        DataError: the data are missing or unfit.
    """
    validate(config)
    # Whatever can be known to be wrong is said before the data are opened, or even downloaded.
    _model_options(config)
    make_optimizer = lookup(OPTIMIZERS, config.optim.name, "optimizer")
    optimizer_options = check_options(make_optimizer, config.optim.options, "config.optim.options")
    schedule = config.optim.schedule
    schedule_options = check_options(
        lookup(SCHEDULES, schedule.name, "schedule"),
        schedule.options,
        "config.optim.schedule.options",
    )
    task = lookup(TASKS, config.task.name, "task")(config.task.loss)
    if config.selection.metric not in task.metric_names:
        raise ConfigError(
            f"config.selection.metric is {config.selection.metric!r}, which the task does not "
            f"measure; {suggest(config.selection.metric, task.metric_names)}"
        )
    mesh = make_mesh(choose_num_devices(config.train.batch_size, config.mesh.num_devices))
    dataset = open_dataset(config.data.name, config.data.data_dir)
    source = shaped(dataset.split("train"), config.data)
    train_indices, validation_source, validation_indices = _split(dataset, source, config.data)
    if config.train.batch_size > len(train_indices):
        raise ConfigError(
            f"config.train.batch_size is {config.train.batch_size}, but {config.data.name} has "
            f"only {len(train_indices)} training examples; use at most that many."
        )
    order = Order(train_indices, config.train.batch_size, config.seed)
    total_steps = order.steps_per_epoch * config.train.num_epochs
    learning_rate = make_schedule(
        schedule.name,
        peak=config.optim.learning_rate,
        num_steps=total_steps,
        warmup_steps=schedule.warmup_steps,
        **schedule_options,
    )
    optimizer = make_optimizer(learning_rate=learning_rate, **optimizer_options)
    penalty: Callable[[Tree], Scalar] = l2(config.optim.l2) if config.optim.l2 else no_penalty
    model, image_shape = make_model(config, source.info.num_classes), _fixed_shape(source)
    init = make_init(model, optimizer, padded_shape(image_shape, config.data.pad))
    # Images that the model cannot take stop here, before their pixels are measured.
    jax.eval_shape(init, jax.random.key(0))
    network = Network(
        model=model,
        task=task,
        class_names=source.info.class_names,
        image_shape=image_shape,
        preprocess=_preprocess(config.data, source, train_indices),
    )
    pipeline, evaluation_pipeline = _pipelines(config, network, mesh, source, total_steps)
    validation = None
    if len(validation_indices):
        batch_size = _evaluation_batch(config.evaluate.batch_size, len(validation_indices), mesh)
        held_out = Order(validation_indices, batch_size, None)
        validation = evaluation_pipeline(validation_source, held_out)
    return Experiment(
        network=network,
        dataset=dataset,
        mesh=mesh,
        train_pipeline=pipeline(order),
        validation_pipeline=validation,
        optimizer=optimizer,
        learning_rate=lambda step: float(learning_rate(step)),
        step=make_train_step(network.model, task, optimizer, penalty),
        init=init,
    )


def make_model(config: ExperimentConfig, num_classes: int) -> nn.Module:
    """The model that a config names, for that many classes."""
    options = _model_options(config)
    return MODELS[config.model.name].make(num_classes, **options)


def _model_options(config: ExperimentConfig) -> dict[str, Any]:
    entry = lookup(MODELS, config.model.name, "model")
    return check_options(entry.make, config.model.options, "config.model.options")


def network_from_about(config: ExperimentConfig, about: Mapping[str, Any]) -> Network:
    """Rebuilds the network of a checkpoint from its config and what travelled with it."""
    preprocess = {k: tuple(v) if isinstance(v, list) else v for k, v in about["preprocess"].items()}
    return Network(
        model=make_model(config, len(about["class_names"])),
        task=lookup(TASKS, config.task.name, "task")(config.task.loss),
        class_names=tuple(about["class_names"]),
        image_shape=tuple(about["image_shape"]),
        preprocess=Preprocess(**preprocess),
    )


def make_evaluator(network: Network, pipeline: Pipeline, mesh: Mesh) -> Evaluator:
    """An evaluator of `network` over everything in `pipeline`."""
    return Evaluator(
        network.model.apply,
        network.task,
        pipeline,
        num_steps=pipeline.order.steps_per_epoch,
        num_examples=len(pipeline.order.indices),
        mesh=mesh,
    )


def evaluation_pipeline(
    config: ExperimentConfig,
    network: Network,
    source: Source,
    mesh: Mesh,
    indices: np.ndarray | None = None,
) -> Pipeline:
    """A pipeline over `indices` of `source` (all by default), in order, for `make_evaluator`."""
    if indices is None:
        indices = np.arange(len(source), dtype=np.int64)
    batch_size = _evaluation_batch(config.evaluate.batch_size, len(indices), mesh)
    _, evaluation = _pipelines(config, network, mesh, source, 0)
    return evaluation(source, Order(indices, batch_size, None))


def split_pipeline(
    config: ExperimentConfig, network: Network, dataset: Dataset, split: str, mesh: Mesh
) -> Pipeline:
    """An evaluation pipeline over the `train` or `validation` examples of a config.

    Raises:
        ConfigError: nothing was held out for validation.
    """
    source = shaped(dataset.split("train"), config.data)
    train_indices, validation_source, validation_indices = _split(dataset, source, config.data)
    if split == "train":
        return evaluation_pipeline(config, network, source, mesh, train_indices)
    if not len(validation_indices):
        raise ConfigError(
            "This run held out no validation examples (config.data.validation_fraction is 0); "
            "evaluate --split=train or --split=test."
        )
    return evaluation_pipeline(config, network, validation_source, mesh, validation_indices)


def shaped(source: Source, data: DataConfig) -> Source:
    """The source with the image size and channels of the config."""
    if data.channels is not None:
        source = source.with_channels(data.channels)
    return source if data.image_size is None else source.with_image_size(data.image_size)


def _split(
    dataset: Dataset, source: Source, data: DataConfig
) -> tuple[np.ndarray, Source, np.ndarray]:
    """(training indices, source of the validation examples, their indices)."""
    train = np.arange(len(source), dtype=np.int64)
    held_out, validation_source = train[:0], source
    wanted = data.num_validation if data.num_validation is not None else data.validation_fraction
    if wanted and "validation" in dataset.info.split_sizes:
        validation_source = shaped(dataset.split("validation"), data)
        held_out = np.arange(len(validation_source), dtype=np.int64)
    elif wanted:
        train, held_out = stratified_split(
            source.labels,
            num_validation=data.num_validation,
            fraction=data.validation_fraction if data.num_validation is None else None,
            seed=data.split_seed,
            groups=source.groups,
        )
    if data.num_train is not None and data.num_train < len(train):
        _, chosen = stratified_split(
            source.labels[train], num_validation=data.num_train, seed=data.split_seed
        )
        train = train[chosen]
    return train, validation_source, held_out


def _fixed_shape(source: Source) -> tuple[int, int, int]:
    height, width, channels = source.info.image_shape
    if height is None or width is None:
        raise DataError(
            f"The images of {source.info.name} differ in size; set config.data.image_size, for "
            "example --config.data.image_size=224,224."
        )
    return height, width, channels


def _preprocess(data: DataConfig, source: Source, indices: np.ndarray) -> Preprocess:
    if data.mean is not None and data.std is not None:
        mean, std = data.mean, data.std
    else:
        _fixed_shape(source)
        mean, std = measure(source, indices)
    preprocess = Preprocess(mean, std, data.pad)
    check_channels(preprocess, source.info.image_shape[2])
    return preprocess


def _evaluation_batch(batch_size: int, num_examples: int, mesh: Mesh) -> int:
    """The largest size up to the one asked for, no larger than the data, that devices divide."""
    devices = mesh.devices.size
    return -(-min(batch_size, num_examples) // devices) * devices


def _pipelines(
    config: ExperimentConfig, network: Network, mesh: Mesh, source: Source, total_steps: int
) -> tuple[Callable[[Order], Pipeline], Callable[[Source, Order], Pipeline]]:
    """Makers of the training and of an evaluation pipeline, of the kind the config asks for."""
    data = config.data
    num_bytes = len(source) * int(np.prod(network.image_shape))
    small = num_bytes <= data.resident_limit_mib * MIB
    if data.pipeline == "resident" or (data.pipeline == "auto" and small):
        placed: dict[str, Tree] = {}

        def place(which: Source) -> Tree:
            if which.split not in placed:
                images, labels = which.read_all()
                values = {"image": images, "label": labels}
                placed[which.split] = jax.device_put(values, replicated(mesh))
            return placed[which.split]

        longest = config.train.max_steps_per_dispatch
        return (
            lambda order: ResidentPipeline(place(source), network.preprocess, order, longest),
            lambda which, order: ResidentPipeline(
                place(which), network.preprocess, order, order.steps_per_epoch
            ),
        )

    def stream(which: Source, order: Order, steps: int) -> Pipeline:
        return StreamingPipeline(
            which, network.preprocess, order, num_workers=data.num_workers, total_steps=steps
        )

    return (
        lambda order: stream(source, order, total_steps),
        lambda which, order: stream(which, order, order.steps_per_epoch),
    )


def default_workdir(config_path: Path) -> Path:
    """Where a run goes when nobody says: `runs/` and the experiment's own path."""
    parts = config_path.with_suffix("").parts
    kept = parts[parts.index("experiments") + 1 :] if "experiments" in parts else parts[-1:]
    return Path("runs", *kept)
