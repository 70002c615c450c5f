"""Many steps in one call of a compiled program.

A small net's step takes a few milliseconds, about what it costs to call it from Python. So the
loop over steps is compiled too: one program takes a stack of up to `max_steps` raw batches and a
number of steps to run, which is data, so that every call uses the same program and a run that was
cut anywhere continues with the same arithmetic.
"""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from cnn_lab.core.arrays import Key, Tree
from cnn_lab.distributed.consensus import Consensus, max_over_processes
from cnn_lab.distributed.mesh import DeviceMesh
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
        propose (`distributed/consensus.py`).
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
        return state, history, max_over_processes(proposal)

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
