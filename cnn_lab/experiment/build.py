"""From a config to an `Experiment`."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import optax

from cnn_lab.config import DataConfig, ExperimentConfig
from cnn_lab.core.errors import ConfigError
from cnn_lab.core.targets import TargetSpec
from cnn_lab.core.text import counted
from cnn_lab.data.augment.compose import check_fits
from cnn_lab.data.datasets.catalog import Dataset, open_dataset
from cnn_lab.data.loaders.factory import LoaderFactory, make_preprocess
from cnn_lab.data.loaders.in_memory import PutSplit, put_split
from cnn_lab.data.normalize import Preprocess, padded_shape
from cnn_lab.data.subsets import Subset, choose_examples
from cnn_lab.distributed.mesh import DeviceMesh, choose_num_devices, choose_num_slices, make_mesh
from cnn_lab.experiment.components import Components, make_average, make_components
from cnn_lab.experiment.experiment import Experiment
from cnn_lab.experiment.features import make_features
from cnn_lab.experiment.initialization import Initialization, make_initialization
from cnn_lab.experiment.network import Network, check_task, make_model, make_task
from cnn_lab.layers.initialize import TracedInit
from cnn_lab.training.averaging import Average
from cnn_lab.training.gradient import make_gradient, per_device
from cnn_lab.training.phases import Phase, make_phase_transition
from cnn_lab.training.recalibration import STATISTICS
from cnn_lab.training.state import make_init
from cnn_lab.training.step import make_train_step


def build_experiment(
    config: ExperimentConfig,
    open_data: Callable[..., Dataset] = open_dataset,
    preprocess_for: Callable[[DataConfig, Subset], Preprocess] = make_preprocess,
    place: PutSplit = put_split,
    components: Components | None = None,
    lineage: Mapping[str, Any] | None = None,
) -> Experiment:
    """Builds the experiment that a config describes; trains nothing.

    Args:
        config: the experiment.
        open_data: (name, data_dir) -> data set; wrap `open_dataset` to show its progress, or to
            refuse data that are not prepared.
        preprocess_for: (data, training examples) -> padding and normalisation.
        place: puts a split on the devices; `shapes_of_split` reads no pixels.
        components: by default those that the config names.
        lineage: source and plan in the record of a run that is resumed.

    Raises:
        ConfigError: a name, option or combination that cannot work.
        DataError: the data are missing or unfit.
    """
    # Every mistake that can be known already is raised before the data are opened, or downloaded.
    components = components or make_components(config)
    batch_size = config.train.batch_size
    num_devices = choose_num_devices(
        batch_size, config.mesh.num_devices, config.train.num_micro_batches
    )
    num_slices = choose_num_slices(num_devices, config.mesh.num_slices)
    mesh = make_mesh(num_devices, num_slices=num_slices, shards_state=config.mesh.fsdp)
    dataset = open_data(config.data.name, config.data.data_dir)
    subsets = train, validation = choose_examples(dataset, config.data)
    target = train.source.info.target
    _check_trainable(config, len(train), target)
    measured = check_task(config).measure(config.task, target, train.labels)
    task = make_task(config, target, measured)
    steps_per_epoch = -(-len(train) // batch_size)
    num_steps = steps_per_epoch * config.train.num_epochs
    learning_rate = components.make_schedule(num_steps, steps_per_epoch)
    average = make_average(config, steps_per_epoch)
    model, image_shape = make_model(config, task.num_outputs), train.source.fixed_shape
    initialization = None
    if config.transfer is not None:
        initialization = make_initialization(
            config,
            functools.partial(make_model, config),
            target.names,
            padded_shape(image_shape, config.data.pad),
            len(train),
            lineage,
        )
    # An augmentation that does not fit the images stops here, before their pixels are measured.
    check_fits(components.augmentation, image_shape)
    network = Network(
        model=model,
        task=task,
        image_shape=image_shape,
        preprocess=preprocess_for(config.data, train),
        measured=measured,
    )
    loaders = LoaderFactory(config.data, network.preprocess, mesh, place)
    make_training = functools.partial(
        loaders.training,
        train,
        batch_size,
        seed=config.seed,
        max_steps=config.train.max_steps_per_dispatch,
        augmentation=components.augmentation,
        sampling=config.data.sampling,
    )
    train_loader = make_training(num_epochs=config.train.num_epochs)
    validation_loader = None
    if len(validation):
        validation_loader = loaders.evaluation(
            validation, config.evaluate.batch_size, mesh.num_devices
        )
    features, note = None, ""
    if initialization is not None:
        features, note = make_features(
            config,
            initialization,
            network,
            components.augmentation,
            mesh,
            loaders,
            subsets,
            (train_loader, validation_loader),
        )
    if features is not None:
        train_loader, validation_loader = features.train_loader, features.validation_loader
    phases = _make_phases(
        config,
        components,
        network,
        mesh,
        initialization,
        learning_rate=learning_rate,
        average=average,
        steps_per_epoch=steps_per_epoch,
        module=model if features is None else features.module,
    )
    recalibrates = average.recalibrate_from_step is not None and any(
        STATISTICS in phase.init.shapes.collections for phase in phases
    )
    return Experiment(
        config=config,
        components=components,
        network=network,
        dataset=dataset,
        mesh=mesh,
        train_loader=train_loader,
        validation_loader=validation_loader,
        # A loader of its own, which reads from step 0 each time.
        recalibration_loader=make_training(num_epochs=1) if recalibrates else None,
        average=average,
        learning_rate=lambda step: np.asarray(learning_rate(step)).item(),
        phases=phases,
        initialization=initialization,
        features=features,
        notes=(note,) if note else (),
    )


def _check_trainable(config: ExperimentConfig, num_examples: int, target: TargetSpec) -> None:
    """Refuses data of one class, or of fewer examples than a batch has."""
    if target.kind == "class" and len(target.names) < 2:
        problem = (
            f"{config.data.name} has only one class, {', '.join(target.names)}, so there is "
            "nothing to tell apart; add images of another class."
        )
        raise ConfigError(problem, where="config.data.name", found=config.data.name)
    if config.train.batch_size > num_examples:
        problem = (
            f"config.train.batch_size is {config.train.batch_size}, but {config.data.name} has "
            f"only {counted(num_examples, 'training example')}; use at most that many."
        )
        raise ConfigError(problem, where="config.train.batch_size", found=config.train.batch_size)


def _make_phases(
    config: ExperimentConfig,
    components: Components,
    network: Network,
    mesh: DeviceMesh,
    initialization: Initialization | None,
    *,
    learning_rate: optax.Schedule,
    average: Average,
    steps_per_epoch: int,
    module: nn.Module,
) -> tuple[Phase, ...]:
    """The phases of a training; one where the same parameters are trained throughout."""
    gradient = make_gradient(
        module,
        network.task,
        num_micro_batches=config.train.num_micro_batches,
        rematerialise=config.train.rematerialise,
    )
    if config.train.batch_statistics == "per_device":
        gradient = per_device(gradient, mesh)
    given, anchor = {}, {}
    if initialization is not None:
        given, anchor = initialization.pretrained.variables, initialization.anchor
    first_epochs = (0,) if initialization is None else initialization.plan.phase_starts
    phases = []
    for first, end in zip(first_epochs, (*first_epochs[1:], config.train.num_epochs), strict=True):
        trainable, lr_multipliers = (lambda _: True), None
        if initialization is not None:
            trainable = initialization.trainable(first)
            lr_multipliers = initialization.lr_multipliers(first, steps_per_epoch)
        optimizer = components.make_optimizer(learning_rate, lr_multipliers)
        step = make_train_step(
            module, network.task, optimizer, components.penalty, average, gradient
        )
        init = make_init(network.model, optimizer, network.input_shape, average.init, trainable)
        enter = make_phase_transition(optimizer, average, trainable)
        traced = TracedInit(init, jax.random.key(config.seed), given, anchor)
        phases.append(Phase(end * steps_per_epoch, traced, step, enter))
    return tuple(phases)
