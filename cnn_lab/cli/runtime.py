"""The process of a command: devices, memory and log lines before JAX starts; signals; output.

The reader of the output may have gone, as after `cnn-lab ... | head -1`.
"""

import contextlib
import ctypes
import functools
import logging as std_logging
import os
import select
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from typing import Any

from absl import flags, logging

from cnn_lab.core import compilation_cache
from cnn_lab.core.errors import INTERRUPTED_STATUS, ConfigError

REPORTED_ALREADY = (  # failures that libraries meet once more as they tidy up
    "Event loop is closed",  # a read or write of tensorstore's ended after orbax gave up on it
    "can only join a started process",  # Grain could not start a worker
    "has no attribute '_ssock'",  # asyncio could not open an event loop
)
MALLOC_MMAP_MAX, MALLOC_TRIM_THRESHOLD, MALLOC_ARENA_MAX = -4, -1, -8
SIGNALS = (signal.SIGINT, signal.SIGTERM)
# The status of a process that a signal ends before it trains: a scheduler that starts a training
# again when it was interrupted is to do so then too.
early_status = INTERRUPTED_STATUS


def start(num_devices: int | None) -> None:
    """Prepares the process: memory, devices, compilation cache, log lines.

    Args:
        num_devices: devices that the config asks for; None is up to the machine.

    Raises:
        ConfigError: code of the user's used JAX's devices while it was imported.
    """
    # glibc keeps freed buffers for the next step. A step's scratch memory is otherwise handed to
    # the system and faulted in again every step, which takes up to half of a small net's step.
    with contextlib.suppress(OSError, AttributeError):  # other allocators are left alone
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        mallopt(MALLOC_MMAP_MAX, 0)
        mallopt(MALLOC_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(MALLOC_ARENA_MAX, 1)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import jax  # after the allocator

    is_set = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if not is_set and "JAX_NUM_CPU_DEVICES" not in os.environ:
        # One CPU device does not use a second core for convolutions; one device per core does.
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        try:
            jax.config.update("jax_num_cpu_devices", max(cores or 1, num_devices or 1))
        except RuntimeError as error:
            raise ConfigError(
                "A module of config.imports, or the experiment file, computes with JAX while it is "
                "imported, before the devices are chosen; move its arrays into functions, or make "
                "them NumPy's.",
                where="config.imports",
            ) from error
    compilation_cache.enable(lambda line: complain(f"{line}\n"))
    start_logging()


def start_logging() -> None:
    """Warnings as plain lines on standard error."""
    # Such images are refused in a sentence of our own.
    warnings.filterwarnings("ignore", message="Image size .* exceeds limit")
    # Orbax leaves them behind where it gets no files to write; that is reported as an error.
    warnings.filterwarnings("ignore", message="coroutine .* was never awaited")
    flags.FLAGS.mark_as_parsed()  # Grain and absl ask the global flags, which no command uses
    logging.use_absl_handler()
    logging.set_verbosity(logging.WARNING)
    raise_on_signal()  # all that is slow to import has been
    handler = logging.get_absl_handler()
    handler.setFormatter(std_logging.Formatter("%(levelname)s: %(message)s"))
    handler.addFilter(_is_for_the_user)


def _is_for_the_user(record: std_logging.LogRecord) -> bool:
    """Drops the tracebacks that orbax's threads log: whoever called it reports the failure."""
    return "/orbax/" not in record.pathname and record.name != "asyncio"


def exit_on_signal() -> None:
    """Lets SIGINT and SIGTERM end the process with one sentence, until `raise_on_signal`.

    Nothing has started then, and an exception could be swallowed, or turned into another one, by
    the libraries that are being imported.
    """

    def leave(*_: Any) -> None:
        os.write(2, b"\ninterrupted; nothing had begun.\n")
        os._exit(early_status)

    _answer_signals(leave)


def raise_on_signal() -> None:
    """Lets SIGINT and SIGTERM raise `KeyboardInterrupt` from now on, so that `finally` cleans up.

    A training answers them itself.
    """
    _answer_signals(signal.default_int_handler)
    if getattr(sys.unraisablehook, "func", None) is not _answer_unraisable:
        sys.unraisablehook = functools.partial(_answer_unraisable, sys.unraisablehook)


def _answer_signals(handler: Callable[..., Any]) -> None:
    if threading.current_thread() is threading.main_thread():  # no other may
        for number in SIGNALS:
            signal.signal(number, handler)


def _answer_unraisable(others: Callable[[Any], Any], unraisable: Any) -> None:
    """Sends a signal again that a finaliser swallowed; drops late callbacks of libraries."""
    if unraisable.exc_type is KeyboardInterrupt:
        # Later and from outside: raised here it would be swallowed as well.
        again = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT))
        again.daemon = True
        again.start()
    elif not any(text in str(unraisable.exc_value) for text in REPORTED_ALREADY):
        others(unraisable)


UNREAD_STATUS = 141  # of a program that SIGPIPE ended, as shells show it


log = functools.partial(print, flush=True)


def log_if_read(text: str) -> None:
    """Prints a line at once, and drops lines once nobody reads them.

    A training is worth more than its lines, which the metrics hold too.
    """
    try:
        log(text)
    except BrokenPipeError:
        drop_unread()
        complain("Nobody reads the standard output any more; going on without it.\n")


def complain(text: str) -> None:
    """Writes to standard error, if somebody reads it."""
    with contextlib.suppress(BrokenPipeError):
        sys.stderr.write(text)
        sys.stderr.flush()
    drop_unread()


def drop_unread() -> bool:
    """Redirects an output that nobody reads to nowhere; returns whether there was any."""
    poll = select.poll()
    for descriptor in (1, 2):
        poll.register(descriptor, 0)  # errors are reported whatever is asked for
    unread = [descriptor for descriptor, event in poll.poll(0) if event & select.POLLERR]
    for descriptor in unread:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, descriptor)
        os.close(nowhere)
    return bool(unread)
