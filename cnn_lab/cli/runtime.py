"""The process of a command: devices, memory, compiled programs and log lines, before JAX starts."""

import contextlib
import ctypes
import logging as std_logging
import os
import sys
import warnings
from typing import Any

from absl import flags, logging

from cnn_lab.cli import interrupts, output
from cnn_lab.core import compilation_cache

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
    compilation_cache.enable(lambda line: output.complain(f"{line}\n"))
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
    interrupts.raise_instead()  # all that is slow to import has been
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
