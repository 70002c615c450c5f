"""Whether a head is trained on features in place of images, and which."""

from typing import Any

import flax.linen as nn
import numpy as np

from cnn_lab.core.arrays import Tree
from cnn_lab.core.errors import ConfigError
from cnn_lab.core.formatting import human_bytes
from cnn_lab.data.augment.recipes import Augmentation
from cnn_lab.data.loaders.factory import LoaderFactory
from cnn_lab.data.loaders.in_memory import MIB
from cnn_lab.data.subsets import Subset
from cnn_lab.experiment.experiment import Experiment
from cnn_lab.experiment.features import Features, Split
from cnn_lab.models.heads import Classifier, HeadAlone
from cnn_lab.transfer.features import FeatureMaker

PASSES = "config.transfer.augmented_passes"


def plan_features(
    experiment: Experiment, subsets: tuple[Subset, Subset], maker: LoaderFactory, variables: Tree
) -> tuple[Features | None, str]:
    """What is trained on in place of images, and a sentence where a user may wonder why it is not.

    Args:
        experiment: as it is without features.
        subsets: training and validation examples.
        maker: of loaders.
        variables: shapes of the model's.

    Raises:
        ConfigError: altered passes were asked for where they make no sense.
    """
    config, beginning = experiment.config, experiment.beginning
    model, augmentation = experiment.network.model, experiment.named.augmentation
    transfer = config.transfer
    if transfer is None or beginning is None:
        return None, ""
    num_passes, alters = transfer.augmented_passes, augmentation != Augmentation()
    only_head = all(
        path.startswith("head/")
        for group in beginning.plan.groups
        if group.rate
        for path in group.paths
    )
    if num_passes and not only_head:
        raise ConfigError(
            f"{PASSES} is {num_passes}, but more than the head is trained, so that the features "
            f"change; set it to 0, or config.transfer.strategy=head."
        )
    if num_passes and not alters:
        raise ConfigError(
            f"{PASSES} is {num_passes}, but the images are not altered, so that all passes would "
            "be alike; set it to 0, or set config.data.augment.strength."
        )
    fits = beginning.plan.fits
    if not only_head or not (transfer.cache_features or fits):
        return None, ""
    if fits:
        _check_fit(model, subsets, augmentation, variables)
    features, why_not = None, ""
    if experiment.mesh.num_processes > 1:
        why_not = "several processes train, each on a part of the images; features are for one."
    elif not isinstance(model, Classifier) or model.auxiliary:
        why_not = "not only the head reads its maps."
    elif alters and not num_passes:
        why_not = (
            f"the images are altered anew each time; {PASSES}=N alters them N times, and keeps "
            "the features."
        )
    else:
        features = _features(experiment, model, subsets, maker, max(1, num_passes))
        size, most = features.num_bytes(variables), config.data.in_memory_limit_mib * MIB
        if size > most:
            features, why_not = (
                None,
                (
                    f"its features would take {human_bytes(size)}, more than "
                    f"config.data.in_memory_limit_mib allows ({human_bytes(most)})."
                ),
            )
    if fits and features is None:
        raise ConfigError(
            "config.transfer.strategy=logistic runs the backbone once, but here it would have to "
            f"run at every step: {why_not}"
        )
    return features, f"The backbone runs at every step: {why_not}" if why_not else ""


def _check_fit(
    model: nn.Module, subsets: tuple[Subset, Subset], augmentation: Augmentation, variables: Tree
) -> None:
    """Refuses what scikit-learn cannot fit."""
    head = getattr(model, "head", None)
    output = variables["params"].get("head", {}).get("output", {})
    is_dense = "kernel" in output and output["kernel"].ndim == 2
    needed = ""
    if not is_dense or getattr(head, "output_activation", "identity") != "identity":
        needed = "a dense output layer that gives the logits, which this model lacks"
    elif augmentation.mixes:
        needed = "one class an image, but mixup or CutMix mixes them; leave those out"
    elif len(np.unique(subsets[0].labels)) < 2:
        needed = "training images of at least two classes"
    elif not len(subsets[1]):
        needed = (
            "validation images to choose the strength of its penalty by; set "
            "config.data.validation_fraction or config.data.num_validation above 0"
        )
    if needed:
        raise ConfigError(
            f"config.transfer.strategy=logistic needs {needed}, or take another strategy."
        )


def _features(
    experiment: Experiment,
    model: Classifier,
    subsets: tuple[Subset, Subset],
    maker: LoaderFactory,
    num_passes: int,
) -> Features:
    config, mesh = experiment.config, experiment.mesh
    augmentation, training = experiment.named.augmentation, experiment.train_loader
    batch_size, devices = config.evaluate.batch_size, mesh.num_devices
    train, validation = subsets
    facts: dict[str, Any] = {}
    if augmentation == Augmentation():
        images = maker.evaluation(train, batch_size, devices)
    else:
        rounded = -(-min(batch_size, len(train)) // devices) * devices
        images = maker.augmented_passes(
            train, rounded, seed=config.seed, num_passes=num_passes, augmentation=augmentation
        )
        facts = {"augmentation": repr(augmentation), "loader": images.name}
    altered = Split(
        FeatureMaker(model, images, train.source, mesh, "training", num_passes, facts),
        training.sampler,
        config.train.max_steps_per_dispatch,
        training.name,
        num_passes,
    )
    held_out = None
    if experiment.validation_loader is not None:
        images = maker.evaluation(validation, batch_size, devices)
        order, name = experiment.validation_loader.sampler, experiment.validation_loader.name
        made = FeatureMaker(model, images, validation.source, mesh, "validation")
        held_out = Split(made, order, order.steps_per_epoch, name)
    return Features(HeadAlone(model.head), altered, held_out)
