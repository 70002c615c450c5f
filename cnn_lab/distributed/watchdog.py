"""Ends a training that hangs: a device or a network that never answers raises no error."""

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable

HANG_SECONDS = 600.0  # where several processes train and nothing else is asked for
SPARE_SECONDS = 10.0  # for the sentence, before the stacks are dumped without it


class Watchdog:
    """Watches inside a `with` that `heartbeat` is called again and again.

    Args:
        seconds: longest time between two heartbeats; None watches nothing.
        end: called on a thread, with a sentence for the user; ends the process.
    """

    def __init__(self, seconds: float | None, end: Callable[[str], None]):
        self._seconds, self._end = seconds, end
        self._last = time.monotonic()
        self._over = threading.Event()

    def __enter__(self) -> "Watchdog":
        self.heartbeat()
        if self._seconds is not None:
            threading.Thread(target=self._watch, daemon=True, name="watchdog").start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        faulthandler.cancel_dump_traceback_later()

    def heartbeat(self) -> None:
        """Puts the end off: the training goes on."""
        self._last = time.monotonic()
        if self._seconds is not None:  # in case that nothing lets go of the interpreter
            after = self._seconds + SPARE_SECONDS
            faulthandler.dump_traceback_later(after, exit=True, file=sys.__stderr__ or 2)

    def _watch(self) -> None:
        assert self._seconds is not None
        while not self._over.wait(min(1.0, self._seconds / 4)):
            silent = time.monotonic() - self._last
            if silent > self._seconds:
                faulthandler.dump_traceback(file=sys.__stderr__ or 2, all_threads=True)
                self._end(
                    f"nothing has come back from the devices for {silent:.0f} s (the stacks above "
                    "say where it waits); start it again to go on from the last checkpoint, or "
                    "raise config.mesh.hang_seconds."
                )
                os._exit(1)
