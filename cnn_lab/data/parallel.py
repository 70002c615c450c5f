"""Long passes over many items: mapped in threads, with a progress line now and then."""

import collections
import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

Log = Callable[[str], None]
"""Receives lines about the progress of something."""

_FIRST_PAUSE_SECONDS = 0.5
_MAX_PAUSE_SECONDS = 10.0


class ThrottledLog:
    """Passes on a line now and then; the pauses grow, so that an hour does not fill the screen.

    Args:
        log: receives the lines; None drops them.
    """

    def __init__(self, log: Log | None):
        self._log = log
        self._pause = _FIRST_PAUSE_SECONDS
        self._last = time.monotonic()

    def __call__(self, line: str) -> None:
        """Passes on the line if it is time for one."""
        if self._log is not None and time.monotonic() - self._last > self._pause:
            self._last = time.monotonic()
            self._pause = min(2 * self._pause, _MAX_PAUSE_SECONDS)
            self._log(line)


def map_in_order(
    function: Callable[[T], R],
    items: Iterable[T],
    *,
    chunk_size: int = 1,
    num_threads: int | None = None,
) -> Iterator[R]:
    """Yields `function(item)` for every item, in order, called in threads a few chunks ahead.

    `ThreadPoolExecutor.map` would make a future of every item before the first result: a gigabyte
    for the files of ImageNet.

    Args:
        function: called in threads.
        items: read as they are needed.
        chunk_size: items that a thread maps in one go; more where the function is quick.
        num_threads: one per core by default.
    """
    if num_threads is None:
        affinity = getattr(os, "sched_getaffinity", None)
        num_threads = len(affinity(0)) if affinity else os.cpu_count() or 1
    rest = iter(items)
    pending: collections.deque[Future[list[R]]] = collections.deque()
    with ThreadPoolExecutor(num_threads) as pool:
        try:
            while True:
                while len(pending) < 2 * num_threads and (
                    chunk := list(itertools.islice(rest, chunk_size))
                ):
                    pending.append(pool.submit(lambda chunk: [*map(function, chunk)], chunk))
                if not pending:
                    return
                yield from pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
