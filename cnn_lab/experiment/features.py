"""Training of a head on features that the frozen backbone gave once, in place of images."""

import dataclasses
from collections.abc import Callable

import flax.linen as nn

from cnn_lab.core import trees
from cnn_lab.core.arrays import Tree
from cnn_lab.data.loaders.in_memory import FeatureLoader
from cnn_lab.data.sampler import Sampler
from cnn_lab.transfer.features import FeatureMaker


@dataclasses.dataclass(frozen=True)
class Split:
    """A split whose features take the place of its images.

    Attributes:
        maker: of the features.
        sampler: which examples make up which step.
        max_steps: longest stack of steps that a feed may hold.
        name: of the loader of the images.
        num_passes: over the images.
    """

    maker: FeatureMaker
    sampler: Sampler
    max_steps: int
    name: str
    num_passes: int = 1

    def loader(self, arrays: Callable[[FeatureMaker], Tree]) -> FeatureLoader:
        """The loader over features, or over their shapes."""
        in_memory = arrays(self.maker)
        return FeatureLoader(in_memory, self.sampler, self.max_steps, self.name, self.num_passes)


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

    def loaders(
        self, arrays: Callable[[FeatureMaker], Tree]
    ) -> tuple[FeatureLoader, FeatureLoader | None]:
        """Those of training and validation.

        Args:
            arrays: maker -> features and labels, or their shapes.
        """
        training = self.training.loader(arrays)
        return training, None if self.validation is None else self.validation.loader(arrays)

    def num_bytes(self, variables: Tree) -> int:
        """Of all features.

        Args:
            variables: of the model, or their shapes.
        """
        splits = [split for split in (self.training, self.validation) if split is not None]
        return sum(trees.num_bytes(split.maker.shapes(variables)) for split in splits)
