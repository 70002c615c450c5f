"""Joining other processes, and hearing at once when one of them is gone.

JAX's runtime notices a process that died only after its heartbeats fail, and then aborts without a
word. So the processes also hold lines to the first one, over which each hears that another is gone,
and why (`lines`).
"""

import contextlib
import os
import select
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

import jax

from cnn_lab.core.errors import INTERRUPTED_STATUS, LOST_STATUS, ConfigError, LostError
from cnn_lab.distributed.failure_detector import SILENT_SECONDS, Lines, linked
from cnn_lab.distributed.processes import JaxProcesses

# JAX's own bounds: beyond those of the lines, which have a sentence for it.
HEARTBEAT_SECONDS, SHUTDOWN_SECONDS = 120, 60
VERDICT_SECONDS = 3.0
TIDY_SECONDS = 1.5
LINGER_SECONDS = TIDY_SECONDS + 3
STOPS = (signal.SIGTERM, signal.SIGINT)


class JoinedProcesses(JaxProcesses):
    """Processes that have joined; a thread listens for the end of the others.

    Args:
        complain: writes a line for the user.
        coordinator: HOST:PORT of JAX's runtime, if known.
    """

    def __init__(self, complain: Callable[[str], None], coordinator: str | None = None):
        super().__init__()
        self._complain = complain
        self._ending = threading.Lock()
        self._left = False
        with _stdout_dropped():  # where Gloo, by which CPUs talk, greets
            links = linked(self, coordinator)
        self._lines = Lines(links, self._end)
        self._lines.listen()

    def fail(self, text: str, status: int) -> NoReturn:
        """Ends this process, and with it all others; `claim_end` comes before.

        Args:
            text: why.
            status: of this process.
        """
        self._lines.tell({"index": self.index, "text": text, "status": status})
        self._go(status)

    def _go(self, status: int) -> NoReturn:
        """Ends this process: JAX's runtime lives in the first one, and aborts those it leaves."""
        if self.is_primary:
            self._lines.linger(LINGER_SECONDS)
        os._exit(status)

    def claim_end(self) -> None:
        """Lets this thread alone say how the process ends; where another does, it ends here."""
        if not self._ending.acquire(blocking=False):
            time.sleep(VERDICT_SECONDS)  # the other thread is about to end the process

    def await_verdict(self) -> None:
        """Gives the lines time to tell that it was another process which failed first."""
        time.sleep(VERDICT_SECONDS)

    def hangs(self, text: str) -> None:
        """Ends this process, and with it all others, because nothing goes on."""
        self.claim_end()
        self._complain(f"error: {text}\n")
        self.fail(text, LOST_STATUS)

    def leave(self) -> None:
        """Ends well, together with the others: none is to mind that another one is gone."""
        self.barrier()
        self._left = True
        self._lines.tell({"index": self.index, "left": True})

    def _end(self, index: int, message: Mapping[str, Any]) -> None:
        """Ends this process since another one has ended, or is about to."""
        text, status = str(message.get("text", "")), int(message.get("status", LOST_STATUS))
        if text:  # a mistake that this one may find too, and tidy up after
            time.sleep(TIDY_SECONDS)
        if self._left or not self._ending.acquire(blocking=False):
            return
        index = int(message.get("index", index))
        who = f"process {index} of {self.count}"
        reason = (
            f"{who} ended: {text}"
            if text
            else (
                f"{who} is gone (killed, cut off, or silent for {SILENT_SECONDS:.0f} s); what was "
                "saved before is intact: start all processes again to go on from there."
            )
        )
        self._complain(f"error: {reason}\n")
        if self.is_primary:
            self._lines.tell({"index": index, "text": text, "status": status})
        self._go(status)


def join(
    coordinator: str | None,
    count: int | None,
    index: int | None,
    *,
    wait_seconds: int,
    complain: Callable[[str], None],
    interrupted_status: int = INTERRUPTED_STATUS,
) -> JoinedProcesses:
    """Joins the processes of a training; before any device is touched.

    Args:
        coordinator: HOST:PORT at which the first process is reached; None asks the environment of
            the cluster, as the next two.
        count: of processes.
        index: of this one.
        wait_seconds: for the others, at most.
        complain: writes a line for the user.
        interrupted_status: exit status of this process where a signal ends the wait.

    Raises:
        ConfigError: the environment names no cluster, or the processes have other numbers of
            devices.
        LostError: others cannot be reached.
    """
    why_not = _why_not(coordinator, count, index, wait_seconds)
    with _bounded(wait_seconds, why_not, interrupted_status, complain):
        jax.config.update("jax_enable_preemption_service", False)  # it swallows SIGTERM
        try:
            jax.distributed.initialize(
                coordinator,
                count,
                index,
                cluster_detection_method="deactivate" if coordinator else None,
                initialization_timeout=wait_seconds + 60,
                heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
                shutdown_timeout_seconds=SHUTDOWN_SECONDS,
            )
        except ValueError as error:
            raise ConfigError(
                "--cluster found no SLURM step, Cloud TPU, Kubernetes or Open MPI job around this "
                "process; give --coordinator, --num_processes and --process_id."
            ) from error
        except RuntimeError as error:
            first_line = str(error).strip().partition("\n")[0]
            raise LostError(f"The processes could not be joined: {first_line}") from error
        _check_devices()
        return JoinedProcesses(complain, coordinator)


@contextlib.contextmanager
def _bounded(
    seconds: int,
    why_not: Callable[[], str],
    interrupted_status: int,
    complain: Callable[[str], None],
) -> Iterator[None]:
    """Ends the process with a sentence if what is inside a `with` takes longer."""
    done, (told, signalled) = threading.Event(), socket.socketpair()
    signalled.setblocking(False)
    until = time.monotonic() + seconds

    def watch() -> None:
        while not done.is_set():
            if select.select([told], [], [], 0.2)[0] and {*told.recv(64)} & {*STOPS}:
                complain("\ninterrupted; what was saved before is intact.\n")
                os._exit(interrupted_status)
            if time.monotonic() > until and not done.is_set():
                complain(f"error: {why_not()}\n")
                os._exit(LOST_STATUS)

    # Python's handlers would wait until JAX's runtime, which is not Python, has come back.
    before = signal.set_wakeup_fd(signalled.fileno(), warn_on_full_buffer=False)
    thread = threading.Thread(target=watch, daemon=True, name="joining")
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        signal.set_wakeup_fd(before)
        told.close()
        signalled.close()


def _check_devices() -> None:
    """Refuses processes with different numbers of devices; each of them finds the same.

    Raises:
        ConfigError: they have.
    """
    numbers = Counter(device.process_index for device in jax.devices())
    if len({*numbers.values()}) > 1:
        listed = ", ".join(f"{numbers[index]} in process {index}" for index in sorted(numbers))
        raise ConfigError(
            f"All processes must have equally many devices; found {listed}. Look for a device that "
            "is missing, or give each of them the same ones."
        )


def _why_not(
    coordinator: str | None, count: int | None, index: int | None, seconds: int
) -> Callable[[], str]:
    """Says which side is missing, once the wait is over."""

    def why_not() -> str:
        if coordinator is None:
            return (
                f"Not all processes of this job joined within {seconds} s; look at the others' "
                "logs, or raise --join_seconds."
            )
        host, _, port = coordinator.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
        except socket.gaierror:
            return (
                f"Process {index} of {count} knows no machine named {host}; give as --coordinator "
                "a name or an address by which it reaches the one of process 0."
            )
        except OSError as error:
            return (
                f"Process {index} of {count} found nobody at --coordinator={coordinator} within "
                f"{seconds} s ({error.strerror or error}); start process 0 there, and let its "
                "port through."
            )
        return (
            f"Process {index} of {count} waited {seconds} s at --coordinator={coordinator}, but "
            f"not all {count} processes came; start the others, each with a --process_id of its "
            "own, or raise --join_seconds."
        )

    return why_not


@contextlib.contextmanager
def _stdout_dropped() -> Iterator[None]:
    """Nothing reaches standard output inside a `with`, from other languages' code either."""
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)
