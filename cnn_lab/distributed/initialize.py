"""Joining the processes of a training by JAX's distributed runtime."""

import contextlib
import os
import socket
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future

import jax
from jax.experimental import multihost_utils

from cnn_lab.core.errors import ConfigError, LostError
from cnn_lab.distributed.processes import JaxProcesses

# A process that sends no heartbeat for so long is lost, and JAX's runtime ends all others.
HEARTBEAT_SECONDS = 30
SHUTDOWN_SECONDS = 30


def join(
    coordinator: str | None, count: int | None, index: int | None, *, wait_seconds: int
) -> JaxProcesses:
    """Joins the processes of a training; before any device is touched.

    The coordinator is HOST:PORT of the first of `count` processes, of which this one is `index`;
    where they are None, the environment of the cluster is asked. No wait for the others is longer
    than `wait_seconds`.

    Raises:
        ConfigError: the environment names no cluster, or the processes have other numbers of
            devices.
        LostError: others cannot be reached.
    """
    joined: Future[JaxProcesses] = Future()

    def work() -> None:
        try:
            joined.set_result(_join(coordinator, count, index, wait_seconds))
        except BaseException as error:
            joined.set_exception(error)

    # On a thread, since JAX's runtime, while it waits, answers neither signals nor its own bound.
    threading.Thread(target=work, daemon=True, name="joining").start()
    try:
        return joined.result(timeout=wait_seconds)
    except TimeoutError:
        problem = _why_not(coordinator, count, index, wait_seconds)
        where = "--coordinator" if coordinator else "--cluster"
        raise LostError(problem, where=where, found=coordinator) from None


def _join(
    coordinator: str | None, count: int | None, index: int | None, wait_seconds: int
) -> JaxProcesses:
    jax.config.update("jax_enable_preemption_service", False)  # it swallows SIGTERM
    try:
        jax.distributed.initialize(
            coordinator,
            count,
            index,
            cluster_detection_method="deactivate" if coordinator else None,
            initialization_timeout=wait_seconds + 60,  # beyond `join`'s, which has a sentence
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=SHUTDOWN_SECONDS,
        )
    except ValueError as error:
        raise ConfigError(
            "--cluster found no SLURM step, Cloud TPU, Kubernetes or Open MPI job around this "
            "process; give --coordinator, --num_processes and --process_id.",
            where="--cluster",
        ) from error
    except RuntimeError as error:
        first_line = str(error).strip().partition("\n")[0]
        raise LostError(f"The processes could not be joined: {first_line}") from error
    numbers = Counter(device.process_index for device in jax.devices())
    if len({*numbers.values()}) > 1:  # as each of them finds
        listed = ", ".join(f"{numbers[index]} in process {index}" for index in sorted(numbers))
        raise ConfigError(
            f"All processes must have equally many devices; found {listed}. Look for a device that "
            "is missing, or give each of them the same ones.",
            found=dict(numbers),
        )
    with _stdout_dropped():  # where Gloo, by which CPUs talk, greets
        multihost_utils.sync_global_devices("joined")
    processes = JaxProcesses()
    threading.Thread(target=processes.watch, daemon=True, name="other processes").start()
    return processes


def _why_not(coordinator: str | None, count: int | None, index: int | None, seconds: int) -> str:
    """A sentence that names the side that is missing, once the wait is over."""
    if coordinator is None:
        return (
            f"Not all processes of this job joined within {seconds} s; look at the others' logs, "
            "or raise --join_seconds."
        )
    host, _, port = coordinator.rpartition(":")
    this = f"Process {index} of {count}"
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except socket.gaierror:
        return (
            f"{this} knows no machine named {host}; give as --coordinator a name or an address by "
            "which it reaches the one of process 0."
        )
    except OSError as error:
        return (
            f"{this} found nobody at --coordinator={coordinator} within {seconds} s "
            f"({error.strerror or error}); start process 0 there, and let its port through."
        )
    return (
        f"{this} waited {seconds} s at --coordinator={coordinator}, but not all {count} processes "
        "came; start the others, each with a --process_id of its own, or raise --join_seconds."
    )


@contextlib.contextmanager
def _stdout_dropped() -> Iterator[None]:
    """Nothing reaches standard output inside a `with`, from other languages' code either."""
    sys.stdout.flush()
    stdout, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)
        os.close(nowhere)
