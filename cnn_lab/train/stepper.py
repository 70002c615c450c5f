"""Compiled calls of many training steps, dispatched one call ahead of the host."""

import dataclasses
import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnn_lab.core.arrays import Key, Tree
from cnn_lab.data.loaders.loader import Loader
from cnn_lab.distributed.mesh import DeviceMesh
from cnn_lab.distributed.processes import Consensus
from cnn_lab.tasks.metrics import weighted_pairs
from cnn_lab.tasks.task import Task
from cnn_lab.train.state import AUGMENT_STREAM, TrainState, step_key
from cnn_lab.train.step import Step

SECONDS_PER_CALL = 1.0
GROWTH = 4  # of the number of steps from one call to the next

# (arrays in memory, one step's raw batch, key) -> batch of `image`, `label`, `weight`
Prepare = Callable[[Tree, Tree, Key], Tree]


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled program and what compiling it cost.

    Attributes:
        call: the program; its arguments must lie where it expects them.
        compile_seconds: tracing, lowering and compiling, or loading from the cache.
        temporary_bytes: scratch memory of one call on one device.
    """

    call: Callable[..., Any]
    compile_seconds: float
    temporary_bytes: int

    @property
    def text(self) -> str:
        """Its optimized HLO."""
        compiled: Any = self.call
        return compiled.as_text()


def prepare_key(state: TrainState) -> Key:
    """The key that `prepare` gets at this step; the model draws from another stream."""
    return jax.random.fold_in(step_key(state), AUGMENT_STREAM)


def compile_train(
    step: Step,
    prepare: Prepare,
    mesh: DeviceMesh,
    state: TrainState,
    in_memory: Tree,
    raw_batches: Tree,
) -> Program:
    """Compiles a stack of training steps.

    The program is (state, in_memory, raw_batches, first_step, num_steps, proposal) -> (state,
    metrics, agreed).

    Args:
        step: one training step.
        prepare: makes a batch from the arrays in memory and one step's raw batch.
        mesh: devices.
        state: a state, or its shapes; given away by each call.
        in_memory: arrays that stay on the devices, or their shapes.
        raw_batches: a stack [max_steps, n, ...] of raw batches, or its shapes.

    Returns:
        A program. Its metrics are name -> (sums [max_steps], counts [max_steps]); steps after one
        that was not finite are not run. It agrees on the maximum of what all processes
        propose (`Consensus` in `distributed/processes.py`).
    """
    max_steps = jax.tree.leaves(raw_batches)[0].shape[0]

    def train(
        state, in_memory, raw_batches, first_step, num_steps, proposal
    ):  # names its compiled program
        def one(state: TrainState, index) -> tuple[TrainState, Tree]:
            raw_batch = jax.tree.map(lambda stack: stack[index], raw_batches)
            return step(state, prepare(in_memory, raw_batch, prepare_key(state)))

        shapes = jax.eval_shape(one, state, jnp.zeros((), jnp.int32))[1]
        history = jax.tree.map(lambda s: jnp.zeros((max_steps,), s.dtype), shapes)

        def body(carry):
            index, state, history = carry
            state, metrics = one(state, index)
            return index + 1, state, jax.tree.map(lambda h, m: h.at[index].set(m), history, metrics)

        def goes_on(carry):
            index, state, _ = carry
            return (index < num_steps) & (state.step == first_step + index)

        zero = jnp.zeros((), jnp.int32)
        _, state, history = jax.lax.while_loop(goes_on, body, (zero, state, history))
        return state, history, jax.tree.map(lambda rows: rows.max(axis=0), proposal)

    replicated, state_shardings = mesh.replicated, mesh.shardings(state)
    jitted = jax.jit(
        train,
        in_shardings=(
            state_shardings,
            mesh.shardings_as_placed(in_memory),
            mesh.batches,
            replicated,
            replicated,
            mesh.sharded,
        ),
        out_shardings=(state_shardings, replicated, replicated),
        donate_argnums=0,
    )
    index = jax.ShapeDtypeStruct((), jnp.int32)
    proposal = Consensus(mesh, lambda: False).propose(1)
    return compile_program(jitted, state, in_memory, raw_batches, index, index, proposal)


def compile_evaluate(
    model_apply: Callable[..., Any],
    task: Task,
    prepare: Prepare,
    mesh: DeviceMesh,
    variables: Tree,
    in_memory: Tree,
    raw_batches: Tree,
) -> Program:
    """Compiles (variables, in_memory, raw_batches, num_steps) -> metrics of each step."""
    max_steps = jax.tree.leaves(raw_batches)[0].shape[0]

    def evaluate(variables, in_memory, raw_batches, num_steps):  # names its compiled program
        def one(index) -> Tree:
            raw_batch = jax.tree.map(lambda stack: stack[index], raw_batches)
            batch = prepare(in_memory, raw_batch, jax.random.key(0))
            logits = model_apply(variables, batch["image"], train=False)
            return weighted_pairs(task.metrics(logits, batch), batch["weight"])

        shapes = jax.eval_shape(one, jnp.zeros((), jnp.int32))
        history = jax.tree.map(lambda s: jnp.zeros((max_steps,), s.dtype), shapes)

        def body(index, history):
            return jax.tree.map(lambda h, m: h.at[index].set(m), history, one(index))

        return jax.lax.fori_loop(0, num_steps, body, history)

    replicated, lie = mesh.replicated, mesh.shardings(variables)
    jitted = jax.jit(
        evaluate,
        in_shardings=(lie, mesh.shardings_as_placed(in_memory), mesh.batches, replicated),
        out_shardings=replicated,
    )
    number = jax.ShapeDtypeStruct((), jnp.int32)
    return compile_program(jitted, variables, in_memory, raw_batches, number)


def compile_program(jitted: Any, *arguments: Any) -> Program:
    """Compiles for arguments of these shapes, and says what that cost."""
    start = time.perf_counter()
    compiled = jitted.lower(*arguments).compile()
    memory = compiled.memory_analysis()
    return Program(
        compiled,
        time.perf_counter() - start,
        int(getattr(memory, "temp_size_in_bytes", 0)),
    )


class StepsPerCall:
    """Number of steps that a call should run, so that a signal is answered within about a second.

    Their number is data of the program: where a run is cut changes nothing in its results.

    Args:
        max_steps: that a call may run.
    """

    def __init__(self, max_steps: int):
        self.num_steps = 1
        self._max_steps = max_steps
        self._last_end = 0.0

    def measure(self, num_steps: int, start: float, end: float) -> None:
        """Takes a call's steps and the times at which it was made and was found to have ended."""
        self.set(self.fitting(num_steps, start, end))

    def fitting(self, num_steps: int, start: float, end: float) -> int:
        """Number of steps that would have been long enough, going by one call.

        The devices began it when the call before ended, if that was later.
        """
        seconds = max(end - max(start, self._last_end), 1e-6)
        self._last_end = end
        return int(num_steps * SECONDS_PER_CALL / seconds)

    def set(self, fitting: int) -> None:
        """Sets the number of steps to one that fits, growing to it little by little."""
        self.num_steps = max(1, min(fitting, GROWTH * self.num_steps, self._max_steps))


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
            scalars = self._mesh.put((np.int32(first), np.int32(stop - first)))
            raw_batches = self._mesh.put(raw_batches, self._mesh.batches)
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
