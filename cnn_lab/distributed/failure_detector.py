"""A line from every process to the first one, over which each hears how the others end.

Messages are JSON, one on a line of text. A process that dies closes its line; one that is stopped,
or whose machine is gone, is noticed by its silence.
"""

import contextlib
import json
import secrets
import selectors
import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jax.experimental import multihost_utils

from cnn_lab.core.errors import LostError
from cnn_lab.distributed.processes import Processes

ALIVE_SECONDS = 5.0  # from one sign of life to the next
SILENT_SECONDS = 45.0  # after which a process counts as gone
MOST_BYTES = 4096  # of a message
PLACE_BYTES = 2048  # of where the first process is to be reached
HELLO_SECONDS, MEET_SECONDS = 5.0, 60.0
WELCOME, HERE = b"welcome\n", b"here\n"


class Lines:
    """The lines of this process, and a thread that listens at them.

    Attributes:
        links: index of the process at the other end -> line.

    Args:
        links: as the attribute.
        ends: told on the thread what a process said of its end ({"index", "text", "status"}), or,
            without a text, that it is gone.
    """

    def __init__(
        self, links: dict[int, socket.socket], ends: Callable[[int, Mapping[str, Any]], None]
    ):
        self.links, self._ends = links, ends
        self._selector = selectors.DefaultSelector()
        self._pending = dict.fromkeys(links, b"")
        self._heard = dict.fromkeys(links, time.monotonic())
        self._next_sign = 0.0
        self._sending, self._closed = threading.Lock(), threading.Event()
        for index, link in links.items():
            self._selector.register(link, selectors.EVENT_READ, index)
        self._thread = threading.Thread(target=self._listen, daemon=True, name="other processes")

    def listen(self) -> None:
        """Begins to."""
        self._thread.start()

    def tell(self, message: Mapping[str, Any]) -> None:
        """Sends to every process at the other end of a line."""
        text = json.dumps({**message, "text": str(message.get("text", ""))[:1000]}) + "\n"
        with self._sending:
            for link in self.links.values():
                with contextlib.suppress(OSError):
                    link.sendall(text.encode())

    def linger(self, seconds: float) -> None:
        """Waits until the others have closed their lines, at most so long."""
        if threading.current_thread() is not self._thread:
            self._closed.wait(seconds)
            return
        until = time.monotonic() + seconds
        while self._selector.get_map() and (left := until - time.monotonic()) > 0:
            self._pump(left)

    def _listen(self) -> None:
        while self._selector.get_map():
            self._pump(ALIVE_SECONDS)
        self._closed.set()

    def _pump(self, seconds: float) -> None:
        """Waits for messages, at most so long, and takes them."""
        now = time.monotonic()
        if now >= self._next_sign:
            self._next_sign = now + ALIVE_SECONDS
            self.tell({"alive": True})
        for key, _ in self._selector.select(min(seconds, self._next_sign - now)):
            self._take(key.data)
        for index in [key.data for key in self._selector.get_map().values()]:
            if time.monotonic() - self._heard[index] > SILENT_SECONDS:
                self._drop(index)
                self._ends(index, {})

    def _take(self, index: int) -> None:
        found = b""
        with contextlib.suppress(OSError):
            found = self.links[index].recv(MOST_BYTES)
        self._heard[index] = time.monotonic()
        *lines, self._pending[index] = (self._pending[index] + found).split(b"\n")
        for message in map(_parsed, lines):
            if "left" in message:
                self._drop(index)
                return
            if "status" in message:
                self._ends(index, message)
        if not found:
            self._drop(index)
            self._ends(index, {})

    def _drop(self, index: int) -> None:
        self._selector.unregister(self.links[index])


def _parsed(line: bytes) -> Mapping[str, Any]:
    """A message; nothing where it is none."""
    with contextlib.suppress(ValueError):
        if isinstance(found := json.loads(line), dict):
            return found
    return {}


def linked(processes: Processes, coordinator: str | None) -> dict[int, socket.socket]:
    """Joins every process with the first one, by the index of who is at the other end.

    Strangers are turned away: they do not know a random word that comes through JAX's own runtime.

    Args:
        processes: all of them call this.
        coordinator: HOST:PORT of JAX's runtime, if known; the first process is near.

    Raises:
        LostError: the first process cannot be reached by all.
    """
    with contextlib.ExitStack() as stack:
        word, place, server = secrets.token_hex(16), None, None
        if processes.is_primary:
            server = stack.enter_context(_server(processes.count))
            place = [_own_hosts(coordinator), server.getsockname()[1]]
        told = json.dumps([word, place]).encode()[:PLACE_BYTES].ljust(PLACE_BYTES)
        told = multihost_utils.broadcast_one_to_all(np.frombuffer(told, np.uint8))
        word, place = json.loads(np.asarray(told, np.uint8).tobytes())
        if server is None:
            hello = f"{word} {processes.index}\n".encode()
            hosts = list(dict.fromkeys([*_host_of(coordinator), *place[0]]))
            return {0: _reached(hosts, place[1], hello, processes)}
        return _welcomed(server, word.encode(), processes)


def _server(count: int) -> socket.socket:
    if socket.has_dualstack_ipv6():
        return socket.create_server(
            ("", 0), family=socket.AF_INET6, backlog=4 * count, dualstack_ipv6=True
        )
    return socket.create_server(("", 0), backlog=4 * count)


def _own_hosts(coordinator: str | None) -> list[str]:
    """Under what this machine may be known to the others, the likeliest first."""
    found = [*_host_of(coordinator), socket.gethostname(), socket.getfqdn()]
    for family, somewhere in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as outward:
            outward.connect((somewhere, 9))  # sends nothing: tells by which address it would
            found.append(outward.getsockname()[0])
    return list(dict.fromkeys(found))


def _host_of(coordinator: str | None) -> list[str]:
    """The first process's machine as this process was told it, by which it has reached it."""
    return [] if coordinator is None else [coordinator.rpartition(":")[0].strip("[]")]


def _welcomed(server: socket.socket, word: bytes, processes: Processes) -> dict[int, socket.socket]:
    """Lets in all others."""
    links: dict[int, socket.socket] = {}
    until = time.monotonic() + MEET_SECONDS
    while len(links) < processes.count - 1:
        server.settimeout(max(until - time.monotonic(), 0.01))
        try:
            link, _ = server.accept()
        except TimeoutError as error:
            raise LostError(
                f"Only {len(links) + 1} of {processes.count} processes reached process 0 at port "
                f"{server.getsockname()[1]} of {socket.gethostname()} within {MEET_SECONDS:.0f} s; "
                "let the machines connect to each other at any port."
            ) from error
        with contextlib.suppress(OSError, ValueError):
            link.settimeout(HELLO_SECONDS)
            given, index = _line(link).split()
            if secrets.compare_digest(given, word) and 0 < int(index) < processes.count:
                link.sendall(WELCOME)
                if _line(link) == HERE.strip():  # else it has given up, and tries again
                    links[int(index)] = _kept(link)
                    continue
        link.close()
    return links


def _reached(hosts: list[str], port: int, hello: bytes, processes: Processes) -> socket.socket:
    """A line to the first process."""
    until, reason = time.monotonic() + MEET_SECONDS, "no answer"
    while time.monotonic() < until:
        for host in hosts:
            link = None
            try:
                link = socket.create_connection((host, port), timeout=HELLO_SECONDS)
                link.sendall(hello)
                if _line(link) == WELCOME.strip():
                    link.sendall(HERE)
                    return _kept(link)
            except OSError as error:
                reason = error.strerror or str(error)
            if link is not None:
                link.close()
        time.sleep(0.5)
    raise LostError(
        f"Process {processes.index} of {processes.count} could not reach process 0 at port {port} "
        f"of {', '.join(hosts)} ({reason}); let the machines connect to each other at any port."
    )


def _line(link: socket.socket) -> bytes:
    """The first line that comes, of few bytes, and nothing of what is behind it."""
    found = b""
    while not found.endswith(b"\n") and len(found) < 128 and (more := link.recv(1)):
        found += more
    return found.strip()


def _kept(link: socket.socket) -> socket.socket:
    """A line that is to last."""
    link.settimeout(None)
    link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return link
