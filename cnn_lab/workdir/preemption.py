"""Ctrl-C (SIGINT) and SIGTERM: they end a run that is starting, and stop one that trains."""

import os
import signal
import threading
from contextlib import suppress
from typing import Any

NUMBERS = (signal.SIGTERM, signal.SIGINT)
NOTHING_BEGUN = "nothing had begun"
STOPPING = "Stopping after the steps under way; press Ctrl-C again to stop at once."


class StopSignals:
    """Answers both signals inside a `with`; the second one always acts as it would outside.

    Until `begin` there is nothing to save, and the first one raises `KeyboardInterrupt`, also in
    the middle of a compilation; its text says so where nothing was saved `earlier` either. After
    it, the first one is remembered.
    """

    def __init__(self, *, earlier: bool = False) -> None:
        self._starting, self._received = True, False
        self._reason = "" if earlier else NOTHING_BEGUN
        self._before: dict[signal.Signals, Any] = {}  # the handlers outside

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is not threading.main_thread():
            return self  # no other thread may; nobody stops such a training but by the process
        self._before = {number: signal.getsignal(number) for number in NUMBERS}
        for number in NUMBERS:
            signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore_handlers()

    def begin(self) -> None:
        """From now on, as the loop begins, the first signal is only remembered."""
        if self._received:  # before, but a library swallowed the exception
            raise KeyboardInterrupt(self._reason)
        self._starting = False

    def received(self) -> bool:
        """Whether someone asked to stop."""
        return self._received

    def _restore_handlers(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: object) -> None:  # noqa: ARG002 - signal's signature
        self._restore_handlers()  # so that a second one acts as usual
        self._received = True
        if self._starting:
            raise KeyboardInterrupt(self._reason)
        # Not by sys.stderr: the handler may interrupt one who writes there.
        start = "\n" if os.isatty(2) else ""  # after what a terminal shows for Ctrl-C, or a bar
        with suppress(OSError):
            os.write(2, f"{start}{STOPPING}\n".encode())
