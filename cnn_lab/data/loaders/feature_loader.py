"""Features in place of images: what a frozen backbone gave for them, once."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Int

from cnn_lab.core.arrays import Tree
from cnn_lab.data.loaders.loaders import InMemoryLoader
from cnn_lab.data.sampler import Sampler


class FeatureLoader(InMemoryLoader):
    """The features of a split on the devices; a feed is the rows of a batch.

    Args:
        in_memory: features and labels, of each pass over the images after the other, each in the
            order of `sampler.indices`; or their shapes.
        sampler: which examples make up which step.
        max_steps: longest stack of steps that a feed may hold.
        name: of the loader that the images came from.
        num_passes: over the images; epochs see them in turn.
    """

    def __init__(
        self, in_memory: Tree, sampler: Sampler, max_steps: int, name: str, num_passes: int = 1
    ):
        super().__init__(in_memory, lambda features, _: features, sampler, max_steps)
        self.name = name
        self._num_passes = num_passes
        self._row_of = row_finder(sampler.indices)

    def rows(self, first_step: int, positions: Int[np.ndarray, "s n"]) -> Int[np.ndarray, "s n"]:
        """Where the examples of consecutive steps lie among the features."""
        steps = np.arange(first_step, first_step + len(positions))
        passes = steps // self.sampler.steps_per_epoch % self._num_passes
        return passes[:, None] * len(self.sampler.indices) + self._row_of(positions)


def row_finder(indices: Int[np.ndarray, " n"]) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a function from positions in a source to places in `indices`."""
    ascending = np.argsort(indices)
    return lambda positions: ascending[np.searchsorted(indices, positions, sorter=ascending)]
