"""Agreement of the processes of a training while it runs, inside its own compiled programs.

All of them must make the same calls in the same order. A process alone knows that someone asked it
to stop, and how long its calls take: both go into every call, and their maximum over all processes
comes back. So all stop after the same step, without another exchange.
"""

from collections.abc import Callable

import jax
import numpy as np

from cnn_lab.core.arrays import Tree
from cnn_lab.distributed.mesh import DeviceMesh


class Consensus:
    """Whether to stop, and how many steps a call may run.

    A single process gives nothing into a call, and takes nothing from it.

    Args:
        mesh: devices, of one process or several.
        interrupted: whether someone asked this process to stop.
    """

    def __init__(self, mesh: DeviceMesh, interrupted: Callable[[], bool]):
        self._mesh, self._interrupted = mesh, interrupted
        self._is_single = mesh.num_processes == 1
        self._stops = False

    def stops(self) -> bool:
        """Whether all processes are to stop now."""
        return self._interrupted() if self._is_single else self._stops

    def stop(self) -> None:
        """Stops, as all processes agreed elsewhere that someone asked to."""
        self._stops = True

    def propose(self, fitting: int) -> Tree:
        """The values of this process for a call, on the devices.

        Args:
            fitting: steps that a call may run for this process.
        """
        if self._is_single:
            return {}
        mine = np.asarray([self._interrupted(), -fitting], np.float32)
        return {"values": self._mesh.put_one_row_per_device(mine)}

    def agreed(self, maxima: Tree, fitting: int) -> int:
        """Takes the values that came back from a call, and returns how many steps fit for all.

        Args:
            maxima: as `max_over_processes` computed them.
            fitting: steps that a call may run for this process.
        """
        if self._is_single:
            return fitting
        stop, slowest = jax.device_get(maxima["values"]).tolist()
        self._stops |= stop > 0
        return int(-slowest)


def max_over_processes(proposals: Tree) -> Tree:
    """The maxima of all processes' proposals [device, value]; for the compiled program."""
    return jax.tree.map(lambda rows: rows.max(axis=0), proposals)
