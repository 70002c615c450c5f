"""Devices as a mesh, and how arrays are sharded on it."""

import dataclasses
import math
from collections import Counter
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from cnn_lab.core.arrays import Tree
from cnn_lab.core.errors import ConfigError

SLICE_AXIS, DATA_AXIS = "slice", "data"
BATCH_AXES = (SLICE_AXIS, DATA_AXIS)  # a batch is shared over both
MIN_SHARDED_VALUES = 2**12  # smaller arrays cost more to gather than they take
MIN_EXAMPLES_PER_CPU_DEVICE = 16  # fewer make a virtual CPU device cost more than it gives
Shapes = TypeVar("Shapes")


@dataclasses.dataclass(frozen=True)
class Shard:
    """One of `count` equal parts of every batch, numbered from 0: that of one of the processes."""

    index: int = 0
    count: int = 1

    def of(self, size: int) -> slice:
        """This part of `size` rows; `count` divides them."""
        part = size // self.count
        return slice(self.index * part, (self.index + 1) * part)


WHOLE = Shard()


class DeviceMesh:
    """The devices of a training, and the shardings of its arrays.

    Every batch is shared by all devices. The state of a training (parameters, statistics, the
    optimizer's state, averages) is replicated or, with `shards_state`, sharded: each device keeps a
    part of every large array, and gathers the others just when they are needed (ZeRO, Rajbhandari
    et al. 2020, arXiv:1910.02054, stage 3; "fully sharded data parallel").

    Attributes:
        device_grid: axes `slice` and `data`; the devices of a slice are closely linked, and
            a state is sharded within a slice only.
        shards_state: whether large arrays of a state are sharded.
        num_devices: that share a batch.
        num_processes: that the devices belong to.
        shard: the part of every batch that the devices of this process hold.
        replicated: sharding by which every device holds the whole array.
        batches: sharding of arrays [step, n, ...]: every device holds a part of each step's
            examples.
        sharded: sharding of arrays [device, ...]: every device holds one row.
    """

    def __init__(self, device_grid: Mesh, shards_state: bool = False):
        self.device_grid, self.shards_state = device_grid, shards_state
        self.num_devices = device_grid.devices.size
        processes = list(dict.fromkeys(d.process_index for d in device_grid.devices.flat))
        self.num_processes = len(processes)
        self.shard = Shard(processes.index(jax.process_index()), len(processes))
        self.replicated = NamedSharding(device_grid, PartitionSpec())
        self.batches = NamedSharding(device_grid, PartitionSpec(None, BATCH_AXES))
        self.sharded = NamedSharding(device_grid, PartitionSpec(BATCH_AXES))

    def of(self, shape: tuple[int, ...]) -> NamedSharding:
        """The sharding of a state's array: along its longest axis that divides, if it is large."""
        num_parts = self.device_grid.shape[DATA_AXIS]
        if self.shards_state and math.prod(shape) >= MIN_SHARDED_VALUES:
            for axis in sorted(range(len(shape)), key=lambda axis: (-shape[axis], axis)):
                if shape[axis] % num_parts == 0:
                    return NamedSharding(self.device_grid, PartitionSpec(*[None] * axis, DATA_AXIS))
        return self.replicated

    def shardings(self, shapes: Tree) -> Tree:
        """The sharding of every leaf of a state, or of a part of one."""
        return jax.tree.map(lambda leaf: self.of(leaf.shape), shapes)

    def with_shardings(self, shapes: Shapes) -> Shapes:
        """Shapes (`jax.eval_shape`) with every leaf's sharding, to compile and restore into."""
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=self.of(leaf.shape)),
            shapes,
        )

    def shardings_as_placed(self, device_arrays: Tree) -> Tree:
        """The sharding that every array, or shape, has; replicated where it has none."""
        return jax.tree.map(
            lambda leaf: getattr(leaf, "sharding", None) or self.replicated, device_arrays
        )

    def bytes_of(self, shapes: Tree) -> int:
        """Bytes that a state, or a part of one, takes on each device."""
        return sum(
            math.prod(self.of(leaf.shape).shard_shape(leaf.shape)) * leaf.dtype.itemsize
            for leaf in jax.tree.leaves(shapes)
        )

    def put(self, tree: Tree, sharding: NamedSharding | None = None) -> Tree:
        """Puts host arrays on the devices, whole on each by default.

        With `batches` or `sharded` they are this process's part; else the same in all processes.
        """
        sharding = sharding or self.replicated
        if self.num_processes == 1:
            return jax.device_put(tree, sharding)
        with jax.transfer_guard("allow"):  # this transfer is explicit
            return jax.tree.map(
                lambda array: jax.make_array_from_process_local_data(sharding, np.asarray(array)),
                tree,
            )

    def put_state(self, state: Shapes) -> Shapes:
        """Puts a state on the devices, each array by its sharding; the same in all processes.

        Its arrays are on the host, or on any device of this process. A CPU device may share their
        memory, which no step overwrites: XLA gives away none but its own.
        """

        def put(array: Any) -> jax.Array:
            if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
                data = put(np.asarray(jax.random.key_data(array)))
                return jax.random.wrap_key_data(data, impl=jax.random.key_impl(array))
            array, sharding = np.asarray(array), self.of(array.shape)
            if self.num_processes == 1:
                return jax.device_put(array, sharding)
            return jax.make_array_from_callback(array.shape, sharding, array.__getitem__)

        with jax.transfer_guard("allow"):  # this transfer is explicit
            return jax.tree.map(put, state)

    def take(self, array: jax.Array, positions: jax.Array) -> jax.Array:
        """Rows of a sharded array [rows ...] at positions [n] that are sharded like it.

        Each row comes to the device that asks for it: the positions of all devices are gathered,
        and every device sends the rows that it holds. Asked for at random, they mostly come in one
        round, of a few times the rows of a device's own part while that is at least the number of
        devices. Where many lie on one device, as in an evaluation in order, they come in as many
        rounds as it takes.
        """
        rows, number = PartitionSpec(BATCH_AXES), self.num_devices
        shard = len(positions) // number
        mean = shard / number  # of the rows that one device asks another one for
        # The largest of number^2 draws of a Poisson distribution, about.
        likely_max = mean + math.sqrt(4 * mean * math.log(number)) + 1
        at_once = max(1, min(shard, math.ceil(likely_max)))

        def from_part(part: jax.Array, mine: jax.Array) -> jax.Array:
            asked = jax.lax.all_gather(mine, BATCH_AXES)  # [device, row of its part]
            here = jax.lax.axis_index(BATCH_AXES)
            held = asked // len(part) == here
            turn = jnp.cumsum(held, axis=1) - 1  # of a row among those for the same device
            of_owner = jax.nn.one_hot(mine // len(part), number, dtype=jnp.int32)
            own_turn = (of_owner * (jnp.cumsum(of_owner, axis=0) - 1)).sum(axis=1)
            max_held = jax.lax.pmax(held.sum(axis=1).max(), BATCH_AXES)

            def exchange(index: jax.Array, found: jax.Array) -> jax.Array:
                now = held & (turn // at_once == index)
                slot = jnp.where(now, turn % at_once, at_once)  # beyond the last: dropped
                sent = jnp.zeros((number, at_once), jnp.int32)
                sent = sent.at[jnp.arange(number)[:, None], slot].set(
                    asked - here * len(part), mode="drop"
                )
                received = jax.lax.all_to_all(part[sent], BATCH_AXES, 0, 0)
                arrived = own_turn // at_once == index
                arrived = arrived.reshape(-1, *[1] * (part.ndim - 1))
                return jnp.where(arrived, received[mine // len(part), own_turn % at_once], found)

            found = jnp.zeros((len(mine), *part.shape[1:]), part.dtype)
            return jax.lax.fori_loop(0, -(-max_held // at_once), exchange, found)

        return jax.shard_map(
            from_part, mesh=self.device_grid, in_specs=(rows, rows), out_specs=rows, check_vma=False
        )(array, positions)


def make_mesh(num_devices: int, *, num_slices: int = 1, shards_state: bool = False) -> DeviceMesh:
    """A mesh of devices, equally many of every process, in `num_slices` closely linked groups."""
    chosen = _chosen_devices(num_devices)
    assert len(chosen) == num_devices, f"{len(chosen)} devices of {num_devices}"
    devices = np.asarray(chosen).reshape(num_slices, -1)
    return DeviceMesh(Mesh(devices, BATCH_AXES, axis_types=(AxisType.Auto,) * 2), shards_state)


def _chosen_devices(num_devices: int) -> list[Any]:
    """Devices, equally many of each process; those of a slice or of a process adjoin."""
    by_process: dict[int, list[Any]] = {}
    for device in jax.devices():
        by_process.setdefault(device.process_index, []).append(device)
    of_each = num_devices // len(by_process)
    chosen = [device for devices in by_process.values() for device in devices[:of_each]]
    return sorted(chosen, key=lambda d: (getattr(d, "slice_index", 0), d.process_index, d.id))


def choose_num_devices(batch_size: int, requested: int | None, num_parts: int = 1) -> int:
    """Number of devices that share a batch, and each of the `num_parts` micro-batches that it is.

    That requested by the config; None takes as many devices as divide the batch (on CPU: with at
    least 16 examples each).

    Raises:
        ConfigError: more devices requested than there are, or a batch that they do not divide.
    """
    available, processes = jax.device_count(), jax.process_count()
    if requested is None:
        size = batch_size // num_parts
        max_devices = min(available, size)
        if jax.default_backend() == "cpu":
            max_devices = min(max_devices, max(processes, size // MIN_EXAMPLES_PER_CPU_DEVICE))
        fitting = [n for n in range(processes, max_devices + 1, processes) if size % n == 0]
        if not fitting:
            raise _uneven(batch_size, processes, num_parts, "processes")
        return fitting[-1]
    where, problem = "config.mesh.num_devices", None
    if requested % processes:
        problem = (
            f"{where} is {requested}, which {processes} processes cannot give evenly; use a "
            f"multiple of {processes}, or leave it out."
        )
    elif requested > available:
        problem = (
            f"{where} is {requested}, but there are {available} {jax.default_backend()} devices "
            "here; lower it or leave it out."
        )
    if problem is not None:
        raise ConfigError(problem, where=where, found=requested)
    if batch_size % (requested * num_parts):
        raise _uneven(batch_size, requested, num_parts, "devices")
    return requested


def _uneven(batch_size: int, number: int, num_parts: int, who: str) -> ConfigError:
    """The error for a batch that devices, or processes, cannot share evenly."""
    shares, where = number * num_parts, "config.train.batch_size"
    near = (batch_size // shares * shares, -(-batch_size // shares) * shares)
    sizes = " or ".join(str(size) for size in near if size)
    parts = f" in {num_parts} micro-batches" if num_parts > 1 else ""
    others = "config.mesh.num_devices" if who == "devices" else "number of them"
    problem = (
        f"{where} is {batch_size}, which {number} {who} cannot share evenly{parts}; use {sizes}, "
        f"or another {others}."
    )
    return ConfigError(problem, where=where, found=batch_size, allowed=sizes)


def choose_num_slices(num_devices: int, requested: int | None) -> int:
    """Number of slices that the first `num_devices` devices make up; None asks the devices.

    Raises:
        ConfigError: slices of different sizes, or parts of several that would make up one.
    """
    found = Counter(getattr(device, "slice_index", 0) for device in _chosen_devices(num_devices))
    where, problem = "config.mesh.num_slices", None
    if requested is None:
        if len({*found.values()}) > 1:
            raise ConfigError(
                f"{num_devices} devices lie in {len(found)} slices, not the same number in each; "
                "set config.mesh.num_devices to a number that whole slices make up.",
                where="config.mesh.num_devices",
                found=num_devices,
            )
        return len(found)
    if num_devices % requested:
        problem = (
            f"{where} is {requested}, but {num_devices} devices share the batch; give a number "
            "that divides theirs, or another config.mesh.num_devices."
        )
    elif requested > 1 and any(n % (num_devices // requested) for n in found.values()):
        problem = (
            f"{where} is {requested}, but the {num_devices} devices lie in {len(found)} slices, "
            "and parts of several would make up one; leave it out."
        )
    if problem is not None:
        raise ConfigError(problem, where=where, found=requested)
    return requested
