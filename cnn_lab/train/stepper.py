"""Compiled calls of many training steps, dispatched one call ahead of the host."""

import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from cnn_lab.core.arrays import Tree
from cnn_lab.data.loaders.loader import Loader
from cnn_lab.distributed.consensus import Consensus
from cnn_lab.distributed.mesh import DeviceMesh
from cnn_lab.train.dispatch import Program, StepsPerCall
from cnn_lab.train.state import TrainState

StepMetrics = dict[str, tuple[float, float]]  # name -> (sum, count)


class NonFiniteStepError(Exception):
    """A step whose loss, gradient or new weights are not finite; the state is as before it.

    Attributes:
        step: updates made before it.
    """

    def __init__(self, step: int):
        super().__init__(f"step {step + 1} is not finite")
        self.step = step


class Stepper:
    """Runs training steps; all processes of a training run the same ones.

    Attributes:
        finished_step: updates made by the calls that have ended.
        wait_seconds: time that the last call waited for its data.

    Args:
        program: from `compile_train`.
        loader: of the training examples.
        mesh: devices, where the program wants its arguments.
        stop_requested: whether someone asked this process to stop.
        heartbeat: called whenever a call has ended.
    """

    def __init__(
        self,
        program: Program,
        loader: Loader,
        mesh: DeviceMesh,
        stop_requested: Callable[[], bool],
        heartbeat: Callable[[], None],
    ):
        self.finished_step = 0
        self.wait_seconds = 0.0
        self._program, self._loader, self._mesh = program, loader, mesh
        self._heartbeat = heartbeat
        self._steps_per_call = StepsPerCall(loader.max_steps)
        self._consensus = Consensus(mesh, stop_requested)
        self._fitting = 1  # steps that a call may run, as far as this process knows
        self._running: deque[tuple[int, int, float, Tree, Tree]] = deque()

    @property
    def max_steps(self) -> int:
        """Steps that the next call may run."""
        return self._steps_per_call.num_steps

    @property
    def should_stop(self) -> bool:
        """Whether someone asked any of the processes to stop."""
        return self._consensus.stops()

    def request_stop(self) -> None:
        """Stops all processes; called by each of them."""
        self._consensus.stop()

    def run(self, state: TrainState, first: int, stop: int) -> TrainState | None:
        """Dispatches the steps [first, stop); the state is given away.

        Returns:
            The state after them; None where a signal to stop ended the loader's readers too.
        """
        started = time.perf_counter()
        try:
            raw_batches = self._loader.load(first, stop - first)
        except Exception:
            if not self.should_stop:
                raise
            return None
        called = time.perf_counter()
        self.wait_seconds = called - started
        with jax.transfer_guard("disallow"):
            scalars = self._mesh.put_replicated((np.int32(first), np.int32(stop - first)))
            raw_batches = self._mesh.put_batches(raw_batches)
            proposal = self._consensus.propose(self._fitting)
            state, history, agreed = self._program.call(
                state, self._loader.in_memory, raw_batches, *scalars, proposal
            )
        self._running.append((first, stop - first, called, history, agreed))
        return state

    def finished(self, *, wait: bool) -> list[StepMetrics]:
        """Metrics of the steps that have ended since the last time.

        Args:
            wait: for all calls; else one is left running while the host prepares the next.

        Raises:
            NonFiniteStepError: one of them was not finite.
        """
        found: list[StepMetrics] = []
        while len(self._running) > (0 if wait else 1):
            first, num_steps, called, history, agreed = self._running.popleft()
            steps = _per_step(jax.device_get(history), num_steps)
            self._heartbeat()
            self._fitting = self._steps_per_call.fitting(num_steps, called, time.perf_counter())
            self._steps_per_call.set(self._consensus.agreed(agreed, self._fitting))
            for index, metrics in enumerate(steps):
                if not all(math.isfinite(total) and count for total, count in metrics.values()):
                    raise NonFiniteStepError(first + index)
            found += steps
            self.finished_step = first + num_steps
        return found


def _per_step(history: Mapping[str, Any], num_steps: int) -> list[StepMetrics]:
    """Turns name -> (sums [max_steps], counts [max_steps]) into one dict a step."""
    lists = {n: (sums.tolist(), counts.tolist()) for n, (sums, counts) in history.items()}
    return [
        {name: (sums[index], counts[index]) for name, (sums, counts) in lists.items()}
        for index in range(num_steps)
    ]
