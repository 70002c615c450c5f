"""Training of a head on features that the frozen backbone computed once, in place of images."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import numpy as np

from cnn_lab.config import ExperimentConfig
from cnn_lab.config.imports import digests_of
from cnn_lab.core import trees
from cnn_lab.core.arrays import Tree
from cnn_lab.core.errors import ConfigError
from cnn_lab.core.text import human_bytes
from cnn_lab.data.augment.recipes import Augmentation
from cnn_lab.data.loaders.factory import LoaderFactory
from cnn_lab.data.loaders.in_memory import MIB, FeatureLoader
from cnn_lab.data.loaders.loader import Loader
from cnn_lab.data.subsets import Subset
from cnn_lab.distributed.mesh import DeviceMesh
from cnn_lab.experiment.initialization import Initialization
from cnn_lab.experiment.network import Network
from cnn_lab.models.heads import Classifier, HeadAlone
from cnn_lab.transfer.features import FeatureExtractor

PASSES, STRENGTH = "config.transfer.augmented_passes", "config.data.augment.strength"


@dataclasses.dataclass(frozen=True)
class Features:
    """Features of a frozen backbone, and the head that is trained on them.

    Attributes:
        module: the head, with the same paths as in the whole model.
        train_loader: features of the training examples; shapes of them until `load`.
        validation_loader: features of the validation examples, None without.
        extractors: compute the features of each of the loaders.
    """

    module: nn.Module
    train_loader: FeatureLoader
    validation_loader: FeatureLoader | None
    extractors: tuple[FeatureExtractor, ...]

    def load(self, variables: Tree, mesh: DeviceMesh, log: Callable[[str], None]) -> None:
        """Computes the features, or finds them on disk, and puts them on the devices.

        The variables are those of the whole model, on the devices.
        """
        loaders = [self.train_loader]
        if self.validation_loader is not None:
            loaders.append(self.validation_loader)
        for loader, extractor in zip(loaders, self.extractors, strict=True):
            loader.device_arrays = mesh.put(extractor(variables, log))


def make_features(
    config: ExperimentConfig,
    initialization: Initialization,
    network: Network,
    augmentation: Augmentation,
    mesh: DeviceMesh,
    loaders: LoaderFactory,
    subsets: tuple[Subset, Subset],
    image_loaders: tuple[Loader, Loader | None],
) -> tuple[Features | None, str]:
    """Features to train a head on in place of images, where that is possible and asked for.

    Subsets and the loaders of their images are those of training and validation.

    Returns:
        The features, and a sentence where a user may wonder why there are none.

    Raises:
        ConfigError: altered passes were asked for where they make no sense, or a linear probe
            where it cannot be fitted.
    """
    transfer, model = config.transfer, network.model
    assert transfer is not None
    num_passes, alters = transfer.augmented_passes, augmentation != Augmentation()
    only_head = all(
        path.startswith("head/")
        for group in initialization.plan.groups
        if group.rate
        for path in group.paths
    )
    if num_passes and not only_head:
        problem = (
            f"{PASSES} is {num_passes}, but more than the head is trained, so that the features "
            f"change; set it to 0, or config.transfer.strategy=head."
        )
        raise ConfigError(problem, where=PASSES, found=num_passes)
    if num_passes and not alters:
        problem = (
            f"{PASSES} is {num_passes}, but the images are not altered, so that all passes would "
            f"be alike; set it to 0, or set {STRENGTH}."
        )
        raise ConfigError(problem, where=STRENGTH, found=config.data.augment.strength)
    is_linear_probe = initialization.plan.is_linear_probe
    if not only_head or not (transfer.cache_features or is_linear_probe):
        return None, ""
    variables = network.variable_shapes()
    if is_linear_probe:
        _check_linear_probe(model, subsets, augmentation, variables)
    features, why_not = None, ""
    if mesh.num_processes > 1:
        why_not = "several processes train, each on a part of the images; features are for one."
    elif not isinstance(model, Classifier) or model.auxiliary:
        why_not = "not only the head reads its maps."
    elif alters and not num_passes:
        why_not = (
            f"the images are altered anew each time; {PASSES}=N alters them N times, and keeps "
            "the features."
        )
    else:
        extractors = _make_extractors(config, model, augmentation, mesh, loaders, subsets)
        shapes = [extractor.shapes(variables) for extractor in extractors]
        size, limit = sum(map(trees.num_bytes, shapes)), config.data.in_memory_limit_mib * MIB
        if size > limit:
            why_not = (
                f"its features would take {human_bytes(size)}, more than "
                f"config.data.in_memory_limit_mib allows ({human_bytes(limit)})."
            )
        else:
            training, validation = image_loaders
            longest = config.train.max_steps_per_dispatch
            train_loader = FeatureLoader(
                shapes[0], training.sampler, longest, training.name, max(1, num_passes)
            )
            validation_loader = None
            if validation is not None:
                sampler = validation.sampler
                validation_loader = FeatureLoader(
                    shapes[1], sampler, sampler.steps_per_epoch, validation.name
                )
            head = HeadAlone(model.head)
            features = Features(head, train_loader, validation_loader, tuple(extractors))
    if is_linear_probe and features is None:
        problem = (
            "config.transfer.strategy=logistic runs the backbone once, but here it would have to "
            f"run at every step: {why_not}"
        )
        raise ConfigError(problem, where="config.transfer.strategy", found="logistic")
    return features, f"The backbone runs at every step: {why_not}" if why_not else ""


def _check_linear_probe(
    model: nn.Module, subsets: tuple[Subset, Subset], augmentation: Augmentation, variables: Tree
) -> None:
    """Refuses a model, data or augmentation that scikit-learn cannot fit."""
    head = getattr(model, "head", None)
    output = variables["params"].get("head", {}).get("output", {})
    is_dense = "kernel" in output and output["kernel"].ndim == 2
    where = needed = ""
    if not is_dense or getattr(head, "output_activation", "identity") != "identity":
        where = "config.model.name"
        needed = "a dense output layer that gives the logits, which this model lacks; take"
    elif augmentation.mixes:
        where = "config.data.augment.options"
        needed = "one class an image, but mixup or CutMix mixes them; leave those out, or take"
    elif len(np.unique(subsets[0].labels)) < 2:
        where = "config.data.name"
        needed = "training images of at least two classes; add some, or take"
    elif not len(subsets[1]):
        where = "config.data.num_validation"
        needed = (
            "validation images to choose the strength of its penalty by; set "
            "config.data.validation_fraction or config.data.num_validation above 0, or take"
        )
    if needed:
        problem = f"config.transfer.strategy=logistic needs {needed} another strategy."
        raise ConfigError(problem, where=where)


def _make_extractors(
    config: ExperimentConfig,
    model: Classifier,
    augmentation: Augmentation,
    mesh: DeviceMesh,
    loaders: LoaderFactory,
    subsets: tuple[Subset, Subset],
) -> list[FeatureExtractor]:
    """Extractors of the features of the training and, where there are any, validation images."""
    assert config.transfer is not None
    batch_size, num_passes = config.evaluate.batch_size, max(1, config.transfer.augmented_passes)
    train, validation = subsets
    # The backbone and the augmentation may be of a user's own modules, whose code changes.
    code = {"imports": digests_of(config.imports)} if config.imports else {}
    facts: dict[str, Any] = code
    if augmentation == Augmentation():
        images = loaders.evaluation(train, batch_size, mesh.num_devices)
    else:
        rounded = -(-min(batch_size, len(train)) // mesh.num_devices) * mesh.num_devices
        images = loaders.training(
            train,
            rounded,
            seed=config.seed,
            num_epochs=num_passes,
            max_steps=1,
            augmentation=augmentation,
        )
        facts = {"augmentation": repr(augmentation), "loader": images.name, **code}
    extractors = [
        FeatureExtractor(model, images, train.source, mesh, "training", num_passes, facts)
    ]
    if len(validation):
        images = loaders.evaluation(validation, batch_size, mesh.num_devices)
        source = validation.source
        extractors.append(FeatureExtractor(model, images, source, mesh, "validation", facts=code))
    return extractors
