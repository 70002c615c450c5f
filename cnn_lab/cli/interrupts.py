"""Ctrl-C (SIGINT) and SIGTERM outside a training, which answers them itself."""

import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

from cnn_lab.core.errors import INTERRUPTED_STATUS

NUMBERS = (signal.SIGINT, signal.SIGTERM)
_status = [INTERRUPTED_STATUS]


def set_status(status: int) -> None:
    """Sets the exit status of a process that a signal ends before it trains; 0 leaves it.

    A scheduler that starts a training again when it was interrupted is to do so then too.
    """
    _status[:] = [status or INTERRUPTED_STATUS]


def status() -> int:
    """Exit status of a process that a signal ends before it trains."""
    return _status[0]


def leave_at_once() -> None:
    """Lets either signal end the process with one sentence, until `raise_instead`.

    Nothing has begun then, and an exception could be swallowed, or turned into another one, by
    the libraries that are being imported.
    """
    _install(lambda *_: _leave())


def raise_instead() -> None:
    """Lets either signal raise `KeyboardInterrupt` from now on, so that `finally` cleans up.

    Raised inside a finaliser or a callback of the garbage collector, Python would report the
    exception and go on; then the signal comes again.
    """
    _install(signal.default_int_handler)
    if sys.unraisablehook is not _raise_again:
        _raise_again.others = sys.unraisablehook
        sys.unraisablehook = _raise_again


def _install(handler) -> None:
    if threading.current_thread() is threading.main_thread():
        for number in NUMBERS:
            signal.signal(number, handler)


class _RaiseAgain:
    """An `unraisablehook` that sends the signal of a swallowed `KeyboardInterrupt` once more."""

    def __init__(self):
        self.others: Callable[[Any], Any] = sys.unraisablehook

    def __call__(self, unraisable: Any) -> None:
        if unraisable.exc_type is not KeyboardInterrupt:
            self.others(unraisable)
            return
        # Later and from outside: raised here it would be swallowed as well.
        again = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT))
        again.daemon = True
        again.start()


_raise_again = _RaiseAgain()


def _leave() -> None:
    os.write(2, b"\ninterrupted; nothing had begun.\n")
    os._exit(status())
