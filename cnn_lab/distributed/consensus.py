"""What the processes of a training agree on while it runs, inside its own compiled programs.

All of them must make the same calls in the same order. What one of them alone knows, that someone
asked it to stop or how long its calls take, goes into every call, and what comes back is the same
for all: so they stop after the same step, without a message of their own.
"""

from collections.abc import Callable

import jax
import numpy as np

from cnn_lab.core.arrays import Tree
from cnn_lab.distributed.mesh import DeviceMesh


class Consensus:
    """Whether to stop, and how many steps a call may run.

    A process alone need not ask anyone: then nothing is told, and nothing heard.

    Args:
        mesh: devices, of one process or several.
        interrupted: whether someone asked this process to stop.
    """

    def __init__(self, mesh: DeviceMesh, interrupted: Callable[[], bool]):
        self._mesh, self._interrupted = mesh, interrupted
        self._alone = mesh.num_processes == 1
        self._heard_stop = False

    def stops(self) -> bool:
        """Whether all processes are to stop now."""
        return self._interrupted() if self._alone else self._heard_stop

    def stop(self) -> None:
        """Told by every process that all have heard elsewhere that someone asked to stop."""
        self._heard_stop = True

    def propose(self, fitting: int) -> Tree:
        """What goes into a call, on the devices.

        Args:
            fitting: steps that a call may run for this process.
        """
        if self._alone:
            return {}
        mine = np.asarray([self._interrupted(), -fitting], np.float32)
        return {"most": self._mesh.put_one_row_per_device(mine)}

    def agreed(self, most: Tree, fitting: int) -> int:
        """Takes what came back from a call, and returns how many steps one may run for all.

        Args:
            most: as `max_over_processes` computed it.
            fitting: steps that a call may run for this process.
        """
        if self._alone:
            return fitting
        stop, slowest = jax.device_get(most["most"]).tolist()
        self._heard_stop |= stop > 0
        return int(-slowest)


def max_over_processes(told: Tree) -> Tree:
    """The largest values that any process told; for the compiled program."""
    return jax.tree.map(lambda rows: rows.max(axis=0), told)
