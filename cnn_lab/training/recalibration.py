"""Recalibrates batch normalisation: its statistics, for weights that no training step had.

Running statistics lag behind, and those of averaged weights were never measured at all (Izmailov et
al. 2018, arXiv:1803.05407, section 3.2). Here they become the mean of the statistics of some
training batches, whatever the momentum of the layers.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cnn_lab.core import trees
from cnn_lab.core.arrays import Tree
from cnn_lab.core.errors import ConfigError
from cnn_lab.data.loaders.loader import Loader
from cnn_lab.distributed.mesh import DeviceMesh
from cnn_lab.training.stepper import Program, batch_at, compile_over_batches

STATISTICS = "batch_stats"
MAX_BATCHES = 100


class BatchStatsRecalibration:
    """Statistics of variables over the first `num_steps` training batches; compiles on first use.

    Args:
        apply: (params, collections, frozen, images, key) -> (outputs, collections), as in training.
        loader: training batches, from step 0 on.
        num_steps: batches to measure.
        mesh: devices.
    """

    def __init__(
        self, apply: Callable[..., Any], loader: Loader, *, num_steps: int, mesh: DeviceMesh
    ):
        self._apply, self._loader, self._mesh = apply, loader, mesh
        self.num_steps = num_steps
        self._program: Program | None = None

    def compile(self, variables: Tree) -> Program:
        """Compiles for variables of these shapes, once.

        The program is (variables, device_arrays, raw_batches, first_step, num_steps) -> sums of the
        statistics of the batches of these steps.
        """
        if self._program is not None:
            return self._program
        apply, prepare = self._apply, self._loader.prepare

        def recalibration(variables, device_arrays, raw_batches, first_step, num_steps):
            def add(index, sums):
                key = jax.random.fold_in(jax.random.key(0), first_step + index)
                batch = prepare(device_arrays, batch_at(raw_batches, index), key)
                found = _batch_statistics(apply, variables, batch["image"], key)
                return jax.tree.map(jnp.add, sums, found)

            zeros = jax.tree.map(jnp.zeros_like, variables["collections"][STATISTICS])
            return jax.lax.fori_loop(0, num_steps, add, zeros)

        self._program = compile_over_batches(
            recalibration,
            self._mesh,
            variables,
            self._loader.device_arrays,
            self._loader.raw_shapes(),
            num_indices=2,
            out_shardings=self._mesh.shardings(variables)["collections"][STATISTICS],
        ).result()
        return self._program

    def __call__(self, variables: Tree, heartbeat: Callable[[], None] = lambda: None) -> Tree:
        """Returns new statistics of batch normalisation.

        Args:
            variables: `params`, `collections` and `frozen` of a state.
            heartbeat: called whenever a call has ended.
        """
        program, loader = self.compile(variables), self._loader
        sums = None
        for first in range(0, self.num_steps, loader.max_steps):
            num_steps = min(loader.max_steps, self.num_steps - first)
            raw_batches = self._mesh.put(loader.load(first, num_steps), self._mesh.batches)
            jax.block_until_ready(sums)  # of the call before, while which the next was loaded
            heartbeat()
            numbers = self._mesh.put((np.int32(first), np.int32(num_steps)))
            part = program.call(variables, loader.device_arrays, raw_batches, *numbers)
            sums = part if sums is None else jax.tree.map(jnp.add, sums, part)
        return jax.tree.map(lambda total: total / self.num_steps, sums)


def _batch_statistics(
    apply: Callable[..., Any], variables: Tree, images: jax.Array, key: jax.Array
) -> Tree:
    """Statistics of one batch: running ones that start at zero, divided by what they take of it.

    A layer's new running value is momentum * old + (1 - momentum) * that of the batch.
    """
    collections = variables["collections"]
    zeros = jax.tree.map(jnp.zeros_like, collections[STATISTICS])
    momenta: dict[str, float] = {}

    def note(call: Any, arguments: Any, options: Any, context: nn.module.InterceptorContext) -> Any:
        module = context.module
        if isinstance(module, nn.BatchNorm) and context.method_name == "__call__":
            default = arguments[1] if len(arguments) > 1 else module.use_running_average
            # Our `BatchNorm` calls Linen's: the inner call has the option, the outer one has not.
            running = options.get("use_running_average", default)
            if running is not None and not running:
                path = "/".join(module.path)  # twice there where a layer is applied twice
                momenta[path] = momenta.get(path, 1.0) * module.momentum
        return call(*arguments, **options)

    with nn.intercept_methods(note):
        _, changed = apply(
            variables["params"],
            {**collections, STATISTICS: zeros},
            variables["frozen"],
            images,
            key,
        )
    running = trees.flatten(changed[STATISTICS])
    for path in running:
        layer = path.rpartition("/")[0]
        if not momenta.get(layer, 1.0) < 1:
            problem = (
                f"The statistics of {layer} cannot be measured anew: it is no batch normalisation "
                "that follows its batches; average weights by ema instead of swa."
            )
            raise ConfigError(problem, where=layer)
    return trees.unflatten(
        {path: x / (1 - momenta[path.rpartition("/")[0]]) for path, x in running.items()}
    )
