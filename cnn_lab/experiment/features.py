"""Training of a head on features that the frozen backbone gave once, in place of images."""

import dataclasses
from collections.abc import Callable

import flax.linen as nn

from cnn_lab.core import trees
from cnn_lab.core.arrays import Tree
from cnn_lab.data.loaders.feature_pipeline import FeaturePipeline
from cnn_lab.data.sampler import Order
from cnn_lab.transfer.features import FeatureMaker


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
