"""Devices as a mesh, and where arrays lie on it."""

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from cnn_lab.core.errors import ConfigError

DATA_AXIS = "data"
EXAMPLES_PER_CPU_DEVICE = 16  # fewer make a virtual CPU device cost more than it gives


def choose_num_devices(batch_size: int, requested: int | None, num_parts: int = 1) -> int:
    """Number of devices that share a batch.

    Args:
        batch_size: examples per step.
        num_parts: micro-batches that it is taken in, each shared by all devices; divides it.
        requested: from the config; None takes the most devices that divide the batch (on CPU: with
            at least 16 examples each).

    Raises:
        ConfigError: more devices requested than there are, or a batch that they do not divide.
    """
    available = jax.device_count()
    if requested is None:
        size = batch_size // num_parts
        most = min(available, size)
        if jax.default_backend() == "cpu":
            most = min(most, max(1, size // EXAMPLES_PER_CPU_DEVICE))
        return max(n for n in range(1, most + 1) if size % n == 0)
    if requested > available:
        raise ConfigError(
            f"config.mesh.num_devices is {requested}, but there are {available} "
            f"{jax.default_backend()} devices here; lower it or leave it out."
        )
    shares = requested * num_parts
    if batch_size % shares:
        near = (batch_size // shares * shares, -(-batch_size // shares) * shares)
        sizes = " or ".join(str(size) for size in near if size)
        parts = f" in {num_parts} micro-batches" if num_parts > 1 else ""
        raise ConfigError(
            f"config.train.batch_size is {batch_size}, which {requested} devices cannot share "
            f"evenly{parts}; use {sizes}, or another config.mesh.num_devices."
        )
    return requested


def make_mesh(num_devices: int) -> Mesh:
    """A one-axis mesh, `data`, over the first `num_devices` devices."""
    devices = jax.devices()[:num_devices]
    return jax.make_mesh((num_devices,), (DATA_AXIS,), axis_types=(AxisType.Auto,), devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def stacked_batches(mesh: Mesh) -> NamedSharding:
    """Arrays [step, n, ...]: every device holds its share of each step's examples."""
    return NamedSharding(mesh, PartitionSpec(None, DATA_AXIS))
