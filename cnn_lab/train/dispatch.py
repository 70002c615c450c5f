"""Many steps in one call of a compiled program.

A small net's step takes a few milliseconds, about what it costs to call it from Python. So the
loop over steps is compiled too: one program takes a stack of up to `max_steps` feeds and a number
of steps to run, which is data, so that every call uses the same program and a run that was cut
anywhere continues with the same arithmetic.
"""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from cnn_lab.core.arrays import Key, Tree
from cnn_lab.distributed.consensus import Agreement, most_of
from cnn_lab.distributed.mesh import Layout
from cnn_lab.tasks.metrics import weighted_pairs
from cnn_lab.train.state import AUGMENT_STREAM, TrainState, step_key
from cnn_lab.train.step import Step, Task

# (resident arrays, one step's feed, key) -> batch of `image`, `label`, `weight`
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
    step: Step, prepare: Prepare, layout: Layout, state: TrainState, resident: Tree, feeds: Tree
) -> Program:
    """Compiles (state, resident, feeds, first_step, num_steps, told) -> (state, metrics, heard).

    Args:
        step: one training step.
        prepare: makes a batch from the resident arrays and one step's feed.
        layout: devices.
        state: a state, or its shapes; given away by each call.
        resident: arrays that stay on the devices, or their shapes.
        feeds: a stack [max_steps, n, ...] of feeds, or its shapes.

    Returns:
        A program. Its metrics are name -> (sums [max_steps], counts [max_steps]); steps after one
        that was not finite are not run. It hears the most of what all processes told
        (`distributed/consensus.py`).
    """
    max_steps = jax.tree.leaves(feeds)[0].shape[0]

    def train(state, resident, feeds, first_step, num_steps, told):  # names its compiled program
        def one(state: TrainState, index) -> tuple[TrainState, Tree]:
            feed = jax.tree.map(lambda stack: stack[index], feeds)
            return step(state, prepare(resident, feed, prepare_key(state)))

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
        return state, history, most_of(told)

    everywhere, state_shardings = layout.everywhere, layout.shardings(state)
    jitted = jax.jit(
        train,
        in_shardings=(
            state_shardings,
            layout.as_it_lies(resident),
            layout.batches,
            everywhere,
            everywhere,
            layout.rows,
        ),
        out_shardings=(state_shardings, everywhere, everywhere),
        donate_argnums=0,
    )
    index = jax.ShapeDtypeStruct((), jnp.int32)
    told = Agreement(layout, lambda: False).told(1)
    return compile_program(jitted, state, resident, feeds, index, index, told)


def compile_evaluate(
    model_apply: Callable[..., Any],
    task: Task,
    prepare: Prepare,
    layout: Layout,
    variables: Tree,
    resident: Tree,
    feeds: Tree,
) -> Program:
    """Compiles (variables, resident, feeds, num_steps) -> metrics per step, as `compile_train`."""
    max_steps = jax.tree.leaves(feeds)[0].shape[0]

    def evaluate(variables, resident, feeds, num_steps):  # names its compiled program
        def one(index) -> Tree:
            feed = jax.tree.map(lambda stack: stack[index], feeds)
            batch = prepare(resident, feed, jax.random.key(0))
            logits = model_apply(variables, batch["image"], train=False)
            return weighted_pairs(task.metrics(logits, batch), batch["weight"])

        shapes = jax.eval_shape(one, jnp.zeros((), jnp.int32))
        history = jax.tree.map(lambda s: jnp.zeros((max_steps,), s.dtype), shapes)

        def body(index, history):
            return jax.tree.map(lambda h, m: h.at[index].set(m), history, one(index))

        return jax.lax.fori_loop(0, num_steps, body, history)

    everywhere, lie = layout.everywhere, layout.shardings(variables)
    jitted = jax.jit(
        evaluate,
        in_shardings=(lie, layout.as_it_lies(resident), layout.batches, everywhere),
        out_shardings=everywhere,
    )
    number = jax.ShapeDtypeStruct((), jnp.int32)
    return compile_program(jitted, variables, resident, feeds, number)


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
