"""Training of a head on features that the frozen backbone gave once, in place of images."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import numpy as np
from jax.sharding import Mesh

from cnn_lab.beginning import Beginning
from cnn_lab.config import ExperimentConfig
from cnn_lab.core import trees
from cnn_lab.core.errors import ConfigError
from cnn_lab.core.numbers import human_bytes
from cnn_lab.core.shapes import Tree
from cnn_lab.data.assemble import MIB, PipelineMaker
from cnn_lab.data.augment.recipes import Augmentation
from cnn_lab.data.examples import Subset
from cnn_lab.data.feature_pipeline import FeaturePipeline
from cnn_lab.data.order import Order
from cnn_lab.data.pipelines import Pipeline
from cnn_lab.models.heads import Classifier, HeadAlone
from cnn_lab.transfer.features import FeatureMaker

PASSES = "config.transfer.augmented_passes"


@dataclasses.dataclass(frozen=True)
class Split:
    """A split whose features take the place of its images.

    Attributes:
        maker: of the features.
        order: which examples make up which step.
        max_steps: longest stack of steps that a feed may hold.
        name: of the pipeline of the images.
        num_passes: over the images.
    """

    maker: FeatureMaker
    order: Order
    max_steps: int
    name: str
    num_passes: int = 1

    def pipeline(self, arrays: Callable[[FeatureMaker], Tree]) -> FeaturePipeline:
        """The pipeline over features, or over their shapes."""
        resident = arrays(self.maker)
        return FeaturePipeline(resident, self.order, self.max_steps, self.name, self.num_passes)


@dataclasses.dataclass(frozen=True)
class Features:
    """What is trained on in place of images.

    Attributes:
        module: the head, with the same paths as in the whole model.
        training: the training split.
        validation: the validation split, None without one.
    """

    module: nn.Module
    training: Split
    validation: Split | None

    def pipelines(
        self, arrays: Callable[[FeatureMaker], Tree]
    ) -> tuple[FeaturePipeline, FeaturePipeline | None]:
        """Those of training and validation.

        Args:
            arrays: maker -> features and labels, or their shapes.
        """
        training = self.training.pipeline(arrays)
        return training, None if self.validation is None else self.validation.pipeline(arrays)

    def num_bytes(self, variables: Tree) -> int:
        """Of all features.

        Args:
            variables: of the model, or their shapes.
        """
        splits = [split for split in (self.training, self.validation) if split is not None]
        return sum(trees.num_bytes(split.maker.shapes(variables)) for split in splits)


def plan_features(
    config: ExperimentConfig,
    model: nn.Module,
    beginning: Beginning | None,
    augmentation: Augmentation,
    subsets: tuple[Subset, Subset],
    pipelines: tuple[Pipeline, Pipeline | None],
    maker: PipelineMaker,
    mesh: Mesh,
    variables: Tree,
) -> tuple[Features | None, str]:
    """What is trained on in place of images, and a sentence where a user may wonder why it is not.

    Args:
        config: the experiment.
        model: the whole one.
        beginning: which weights are trained.
        augmentation: of the training images.
        subsets: training and validation examples.
        pipelines: their images.
        maker: of pipelines.
        mesh: devices.
        variables: shapes of the model's.

    Raises:
        ConfigError: altered passes were asked for where they make no sense.
    """
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
    if not isinstance(model, Classifier) or model.auxiliary:
        why_not = "not only the head reads its maps."
    elif alters and not num_passes:
        why_not = (
            f"the images are altered anew each time; {PASSES}=N alters them N times, and keeps "
            "the features."
        )
    else:
        splits = (config, model, augmentation, subsets, pipelines, maker, mesh, max(1, num_passes))
        features = _features(*splits)
        size, most = features.num_bytes(variables), config.data.resident_limit_mib * MIB
        if size > most:
            features, why_not = (
                None,
                (
                    f"its features would take {human_bytes(size)}, more than "
                    f"config.data.resident_limit_mib allows ({human_bytes(most)})."
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
    config: ExperimentConfig,
    model: Classifier,
    augmentation: Augmentation,
    subsets: tuple[Subset, Subset],
    pipelines: tuple[Pipeline, Pipeline | None],
    maker: PipelineMaker,
    mesh: Mesh,
    num_passes: int,
) -> Features:
    batch_size, devices = config.evaluate.batch_size, mesh.devices.size
    train, validation = subsets
    facts: dict[str, Any] = {}
    if augmentation == Augmentation():
        images = maker.evaluation(train, batch_size, devices)
    else:
        rounded = -(-min(batch_size, len(train)) // devices) * devices
        images = maker.passes(
            train, rounded, seed=config.seed, num_passes=num_passes, augmentation=augmentation
        )
        facts = {"augmentation": repr(augmentation), "pipeline": images.name}
    training = Split(
        FeatureMaker(model, images, train.source, mesh, "training", num_passes, facts),
        pipelines[0].order,
        config.train.max_steps_per_dispatch,
        pipelines[0].name,
        num_passes,
    )
    held_out = None
    if pipelines[1] is not None:
        images = maker.evaluation(validation, batch_size, devices)
        order = pipelines[1].order
        made = FeatureMaker(model, images, validation.source, mesh, "validation")
        held_out = Split(made, order, order.steps_per_epoch, pipelines[1].name)
    return Features(HeadAlone(model.head), training, held_out)
