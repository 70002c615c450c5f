"""The only place that turns the names in a config into objects."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import optax
from jax.sharding import Mesh

from cnn_lab.config import DataConfig, ExperimentConfig
from cnn_lab.config_rules import validate
from cnn_lab.core.errors import ConfigError, lookup, suggest
from cnn_lab.core.numbers import counted
from cnn_lab.core.options import check_options
from cnn_lab.core.shapes import Scalar, Tree
from cnn_lab.data.assemble import (
    PipelineMaker,
    PlaceSplit,
    Subset,
    choose_examples,
    fixed_shape,
    make_preprocess,
    place_split,
)
from cnn_lab.data.catalog import Dataset, open_dataset
from cnn_lab.data.pipelines import Pipeline
from cnn_lab.data.preprocess import Preprocess, padded_shape
from cnn_lab.models.catalog import MODELS
from cnn_lab.optim.optimizers import OPTIMIZERS
from cnn_lab.optim.penalties import l2
from cnn_lab.optim.schedules import SCHEDULES, make_schedule
from cnn_lab.tasks import TASKS, Classification
from cnn_lab.train.evaluate import Evaluator
from cnn_lab.train.mesh import choose_num_devices, make_mesh, replicated
from cnn_lab.train.state import TrainState, make_init
from cnn_lab.train.step import Step, make_train_step, no_penalty


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


@dataclasses.dataclass(frozen=True)
class Named:
    """What the names in a config stand for, beside the model: `make_model`.

    Attributes:
        make_schedule: (num_steps=...) -> (step -> learning rate).
        make_optimizer: (learning_rate=...) -> optimizer.
        task: losses and metrics.
    """

    make_schedule: Callable[..., optax.Schedule]
    make_optimizer: Callable[..., optax.GradientTransformation]
    task: Classification


def resolve_names(config: ExperimentConfig) -> Named:
    """Looks up every name in a config and checks every option; touches neither data nor devices.

    Raises:
        ConfigError: a name, option or combination of settings that cannot be.
    """
    validate(config)
    _model_options(config)
    optim, schedule = config.optim, config.optim.schedule
    make_optimizer = lookup(OPTIMIZERS, optim.name, "optimizer")
    optimizer_options = check_options(make_optimizer, optim.options, "config.optim.options")
    schedule_options = check_options(
        lookup(SCHEDULES, schedule.name, "schedule"),
        schedule.options,
        "config.optim.schedule.options",
    )
    task = lookup(TASKS, config.task.name, "task")(config.task.loss)
    if config.selection.metric not in task.better:
        raise ConfigError(
            f"config.selection.metric is {config.selection.metric!r}, which the task does not "
            f"measure; {suggest(config.selection.metric, task.better)}"
        )
    return Named(
        make_schedule=functools.partial(
            make_schedule,
            schedule.name,
            peak=optim.learning_rate,
            warmup_steps=schedule.warmup_steps,
            **schedule_options,
        ),
        make_optimizer=functools.partial(make_optimizer, **optimizer_options),
        task=task,
    )


def build(
    config: ExperimentConfig,
    open_data: Callable[..., Dataset] = open_dataset,
    preprocess_for: Callable[[DataConfig, Subset], Preprocess] = make_preprocess,
    place: PlaceSplit = place_split,
) -> Experiment:
    """Builds the experiment that a config describes; trains nothing.

    Args:
        config: the experiment.
        open_data: (name, data_dir) -> data set; wrap `open_dataset` to show its progress, or to
            refuse data that are not prepared.
        preprocess_for: (data, training examples) -> padding and normalisation.
        place: puts a split on the devices; `shapes_of_split` reads no pixels.

    Raises:
        ConfigError: a name, option or combination that cannot work.
        DataError: the data are missing or unfit.
    """
    # Whatever can be known to be wrong is said before the data are opened, or even downloaded.
    named = resolve_names(config)
    mesh = make_mesh(choose_num_devices(config.train.batch_size, config.mesh.num_devices))
    dataset = open_data(config.data.name, config.data.data_dir)
    train, validation = choose_examples(dataset, config.data)
    if config.train.batch_size > len(train):
        raise ConfigError(
            f"config.train.batch_size is {config.train.batch_size}, but {config.data.name} has "
            f"only {counted(len(train), 'training example')}; use at most that many."
        )
    total_steps = -(-len(train) // config.train.batch_size) * config.train.num_epochs
    learning_rate = named.make_schedule(num_steps=total_steps)
    optimizer = named.make_optimizer(learning_rate=learning_rate)
    penalty: Callable[[Tree], Scalar] = l2(config.optim.l2) if config.optim.l2 else no_penalty
    model, image_shape = make_model(config, dataset.info.num_classes), fixed_shape(train.source)
    init = make_init(model, optimizer, padded_shape(image_shape, config.data.pad))
    # Images that the model cannot take stop here, before their pixels are measured.
    jax.eval_shape(init, jax.random.key(0))
    network = Network(
        model=model,
        task=named.task,
        class_names=dataset.info.class_names,
        image_shape=image_shape,
        preprocess=preprocess_for(config.data, train),
    )
    maker = PipelineMaker(config.data, network.preprocess, replicated(mesh), place)
    training = maker.training(
        train,
        config.train.batch_size,
        seed=config.seed,
        num_epochs=config.train.num_epochs,
        longest=config.train.max_steps_per_dispatch,
    )
    held_out = None
    if len(validation):
        held_out = maker.evaluation(validation, config.evaluate.batch_size, mesh.devices.size)
    return Experiment(
        network=network,
        dataset=dataset,
        mesh=mesh,
        train_pipeline=training,
        validation_pipeline=held_out,
        optimizer=optimizer,
        learning_rate=lambda step: np.asarray(learning_rate(step)).item(),
        step=make_train_step(network.model, network.task, optimizer, penalty),
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
    return Network(
        model=make_model(config, len(about["class_names"])),
        task=lookup(TASKS, config.task.name, "task")(config.task.loss),
        class_names=tuple(about["class_names"]),
        image_shape=tuple(about["image_shape"]),
        preprocess=Preprocess.from_json(about["preprocess"]),
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
    config: ExperimentConfig, network: Network, subset: Subset, mesh: Mesh
) -> Pipeline:
    """A pipeline over `subset`, in order, for `make_evaluator`."""
    maker = PipelineMaker(config.data, network.preprocess, replicated(mesh))
    return maker.evaluation(subset, config.evaluate.batch_size, mesh.devices.size)


def default_workdir(config_path: Path, argument: str | None = None) -> Path:
    """Where a run goes when nobody says: `runs/` and the experiment's own path and argument.

    The config.json of a run belongs to the run in its folder.
    """
    if config_path.suffix == ".json":
        return config_path.parent
    if argument:
        config_path = config_path.with_name(f"{config_path.stem}-{argument}.py")
    parts = config_path.with_suffix("").parts
    kept = parts[parts.index("experiments") + 1 :] if "experiments" in parts else parts[-1:]
    return Path("runs", *kept)
