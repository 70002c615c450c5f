"""The process of a command: devices, memory, compiled programs and log lines, before JAX starts."""

import contextlib
import ctypes
import logging as std_logging
import os
import select
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import flags, logging

from cnn_lab.core import compilation_cache
from cnn_lab.core.errors import INTERRUPTED_STATUS, ConfigError

REPORTED_ALREADY = (
    "Event loop is closed",  # a read or write of tensorstore's ended after orbax gave up on it
    "can only join a started process",  # Grain could not start a worker
    "has no attribute '_ssock'",  # asyncio could not open an event loop
)
MALLOC_MMAP_MAX, MALLOC_TRIM_THRESHOLD, MALLOC_ARENA_MAX = -4, -1, -8


def start(num_devices: int | None) -> None:
    """Prepares the process: devices, compilation cache, memory, log lines.

    Args:
        num_devices: devices that the config asks for; None is up to the machine.
    """
    _keep_freed_memory()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import jax  # after the allocator

    is_set = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if not is_set and "JAX_NUM_CPU_DEVICES" not in os.environ:
        # One CPU device does not use a second core for convolutions; one device per core does.
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        jax.config.update("jax_num_cpu_devices", max(cores or 1, num_devices or 1))
    compilation_cache.enable(lambda line: complain(f"{line}\n"))
    sys.unraisablehook = _without_late_callbacks
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
    raise_instead()  # all that is slow to import has been
    handler = logging.get_absl_handler()
    handler.setFormatter(std_logging.Formatter("%(levelname)s: %(message)s"))
    handler.addFilter(_is_for_the_user)


def _is_for_the_user(record: std_logging.LogRecord) -> bool:
    """Drops the tracebacks that orbax's threads log: whoever called it reports the failure."""
    return "/orbax/" not in record.pathname and record.name != "asyncio"


def _without_late_callbacks(unraisable: Any) -> None:
    """Drops late tracebacks of libraries, as they tidy up, of a failure already reported."""
    if not any(text in str(unraisable.exc_value) for text in REPORTED_ALREADY):
        sys.__unraisablehook__(unraisable)


def _keep_freed_memory() -> None:
    """Makes glibc keep freed buffers for the next step instead of returning them.

    A step's scratch memory is otherwise handed to the system and faulted in again every step, which
    takes up to half of a small net's step. Other allocators are left alone.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        mallopt(MALLOC_MMAP_MAX, 0)
        mallopt(MALLOC_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(MALLOC_ARENA_MAX, 1)


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


UNREAD_STATUS = 141  # of a program that SIGPIPE ended, as shells show it


def log(text: str) -> None:
    """Prints a line at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def log_if_read(text: str) -> None:
    """Prints a line at once, and drops lines once nobody reads them.

    A training is worth more than its lines, which the metrics hold too.
    """
    try:
        log(text)
    except BrokenPipeError:
        drop_unread()
        complain("Nobody reads the standard output any more; going on without it.\n")


def picture_path(out: str) -> Path:
    """The path of the picture that --out asks for.

    Raises:
        ConfigError: it is no PNG's name, or its folder is not there.
    """
    path = Path(out)
    if path.suffix != ".png":
        raise ConfigError(f"--out must end in .png; found {out!r}.", where="--out", found=out)
    if not path.absolute().parent.is_dir():
        sentence = f"--out={out}: there is no folder {path.absolute().parent}."
        raise ConfigError(sentence, where="--out", found=out)
    return path


def complain(text: str) -> None:
    """Writes to standard error, if somebody reads it."""
    with contextlib.suppress(BrokenPipeError):
        sys.stderr.write(text)
        sys.stderr.flush()
    drop_unread()


def drop_unread() -> bool:
    """Redirects an output that nobody reads to nowhere; returns whether there was any."""
    unread = [descriptor for descriptor in (1, 2) if _is_unread(descriptor)]
    for descriptor in unread:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, descriptor)
        os.close(nowhere)
    return bool(unread)


def _is_unread(descriptor: int) -> bool:
    """Whether a descriptor is a pipe or socket whose reader is gone."""
    poll = select.poll()
    poll.register(descriptor, 0)  # errors are reported whatever is asked for
    return any(event & select.POLLERR for _, event in poll.poll(0))
