"""What the processes of a training agree on while it runs, inside its own compiled programs.

All of them must make the same calls in the same order. What one of them alone knows, that someone
asked it to stop or how long its calls take, goes into every call, and what comes back is the same
for all: so they stop after the same step, without a message of their own.
"""

from collections.abc import Callable

import jax
import numpy as np

from cnn_lab.core.arrays import Tree
from cnn_lab.distributed.mesh import Layout


class Agreement:
    """Whether to stop, and how many steps a call may run.

    A process alone need not ask anyone: then nothing is told, and nothing heard.

    Args:
        layout: devices, of one process or several.
        interrupted: whether someone asked this process to stop.
    """

    def __init__(self, layout: Layout, interrupted: Callable[[], bool]):
        self._layout, self._interrupted = layout, interrupted
        self._alone = layout.num_processes == 1
        self._heard_stop = False

    def stops(self) -> bool:
        """Whether all processes are to stop now."""
        return self._interrupted() if self._alone else self._heard_stop

    def stop(self) -> None:
        """Told by every process that all have heard elsewhere that someone asked to stop."""
        self._heard_stop = True

    def told(self, fitting: int) -> Tree:
        """What goes into a call, on the devices.

        Args:
            fitting: steps that a call may run for this process.
        """
        if self._alone:
            return {}
        mine = np.asarray([self._interrupted(), -fitting], np.float32)
        return {"most": self._layout.put_a_row_each(mine)}

    def heard(self, most: Tree, fitting: int) -> int:
        """Takes what came back from a call, and returns how many steps one may run for all.

        Args:
            most: as `most_of` computed it.
            fitting: steps that a call may run for this process.
        """
        if self._alone:
            return fitting
        stop, slowest = jax.device_get(most["most"]).tolist()
        self._heard_stop |= stop > 0
        return int(-slowest)


def most_of(told: Tree) -> Tree:
    """The largest values that any process told; for the compiled program."""
    return jax.tree.map(lambda rows: rows.max(axis=0), told)
