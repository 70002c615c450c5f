"""Compiled calls of many training steps, dispatched one call ahead of the host.

A small net's step takes a few milliseconds, about what it costs to call it from Python. So the loop
over steps is compiled too: one program takes a stack of up to `max_steps` raw batches and a number
of steps to run, which is data, so that every call uses the same program and a run that was cut
anywhere continues with the same arithmetic.
"""

import dataclasses
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import jaxpr_as_fun

from cnn_lab.core.arrays import Key, Tree
from cnn_lab.core.compilation_cache import COMPILING
from cnn_lab.data.loaders.loader import Loader
from cnn_lab.distributed.mesh import DeviceMesh
from cnn_lab.distributed.processes import Consensus
from cnn_lab.training.state import AUGMENT_STREAM, TrainState, step_key
from cnn_lab.training.step import Step

SECONDS_PER_CALL = 1.0
GROWTH = 4  # of the number of steps from one call to the next
INDEX = jax.ShapeDtypeStruct((), jnp.int32)

# (arrays in memory, one step's raw batch, key) -> batch of `image`, `label`, `weight`
Prepare = Callable[[Tree, Tree, Key], Tree]
StepMetrics = dict[str, tuple[float, float]]  # name -> (sum, count)


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled program; its arguments must have the shardings that it was compiled for.

    Attributes:
        call: runs it.
        compile_seconds: of tracing, lowering and compiling, or loading from the cache.
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


def compile_over_batches(
    function: Callable[..., Any],
    mesh: DeviceMesh,
    variables: Tree,
    device_arrays: Tree,
    raw_batches: Tree,
    *,
    num_indices: int,
    out_shardings: Any,
    votes: Tree | None = None,
    donates: bool = False,
) -> Future[Program]:
    """Compiles a function of (variables, device_arrays, raw_batches, *indices, and maybe votes).

    It is traced here, as JAX is set in this thread, and compiled in another one, which Ctrl-C does
    not wait for; what fails there, the future raises.

    Args:
        function: pure; its name is that of the compiled program.
        mesh: devices.
        variables: a tree or its shapes, the first argument.
        device_arrays: arrays that stay on the devices, or their shapes.
        raw_batches: a stack [max_steps, n, ...] of raw batches, or its shapes.
        num_indices: int32 scalars that follow.
        out_shardings: of the results.
        votes: of `Consensus`, if the function takes them.
        donates: whether each call gives the variables away.
    """
    further, further_shardings = (INDEX,) * num_indices, (mesh.replicated,) * num_indices
    if votes is not None:
        further, further_shardings = (*further, votes), (*further_shardings, mesh.sharded)
    jitted = jax.jit(
        function,
        in_shardings=(
            mesh.shardings(variables),
            mesh.shardings_as_placed(device_arrays),
            mesh.batches,
            *further_shardings,
        ),
        out_shardings=out_shardings,
        donate_argnums=0 if donates else (),
    )
    start = time.perf_counter()
    lowered = jitted.lower(variables, device_arrays, raw_batches, *further)
    future: Future[Program] = Future()

    def work() -> None:
        try:
            compiled = lowered.compile()
            scratch = int(getattr(compiled.memory_analysis(), "temp_size_in_bytes", 0))
            future.set_result(Program(compiled, time.perf_counter() - start, scratch))
        except BaseException as error:
            future.set_exception(error)

    # An orderly end of the process waits for it: that of a daemon aborts in XLA (status 134).
    threading.Thread(target=work, name=COMPILING).start()
    return future


def batch_at(stack: Tree, index: jax.Array | int) -> Tree:
    """One step's raw batch of a stack [max_steps, n, ...] of them."""
    return jax.tree.map(lambda leaf: leaf[index], stack)


def traced_once(
    function: Callable[..., Tree], *arguments: Tree
) -> tuple[Callable[..., Tree], Tree]:
    """A function that is traced here and never again, and the shapes of its results.

    Args:
        function: pure.
        arguments: such as it will be called with, or their shapes.
    """
    program, shapes = jax.make_jaxpr(function, return_shape=True)(*arguments)

    def call(*arguments: Tree) -> Tree:
        results = jaxpr_as_fun(program)(*jax.tree.leaves(arguments))
        return jax.tree.unflatten(jax.tree.structure(shapes), results)

    return call, shapes


def empty_history(shapes: Tree, max_steps: int) -> Tree:
    """Zeros [max_steps, ...] for everything that a step gives."""
    return jax.tree.map(lambda s: jnp.zeros((max_steps, *s.shape), s.dtype), shapes)


def with_row(history: Tree, index: jax.Array, row: Tree) -> Tree:
    """The history with a row set."""
    return jax.tree.map(lambda h, r: h.at[index].set(r), history, row)


def prepare_key(state: TrainState) -> Key:
    """The key that `prepare` gets at this step; the model draws from another stream."""
    return jax.random.fold_in(step_key(state), AUGMENT_STREAM)


def compile_train(
    step: Step,
    prepare: Prepare,
    mesh: DeviceMesh,
    state: TrainState,
    device_arrays: Tree,
    raw_batches: Tree,
) -> Program:
    """Compiles a stack of training steps.

    The program is (state, device_arrays, raw_batches, first_step, num_steps, votes) -> (state,
    metrics, votes); each call gives its state away. Metrics are name -> (sums [max_steps], counts
    [max_steps]); steps after one that was not finite are not run. The votes that come back are the
    maxima over all processes (`Consensus`).
    """
    max_steps = jax.tree.leaves(raw_batches)[0].shape[0]

    def train(state, device_arrays, raw_batches, first_step, num_steps, votes):
        def prepared_step(state, device_arrays, raw_batches, index) -> tuple[TrainState, Tree]:
            raw_batch = batch_at(raw_batches, index)
            return step(state, prepare(device_arrays, raw_batch, prepare_key(state)))

        zero = jnp.zeros((), jnp.int32)
        one, (_, metric_shapes) = traced_once(
            prepared_step, state, device_arrays, raw_batches, zero
        )

        def body(carry):
            index, state, history = carry
            state, metrics = one(state, device_arrays, raw_batches, index)
            return index + 1, state, with_row(history, index, metrics)

        def goes_on(carry):
            index, state, _ = carry
            return (index < num_steps) & (state.step == first_step + index)

        start = (zero, state, empty_history(metric_shapes, max_steps))
        _, state, history = jax.lax.while_loop(goes_on, body, start)
        return state, history, jax.tree.map(lambda rows: rows.max(axis=0), votes)

    return compile_over_batches(
        train,
        mesh,
        state,
        device_arrays,
        raw_batches,
        num_indices=2,
        out_shardings=(mesh.shardings(state), mesh.replicated, mesh.replicated),
        votes=Consensus(mesh, lambda: False).vote(1),
        donates=True,
    ).result()


class StepsPerCall:
    """Number of steps that a call should run, so that a signal is answered within about a second.

    At most `max_steps`. Where a run is cut into calls changes nothing in its results.
    """

    def __init__(self, max_steps: int):
        self.num_steps = 1
        self._max_steps = max_steps
        self._last_end = 0.0

    def measure(self, num_steps: int, start: float, end: float) -> None:
        """Updates the number by a call that was made at `start` and was seen to have ended."""
        self.update(self.estimate(num_steps, start, end))

    def estimate(self, num_steps: int, start: float, end: float) -> int:
        """Number of steps that would have taken long enough, from the time that one call took.

        The devices began it when the call before ended, if that was later.
        """
        seconds = max(end - max(start, self._last_end), 1e-6)
        self._last_end = end
        return int(num_steps * SECONDS_PER_CALL / seconds)

    def update(self, estimate: int) -> None:
        """Sets the number of steps to an estimate, growing to it little by little."""
        self.num_steps = max(1, min(estimate, GROWTH * self.num_steps, self._max_steps))


class NonFiniteStepError(Exception):
    """A step whose loss, gradient or new weights are not finite; the state is as before it.

    Attributes:
        step: updates made before it.
    """

    def __init__(self, step: int):
        super().__init__(f"step {step + 1} is not finite")
        self.step = step


class PendingCall(NamedTuple):
    """A call whose results have not been collected: `history` and `votes` are on the devices."""

    first_step: int
    num_steps: int
    start: float
    history: Tree
    votes: Tree


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
        self._estimate = 1  # steps that a call may run, as far as this process knows
        self._pending: deque[PendingCall] = deque()

    @property
    def steps_per_call(self) -> int:
        """Steps that the next call may run."""
        return self._steps_per_call.num_steps

    @property
    def should_stop(self) -> bool:
        """Whether someone asked any of the processes to stop."""
        return self._consensus.should_stop()

    def request_stop(self) -> None:
        """Stops all processes; called by each of them."""
        self._consensus.request_stop()

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
            votes = self._consensus.vote(self._estimate)
            state, history, votes = self._program.call(
                state, self._loader.device_arrays, raw_batches, *scalars, votes
            )
        self._pending.append(PendingCall(first, stop - first, called, history, votes))
        return state

    def collect(self, *, wait: bool) -> list[StepMetrics]:
        """Metrics of the steps that have ended since the last time.

        Args:
            wait: for all calls; else one is left running while the host prepares the next.

        Raises:
            NonFiniteStepError: one of them was not finite.
        """
        found: list[StepMetrics] = []
        while len(self._pending) > (0 if wait else 1):
            call = self._pending.popleft()
            history = {
                name: list(zip(sums.tolist(), counts.tolist(), strict=True))
                for name, (sums, counts) in jax.device_get(call.history).items()
            }
            self._heartbeat()
            self._estimate = self._steps_per_call.estimate(
                call.num_steps, call.start, time.perf_counter()
            )
            self._steps_per_call.update(self._consensus.apply_votes(call.votes, self._estimate))
            for index in range(call.num_steps):
                metrics = {name: pairs[index] for name, pairs in history.items()}
                if not all(math.isfinite(total) and count for total, count in metrics.values()):
                    raise NonFiniteStepError(call.first_step + index)
                found.append(metrics)
            self.finished_step = call.first_step + call.num_steps
        return found
