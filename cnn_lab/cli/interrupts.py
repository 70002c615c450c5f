"""Ctrl-C (SIGINT) and SIGTERM outside a training, which answers them itself."""

import os
import signal
import threading

STATUS = 130
NUMBERS = (signal.SIGINT, signal.SIGTERM)


def leave_at_once() -> None:
    """Until `raise_instead`, either signal ends the process with one sentence.

    Nothing has been begun then, and an exception could be swallowed, or turned into another one, by
    the libraries that are being imported.
    """
    _install(lambda *_: _leave())


def raise_instead() -> None:
    """From now on either raises `KeyboardInterrupt`, so that what was begun is cleaned up."""
    _install(signal.default_int_handler)


def _install(handler) -> None:
    if threading.current_thread() is threading.main_thread():
        for number in NUMBERS:
            signal.signal(number, handler)


def _leave() -> None:
    os.write(2, b"\ninterrupted; nothing had begun.\n")
    os._exit(STATUS)
