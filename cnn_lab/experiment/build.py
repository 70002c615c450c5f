"""The only place that turns the names in a config into objects."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import optax

from cnn_lab.config import DataConfig, ExperimentConfig
from cnn_lab.core.errors import ConfigError
from cnn_lab.core.formatting import counted
from cnn_lab.data.augment.compose import check_fits
from cnn_lab.data.datasets.catalog import Dataset, open_dataset
from cnn_lab.data.loaders.factory import LoaderFactory, make_preprocess
from cnn_lab.data.loaders.in_memory import PutSplit, put_split
from cnn_lab.data.loaders.loader import Loader
from cnn_lab.data.normalize import Preprocess, padded_shape
from cnn_lab.data.subsets import Subset, choose_examples
from cnn_lab.distributed.mesh import DeviceMesh, choose_num_devices, choose_num_slices, make_mesh
from cnn_lab.experiment.components import Named, class_weights, make_components
from cnn_lab.experiment.experiment import Experiment
from cnn_lab.experiment.feature_plan import plan_features
from cnn_lab.experiment.initialization import Beginning, begin
from cnn_lab.experiment.network import Network, make_model
from cnn_lab.train.averaging import Average, evaluated_variables
from cnn_lab.train.gradient import make_gradient, per_device
from cnn_lab.train.phases import Phase, make_entry
from cnn_lab.train.recalibration import STATISTICS
from cnn_lab.train.state import make_init
from cnn_lab.train.step import make_train_step


def build(
    config: ExperimentConfig,
    open_data: Callable[..., Dataset] = open_dataset,
    preprocess_for: Callable[[DataConfig, Subset], Preprocess] = make_preprocess,
    place: PutSplit = put_split,
    named: Named | None = None,
    lineage: Mapping[str, Any] | None = None,
) -> Experiment:
    """Builds the experiment that a config describes; trains nothing.

    Args:
        config: the experiment.
        open_data: (name, data_dir) -> data set; wrap `open_dataset` to show its progress, or to
            refuse data that are not prepared.
        preprocess_for: (data, training examples) -> padding and normalisation.
        place: puts a split on the devices; `shapes_of_split` reads no pixels.
        named: what the names in the config stand for; looked up by default.
        lineage: what the record of a run that goes on says of its source.

    Raises:
        ConfigError: a name, option or combination that cannot work.
        DataError: the data are missing or unfit.
    """
    # Whatever can be known to be wrong is said before the data are opened, or even downloaded.
    named = named or make_components(config)
    batch_size, parts = config.train.batch_size, config.train.num_micro_batches
    num_devices = choose_num_devices(batch_size, config.mesh.num_devices, parts)
    num_slices = choose_num_slices(num_devices, config.mesh.num_slices)
    mesh = make_mesh(num_devices, num_slices=num_slices, shards_state=config.mesh.fsdp)
    dataset = open_data(config.data.name, config.data.data_dir)
    train, validation = choose_examples(dataset, config.data)
    class_names = train.source.info.class_names
    if len(class_names) < 2:
        raise ConfigError(
            f"{config.data.name} has only one class, {', '.join(class_names)}, so there is nothing "
            "to tell apart; add images of another class."
        )
    if config.train.batch_size > len(train):
        raise ConfigError(
            f"config.train.batch_size is {config.train.batch_size}, but {config.data.name} has "
            f"only {counted(len(train), 'training example')}; use at most that many."
        )
    steps_per_epoch = -(-len(train) // config.train.batch_size)
    learning_rate = named.make_schedule(steps_per_epoch * config.train.num_epochs, steps_per_epoch)
    average = named.make_average(steps_per_epoch)
    model, image_shape = make_model(config, len(class_names)), train.source.fixed_shape
    input_shape = padded_shape(image_shape, config.data.pad)
    beginning = begin(
        config,
        functools.partial(make_model, config),
        class_names,
        input_shape,
        len(train),
        lineage,
    )
    weights = class_weights(config, train.labels, class_names)
    # What does not fit the size of the images stops here, before their pixels are measured.
    check_fits(named.augmentation, image_shape)
    network = Network(
        model=model,
        task=named.make_task(weights),
        class_names=class_names,
        image_shape=image_shape,
        preprocess=preprocess_for(config.data, train),
        class_weights=weights,
    )
    phases_of = functools.partial(
        _phases, config, named, network, mesh, beginning, learning_rate, average, steps_per_epoch
    )
    phases = phases_of(model)
    maker = LoaderFactory(config.data, network.preprocess, mesh, place)
    make_training = functools.partial(
        maker.training,
        train,
        config.train.batch_size,
        seed=config.seed,
        max_steps=config.train.max_steps_per_dispatch,
        augmentation=named.augmentation,
    )
    training = make_training(num_epochs=config.train.num_epochs)
    shapes = (jax.eval_shape(phase.init, jax.random.key(0)) for phase in phases)
    first = next(shapes)
    refits = average.recalibrate_from_step is not None and any(
        STATISTICS in state.collections for state in (first, *shapes)
    )
    refitting = make_training(num_epochs=1) if refits else None  # its readers begin anew each time
    held_out = None
    if len(validation):
        held_out = maker.evaluation(validation, config.evaluate.batch_size, mesh.num_devices)
    variables = evaluated_variables(first)
    experiment = Experiment(
        config=config,
        network=network,
        dataset=dataset,
        mesh=mesh,
        train_loader=training,
        validation_loader=held_out,
        recalibration_loader=refitting,
        named=named,
        average=average,
        learning_rate=lambda step: np.asarray(learning_rate(step)).item(),
        phases=phases,
        num_micro_batches=parts,
        beginning=beginning,
        features=None,
        notes=(),
    )
    features, note = plan_features(experiment, (train, validation), maker, variables)
    experiment = dataclasses.replace(experiment, features=features, notes=(note,) if note else ())
    if features is None:
        return experiment
    training, held_out = features.loaders(lambda maker: maker.shapes(variables))
    return dataclasses.replace(
        experiment,
        train_loader=training,
        validation_loader=held_out,
        phases=phases_of(features.module),
    )


def _phases(
    config: ExperimentConfig,
    named: Named,
    network: Network,
    mesh: DeviceMesh,
    beginning: Beginning | None,
    learning_rate: optax.Schedule,
    average: Average,
    steps_per_epoch: int,
    module: nn.Module,
) -> tuple[Phase, ...]:
    """The parts of a training; one where the same parameters are trained throughout."""
    gradient = make_gradient(
        module,
        network.task,
        num_micro_batches=config.train.num_micro_batches,
        rematerialise=config.train.rematerialise,
    )
    if config.train.batch_statistics == "per_device":
        gradient = per_device(gradient, mesh)
    begins = (0,) if beginning is None else beginning.plan.phases
    phases = []
    for first, end in zip(begins, (*begins[1:], config.train.num_epochs), strict=True):
        trainable, lr_multipliers = None, None
        if beginning is not None:
            trainable = beginning.trainable(first)
            lr_multipliers = beginning.lr_multipliers(first, steps_per_epoch)
        trainable = trainable or (lambda _: True)
        optimizer = named.make_optimizer(learning_rate, lr_multipliers)
        step = make_train_step(module, network.task, optimizer, named.penalty, average, gradient)
        init = make_init(network.model, optimizer, network.input_shape, average.init, trainable)
        entry = make_entry(optimizer, average, trainable)
        phases.append(Phase(end * steps_per_epoch, init, step, entry))
    return tuple(phases)


def evaluation_loader(
    config: ExperimentConfig, network: Network, subset: Subset, mesh: DeviceMesh
) -> Loader:
    """A loader over `subset`, in order, for `make_evaluator`."""
    maker = LoaderFactory(config.data, network.preprocess, mesh)
    return maker.evaluation(subset, config.evaluate.batch_size, mesh.num_devices)
