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
from cnn_lab.core.errors import ConfigError
from cnn_lab.core.numbers import counted
from cnn_lab.data.assemble import (
    PipelineMaker,
    PlaceSplit,
    Subset,
    choose_examples,
    fixed_shape,
    make_preprocess,
    place_split,
)
from cnn_lab.data.augment.make import check
from cnn_lab.data.catalog import Dataset, open_dataset
from cnn_lab.data.pipelines import Pipeline
from cnn_lab.data.preprocess import Preprocess, padded_shape
from cnn_lab.models.catalog import MODELS
from cnn_lab.resolve import Named, class_weights, model_options, resolve_names, task_maker
from cnn_lab.tasks import Classification
from cnn_lab.train.averaging import Average
from cnn_lab.train.evaluate import Evaluator
from cnn_lab.train.gradient import make_gradient
from cnn_lab.train.mesh import choose_num_devices, make_mesh, replicated
from cnn_lab.train.refit import MOST_BATCHES, STATISTICS, Refit
from cnn_lab.train.state import TrainState, make_init
from cnn_lab.train.step import Step, make_train_step


@dataclasses.dataclass(frozen=True)
class Network:
    """What is needed to run a trained model: no data, no optimizer.

    Attributes:
        model: the module.
        task: losses and metrics.
        class_names: label to name.
        image_shape: (h, w, c) of stored images, before `preprocess`.
        preprocess: from stored pixels to the model's input.
        class_weights: factors of the losses of each class, None without.
    """

    model: nn.Module
    task: Classification
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    preprocess: Preprocess
    class_weights: tuple[float, ...] | None = None

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(h, w, c) of what the model takes."""
        return self.preprocess.output_shape(self.image_shape)

    def about(self) -> dict[str, Any]:
        """What travels with a checkpoint, as JSON values; `network_from_about` reads it back."""
        return {
            "class_weights": self.class_weights,
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
    refit_pipeline: Pipeline | None
    named: Named
    average: Average
    optimizer: optax.GradientTransformation
    learning_rate: Callable[[int], float]
    step: Step
    num_micro_batches: int
    init: Callable[[Any], TrainState]

    @property
    def fingerprint(self) -> str:
        """What the data are, whatever they are called."""
        return self.dataset.info.fingerprint

    @property
    def steps_per_epoch(self) -> int:
        """ceil(training examples / batch size)."""
        return self.train_pipeline.order.steps_per_epoch

    def pipelines(self) -> list[Pipeline]:
        """All there are; to be closed at the end."""
        found = (self.train_pipeline, self.validation_pipeline, self.refit_pipeline)
        return [pipeline for pipeline in found if pipeline is not None]

    def state_shapes(self) -> TrainState:
        """Shapes of the state; nothing is computed."""
        return jax.eval_shape(self.init, jax.random.key(0))

    def evaluator(self) -> Evaluator | None:
        """Metrics on the validation split, None without one."""
        if self.validation_pipeline is None:
            return None
        return make_evaluator(self.network, self.validation_pipeline, self.mesh)

    def refit(self) -> Refit | None:
        """Measures statistics of averaged weights on training batches, None where none need it."""
        if self.refit_pipeline is None:
            return None
        pipeline = self.refit_pipeline
        return Refit(
            self.network.model.apply,
            pipeline.prepare,
            pipeline,
            pipeline.feed_shapes(),
            num_steps=min(MOST_BATCHES, pipeline.order.steps_per_epoch),
            mesh=self.mesh,
        )


def build(
    config: ExperimentConfig,
    open_data: Callable[..., Dataset] = open_dataset,
    preprocess_for: Callable[[DataConfig, Subset], Preprocess] = make_preprocess,
    place: PlaceSplit = place_split,
    named: Named | None = None,
) -> Experiment:
    """Builds the experiment that a config describes; trains nothing.

    Args:
        config: the experiment.
        open_data: (name, data_dir) -> data set; wrap `open_dataset` to show its progress, or to
            refuse data that are not prepared.
        preprocess_for: (data, training examples) -> padding and normalisation.
        place: puts a split on the devices; `shapes_of_split` reads no pixels.
        named: what the names in the config stand for; looked up by default.

    Raises:
        ConfigError: a name, option or combination that cannot work.
        DataError: the data are missing or unfit.
    """
    # Whatever can be known to be wrong is said before the data are opened, or even downloaded.
    named = named or resolve_names(config)
    batch_size, parts = config.train.batch_size, config.train.num_micro_batches
    mesh = make_mesh(choose_num_devices(batch_size, config.mesh.num_devices, parts))
    dataset = open_data(config.data.name, config.data.data_dir)
    train, validation = choose_examples(dataset, config.data)
    if config.train.batch_size > len(train):
        raise ConfigError(
            f"config.train.batch_size is {config.train.batch_size}, but {config.data.name} has "
            f"only {counted(len(train), 'training example')}; use at most that many."
        )
    steps_per_epoch = -(-len(train) // config.train.batch_size)
    learning_rate = named.make_schedule(steps_per_epoch * config.train.num_epochs, steps_per_epoch)
    optimizer = named.make_optimizer(learning_rate)
    average = named.make_average(steps_per_epoch)
    model, image_shape = make_model(config, dataset.info.num_classes), fixed_shape(train.source)
    input_shape = padded_shape(image_shape, config.data.pad)
    init = make_init(model, optimizer, input_shape, average.init)
    labels = train.source.labels[train.indices]
    weights = class_weights(config, labels, dataset.info.class_names)
    # What does not fit the size of the images stops here, before their pixels are measured.
    check(named.augmentation, image_shape)
    shapes = jax.eval_shape(init, jax.random.key(0))
    network = Network(
        model=model,
        task=named.make_task(weights),
        class_names=dataset.info.class_names,
        image_shape=image_shape,
        preprocess=preprocess_for(config.data, train),
        class_weights=weights,
    )
    gradient = make_gradient(
        model, network.task, num_micro_batches=parts, rematerialise=config.train.rematerialise
    )
    maker = PipelineMaker(config.data, network.preprocess, replicated(mesh), place)
    make_training = functools.partial(
        maker.training,
        train,
        config.train.batch_size,
        seed=config.seed,
        longest=config.train.max_steps_per_dispatch,
        augmentation=named.augmentation,
    )
    training = make_training(num_epochs=config.train.num_epochs)
    refits = STATISTICS in shapes.collections and average.refit_from_step is not None
    refitting = make_training(num_epochs=1) if refits else None  # its readers begin anew each time
    held_out = None
    if len(validation):
        held_out = maker.evaluation(validation, config.evaluate.batch_size, mesh.devices.size)
    return Experiment(
        network=network,
        dataset=dataset,
        mesh=mesh,
        train_pipeline=training,
        validation_pipeline=held_out,
        refit_pipeline=refitting,
        named=named,
        average=average,
        optimizer=optimizer,
        learning_rate=lambda step: np.asarray(learning_rate(step)).item(),
        step=make_train_step(model, network.task, optimizer, named.penalty, average, gradient),
        num_micro_batches=parts,
        init=init,
    )


def make_model(config: ExperimentConfig, num_classes: int) -> nn.Module:
    """The model that a config names, for that many classes."""
    options = model_options(config)  # which knows what to say of an unknown name
    return MODELS[config.model.name].make(num_classes, **options)


def network_from_about(config: ExperimentConfig, about: Mapping[str, Any]) -> Network:
    """Rebuilds the network of a checkpoint from its config and what travelled with it."""
    weights = about.get("class_weights")
    return Network(
        model=make_model(config, len(about["class_names"])),
        task=task_maker(config)(weights),
        class_names=tuple(about["class_names"]),
        image_shape=tuple(about["image_shape"]),
        preprocess=Preprocess.from_json(about["preprocess"]),
        class_weights=tuple(weights) if weights else None,
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
