"""Joining other processes, and hearing at once when one of them is gone.

JAX's runtime notices a process that died only after its heartbeats fail, and then aborts without a
word. So the processes also hold a line to the first one, over which each hears that another is
gone, and why.
"""

import contextlib
import json
import os
import secrets
import selectors
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils

from cnn_lab.core.errors import CnnLabError, ConfigError
from cnn_lab.train.processes import LOST_STATUS, Processes

HEARTBEAT_SECONDS, SHUTDOWN_SECONDS = 45, 60
MOST_BYTES = 4096  # of a message
VERDICT_SECONDS = 3.0
TIDY_SECONDS = 1.5


class JoinedProcesses(Processes):
    """Processes that have joined; a thread listens for the end of the others.

    Args:
        complain: writes a line for the user.
    """

    def __init__(self, complain: Callable[[str], None]):
        self.index, self.count = jax.process_index(), jax.process_count()
        self._complain = complain
        self._ending = threading.Lock()
        self._left = False
        self._links = _linked(self)
        threading.Thread(target=self._listen, daemon=True, name="other processes").start()

    def all(self, value: Any) -> list[Any]:
        """What every process gave, in their order."""
        mine = np.frombuffer(json.dumps(value).encode(), np.uint8)
        sizes = multihost_utils.process_allgather(np.int32(len(mine)))
        rows = multihost_utils.process_allgather(np.pad(mine, (0, sizes.max() - len(mine))))
        parts = zip(np.asarray(rows).reshape(self.count, -1), sizes.tolist(), strict=True)
        return [json.loads(row[:size].tobytes()) for row, size in parts]

    def fail(self, text: str, status: int) -> NoReturn:
        """Ends this process, and with it all others; `claim_end` comes before.

        Args:
            text: why.
            status: of this process.
        """
        self._tell({"index": self.index, "text": text, "status": status})
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
        self.wait()
        self._left = True
        self._tell({"index": self.index, "left": True})

    def _tell(self, message: dict[str, Any]) -> None:
        line = json.dumps({**message, "text": str(message.get("text", ""))[:1000]}) + "\n"
        for link in self._links.values():
            with contextlib.suppress(OSError):
                link.sendall(line.encode())

    def _listen(self) -> None:
        selector = selectors.DefaultSelector()
        for index, link in self._links.items():
            selector.register(link, selectors.EVENT_READ, [index, b""])
        while selector.get_map():
            for key, _ in selector.select():
                index, before = key.data
                with contextlib.suppress(OSError):
                    found = key.fileobj.recv(MOST_BYTES)  # pyright: ignore[reportAttributeAccessIssue]
                    *lines, key.data[1] = (before + found).split(b"\n")
                    for message in map(json.loads, lines):
                        if "left" in message:
                            selector.unregister(key.fileobj)
                            break
                        self._end(message["index"], message["text"], message["status"])
                    if found:
                        continue
                if key.fileobj in selector.get_map():
                    self._end(index, "", LOST_STATUS)

    def _end(self, index: int, text: str, status: int) -> None:
        """Ends this process since another one has ended."""
        if text:  # a mistake that this one may find too, and tidy up after
            time.sleep(TIDY_SECONDS)
        if self._left or not self._ending.acquire(blocking=False):
            return
        if self.leads:
            self._tell({"index": index, "text": text, "status": status})
        who = f"process {index} of {self.count}"
        reason = (
            f"{who} ended: {text}"
            if text
            else (
                f"{who} is gone (killed, or cut off); what was saved before is intact: start all "
                "processes again to go on from there."
            )
        )
        self._complain(f"error: {reason}\n")
        os._exit(status)


def join(
    coordinator: str | None,
    count: int | None,
    index: int | None,
    *,
    wait_seconds: int,
    complain: Callable[[str], None],
) -> JoinedProcesses:
    """Joins the processes of a training; before any device is touched.

    Args:
        coordinator: HOST:PORT at which the first process is reached; None asks the environment of
            the cluster, as the next two.
        count: of processes.
        index: of this one.
        wait_seconds: for the others, at most.
        complain: writes a line for the user.

    Raises:
        ConfigError: the environment names no cluster.
    """
    with _bounded(wait_seconds, _why_not(coordinator, count, index, wait_seconds), complain):
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
                f"process ({error}); give --coordinator, --num_processes and --process_id."
            ) from error
        except RuntimeError as error:
            first_line = str(error).strip().partition("\n")[0]
            raise CnnLabError(f"The processes could not be joined: {first_line}") from error
        return JoinedProcesses(complain)


@contextlib.contextmanager
def _bounded(
    seconds: int, why_not: Callable[[], str], complain: Callable[[str], None]
) -> Iterator[None]:
    """Ends the process with a sentence if what is inside a `with` takes longer."""
    done = threading.Event()

    def watch() -> None:
        if not done.wait(seconds):
            complain(f"error: {why_not()}\n")
            os._exit(LOST_STATUS)

    threading.Thread(target=watch, daemon=True, name="joining").start()
    try:
        yield
    finally:
        done.set()


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
        except OSError as error:
            return (
                f"Process {index} of {count} found nobody at --coordinator={coordinator} within "
                f"{seconds} s ({error.strerror or error}); start process 0 there, and let its "
                "port through."
            )
        return (
            f"Process {index} of {count} waited {seconds} s at --coordinator={coordinator}, but "
            f"not all {count} processes came; start the others, or raise --join_seconds."
        )

    return why_not


def _linked(processes: Processes) -> dict[int, socket.socket]:
    """A line from every process to the first one, by the index of who is at its other end."""
    token, place = secrets.token_hex(16), None
    with contextlib.ExitStack() as stack:
        server = None
        if processes.leads:
            server = stack.enter_context(socket.create_server(("", 0), backlog=processes.count))
            place = [_own_address(), server.getsockname()[1]]
        told = json.dumps([token, place]).ljust(512).encode()
        with _stdout_dropped():  # where Gloo, by which CPUs talk, greets
            told = multihost_utils.broadcast_one_to_all(np.frombuffer(told, np.uint8))
        token, place = json.loads(np.asarray(told, np.uint8).tobytes())
        if server is None:
            link = socket.create_connection(tuple(place), timeout=30)
            link.sendall(f"{token} {processes.index}\n".encode())
            link.settimeout(None)
            return {0: link}
        links: dict[int, socket.socket] = {}
        server.settimeout(30)
        while len(links) < processes.count - 1:
            link, _ = server.accept()
            link.settimeout(5)
            with contextlib.suppress(OSError, ValueError):
                given, index = link.recv(MOST_BYTES).decode().split()
                if secrets.compare_digest(given, token):  # else a stranger, of no concern
                    link.settimeout(None)
                    links[int(index)] = link
        return links


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


def _own_address() -> str:
    """At which other machines reach this one."""
    with contextlib.suppress(OSError):
        return socket.gethostbyname(socket.gethostname())
    return "127.0.0.1"
