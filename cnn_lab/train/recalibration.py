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
from cnn_lab.data.loaders.loaders import Loader
from cnn_lab.distributed.mesh import DeviceMesh
from cnn_lab.train.dispatch import Prepare, Program, compile_program

STATISTICS = "batch_stats"
MOST_BATCHES = 100


class BatchStatsRecalibration:
    """Statistics of variables over training batches; compiles on first use.

    A layer's new running value is momentum * old + (1 - momentum) * that of the batch. Begun at 0
    it is (1 - momentum) times the batch's, and begun at a large number it is larger by momentum
    times that: so both follow from what the model does, and no layer needs to be known. The number
    is far larger than any statistic, so that rounding leaves the momentum as exact as a float32.

    Attributes:
        num_steps: batches that are measured.

    Args:
        apply: (params, collections, frozen, images, key) -> (outputs, collections), as in training.
        prepare: makes a batch from the arrays in memory and one step's raw batch.
        loader: training batches, from step 0 on.
        raw_shapes: shapes of a feed.
        num_steps: batches to measure.
        mesh: devices.
    """

    def __init__(
        self,
        apply: Callable[..., Any],
        prepare: Prepare,
        loader: Loader,
        raw_shapes: Tree,
        *,
        num_steps: int,
        mesh: DeviceMesh,
    ):
        self._make = lambda variables: _compile(
            apply, prepare, mesh, variables, loader.in_memory, raw_shapes
        )
        self._loader = loader
        self.num_steps = num_steps
        self._mesh = mesh
        self._program: Program | None = None

    def compile(self, variables: Tree) -> Program:
        """Compiles for variables of these shapes, once."""
        if self._program is None:
            self._program = self._make(variables)
        return self._program

    def __call__(self, variables: Tree, heartbeat: Callable[[], None] = lambda: None) -> Tree:
        """Returns new statistics of batch normalisation.

        Args:
            variables: `params`, `collections` and `frozen` of a state.
            heartbeat: called whenever a call has ended.
        """
        program, loader = self.compile(variables), self._loader
        sums = momentum = None
        first = 0
        while first < self.num_steps:
            num_steps = min(loader.max_steps, self.num_steps - first)
            raw_batches = self._mesh.put_batches(loader.load(first, num_steps))

            def run(
                begun: float, number: int, raw_batches: Tree = raw_batches, first: int = first
            ) -> Tree:
                numbers = (np.float32(begun), np.int32(first), np.int32(number))
                scalars = self._mesh.put_replicated(numbers)
                return program.call(variables, loader.in_memory, raw_batches, *scalars)

            if momentum is None:
                from_zero = run(0.0, 1)
                largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(from_zero))
                momentum = _momentum(run, from_zero, 2.0**20 * max(1.0, largest))
            jax.block_until_ready(sums)  # of the call before; the next was fed meanwhile
            heartbeat()
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
    mesh: DeviceMesh,
    variables: Tree,
    in_memory: Tree,
    raw_batches: Tree,
) -> Program:
    """Compiles (variables, in_memory, raw_batches, begun, first_step, num_steps) -> sums.

    They are the running statistics that steps from `first_step` on, whose feeds these are, leave
    behind, each begun at `begun`.
    """

    def recalibration(
        variables, in_memory, raw_batches, begun, first_step, num_steps
    ):  # names its compiled program
        collections = variables["collections"]
        start = jax.tree.map(lambda s: jnp.full_like(s, begun), collections[STATISTICS])

        def add(index, sums):
            raw_batch = jax.tree.map(lambda stack: stack[index], raw_batches)
            key = jax.random.fold_in(jax.random.key(0), first_step + index)
            batch = prepare(in_memory, raw_batch, key)
            begun_there = {**collections, STATISTICS: start}
            params, frozen = variables["params"], variables["frozen"]
            _, changed = apply(params, begun_there, frozen, batch["image"], key)
            return jax.tree.map(jnp.add, sums, changed[STATISTICS])

        zeros = jax.tree.map(jnp.zeros_like, start)
        return jax.lax.fori_loop(0, num_steps, add, zeros)

    replicated, lie = mesh.replicated, mesh.shardings(variables)
    jitted = jax.jit(
        recalibration,
        in_shardings=(lie, mesh.shardings_as_placed(in_memory), mesh.batches, *(replicated,) * 3),
        out_shardings=lie["collections"][STATISTICS],
    )
    scalars = (jax.ShapeDtypeStruct((), d) for d in (jnp.float32, jnp.int32, jnp.int32))
    return compile_program(jitted, variables, in_memory, raw_batches, *scalars)
