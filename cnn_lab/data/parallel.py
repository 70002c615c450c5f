"""Maps a function over many items in threads, in order, a few steps ahead of whoever listens.

`ThreadPoolExecutor.map` makes a future of every item before the first result: a gigabyte for the
files of ImageNet.
"""

import collections
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def num_cores() -> int:
    """Cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def map_in_order(
    function: Callable[[T], R],
    items: Iterable[T],
    *,
    at_once: int = 1,
    num_threads: int | None = None,
) -> Iterator[R]:
    """Yields `function(item)` for every item, in order.

    Args:
        function: called in threads.
        items: taken as they are needed.
        at_once: items a thread takes in one go; more where the function is quick.
        num_threads: one per core by default. Twice as many goes are under way or wait to be
            fetched.
    """
    num_threads = num_threads or num_cores()
    rest = iter(items)
    under_way: collections.deque[Future[list[R]]] = collections.deque()
    with ThreadPoolExecutor(num_threads) as pool:
        try:
            while True:
                while len(under_way) < 2 * num_threads and (
                    chunk := list(itertools.islice(rest, at_once))
                ):
                    under_way.append(pool.submit(_map_chunk, function, chunk))
                if not under_way:
                    return
                yield from under_way.popleft().result()
        finally:
            for future in under_way:
                future.cancel()


def _map_chunk(function: Callable[[T], R], chunk: list[T]) -> list[R]:
    return [function(item) for item in chunk]
