"""Measures the statistics of batch normalisation anew, for weights that no training step had.

Running statistics lag behind, and those of averaged weights were never measured at all (Izmailov et
al. 2018, arXiv:1803.05407, section 3.2). Here they become the mean of the statistics of some
training batches, whatever the momentum of the layers.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnn_lab.core.arrays import Tree
from cnn_lab.distributed.mesh import Layout
from cnn_lab.train.dispatch import Prepare, Program, compile_program
from cnn_lab.train.loop import Feeder

STATISTICS = "batch_stats"
MOST_BATCHES = 100


class Refit:
    """Statistics of variables over training batches; compiles on first use.

    A layer's new running value is momentum * old + (1 - momentum) * that of the batch. Begun at 0
    it is (1 - momentum) times the batch's, and begun at a large number it is larger by momentum
    times that: so both follow from what the model does, and no layer needs to be known. The number
    is far larger than any statistic, so that rounding leaves the momentum as exact as a float32.

    Attributes:
        num_steps: batches that are measured.

    Args:
        apply: (params, collections, frozen, images, key) -> (outputs, collections), as in training.
        prepare: makes a batch from the resident arrays and one step's feed.
        feeder: training batches, from step 0 on.
        feed_shapes: shapes of a feed.
        num_steps: batches to measure.
        layout: devices.
    """

    def __init__(
        self,
        apply: Callable[..., Any],
        prepare: Prepare,
        feeder: Feeder,
        feed_shapes: Tree,
        *,
        num_steps: int,
        layout: Layout,
    ):
        self._make = lambda variables: _compile(
            apply, prepare, layout, variables, feeder.resident, feed_shapes
        )
        self._feeder = feeder
        self.num_steps = num_steps
        self._layout = layout
        self._program: Program | None = None

    def compile(self, variables: Tree) -> Program:
        """Compiles for variables of these shapes, once."""
        if self._program is None:
            self._program = self._make(variables)
        return self._program

    def __call__(self, variables: Tree, went_on: Callable[[], None] = lambda: None) -> Tree:
        """Returns new statistics of batch normalisation.

        Args:
            variables: `params`, `collections` and `frozen` of a state.
            went_on: called whenever a call has ended.
        """
        program, feeder = self.compile(variables), self._feeder
        sums = momentum = None
        first = 0
        while first < self.num_steps:
            num_steps = min(feeder.max_steps, self.num_steps - first)
            feeds = self._layout.put_batches(feeder.feed(first, num_steps))

            def run(begun: float, number: int, feeds: Tree = feeds, first: int = first) -> Tree:
                numbers = (np.float32(begun), np.int32(first), np.int32(number))
                scalars = self._layout.put_everywhere(numbers)
                return program.call(variables, feeder.resident, feeds, *scalars)

            if momentum is None:
                from_zero = run(0.0, 1)
                largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(from_zero))
                momentum = _momentum(run, from_zero, 2.0**20 * max(1.0, largest))
            jax.block_until_ready(sums)  # of the call before; the next was fed meanwhile
            went_on()
            part = run(0.0, num_steps)
            sums = part if sums is None else jax.tree.map(jnp.add, sums, part)
            first += num_steps
        return jax.tree.map(
            lambda total, kept: total / (self.num_steps * (1 - kept)), sums, momentum
        )


def _momentum(run: Callable[[float, int], Tree], from_zero: Tree, begun: float) -> Tree:
    """Share of the old value in a layer's new one."""
    return jax.tree.map(lambda a, b: (a - b) / jnp.float32(begun), run(begun, 1), from_zero)


def _compile(
    apply: Callable[..., Any],
    prepare: Prepare,
    layout: Layout,
    variables: Tree,
    resident: Tree,
    feeds: Tree,
) -> Program:
    """Compiles (variables, resident, feeds, begun, first_step, num_steps) -> sums.

    They are the running statistics that steps from `first_step` on, whose feeds these are, leave
    behind, each begun at `begun`.
    """

    def refit(
        variables, resident, feeds, begun, first_step, num_steps
    ):  # names its compiled program
        collections = variables["collections"]
        start = jax.tree.map(lambda s: jnp.full_like(s, begun), collections[STATISTICS])

        def add(index, sums):
            feed = jax.tree.map(lambda stack: stack[index], feeds)
            key = jax.random.fold_in(jax.random.key(0), first_step + index)
            batch = prepare(resident, feed, key)
            begun_there = {**collections, STATISTICS: start}
            params, frozen = variables["params"], variables["frozen"]
            _, changed = apply(params, begun_there, frozen, batch["image"], key)
            return jax.tree.map(jnp.add, sums, changed[STATISTICS])

        zeros = jax.tree.map(jnp.zeros_like, start)
        return jax.lax.fori_loop(0, num_steps, add, zeros)

    everywhere, lie = layout.everywhere, layout.shardings(variables)
    jitted = jax.jit(
        refit,
        in_shardings=(lie, layout.as_it_lies(resident), layout.batches, *(everywhere,) * 3),
        out_shardings=lie["collections"][STATISTICS],
    )
    scalars = (jax.ShapeDtypeStruct((), d) for d in (jnp.float32, jnp.int32, jnp.int32))
    return compile_program(jitted, variables, resident, feeds, *scalars)
