"""What must be set before JAX touches a device."""

import contextlib
import ctypes
import logging as std_logging
import os
import sys
import warnings
from pathlib import Path
from typing import Any

from absl import flags, logging

from cnn_lab.cli import compilation_cache, interrupts

TOLD_ALREADY = (
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

    told = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if not told and "JAX_NUM_CPU_DEVICES" not in os.environ:
        # One CPU device does not use a second core for convolutions; one device per core does.
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        jax.config.update("jax_num_cpu_devices", max(cores or 1, num_devices or 1))
    chosen = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]
    if chosen is None:
        jax.config.update("jax_compilation_cache_dir", str(cache_dir()))
        compilation_cache.trim(cache_dir())
    compilation_cache.mend(Path(chosen or cache_dir()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    sys.unraisablehook = _without_late_callbacks
    start_logging()


def start_logging() -> None:
    """Warnings as plain lines on standard error."""
    # `data/pixels.py` refuses such images in a sentence of its own.
    warnings.filterwarnings("ignore", message="Image size .* exceeds limit")
    # Orbax leaves them behind where it gets no files to write; that is told as an error.
    warnings.filterwarnings("ignore", message="coroutine .* was never awaited")
    flags.FLAGS.mark_as_parsed()  # Grain and absl ask the global flags, which no command uses
    logging.use_absl_handler()
    logging.set_verbosity(logging.WARNING)
    interrupts.raise_instead()  # all that is slow to import has been
    handler = logging.get_absl_handler()
    handler.setFormatter(std_logging.Formatter("%(levelname)s: %(message)s"))
    handler.addFilter(_is_for_the_user)


def _is_for_the_user(record: std_logging.LogRecord) -> bool:
    """Drops the tracebacks that orbax's threads log: whoever called it tells of the failure."""
    return "/orbax/" not in record.pathname and record.name != "asyncio"


def _without_late_callbacks(unraisable: Any) -> None:
    """Drops what libraries say, while they tidy up, of a failure that was told already."""
    if not any(text in str(unraisable.exc_value) for text in TOLD_ALREADY):
        sys.__unraisablehook__(unraisable)


def cache_dir() -> Path:
    """Where compiled programs are kept between runs."""
    return Path.home() / ".cache" / "cnn_lab" / "xla"


def _keep_freed_memory() -> None:
    """Tells glibc to keep freed buffers for the next step instead of giving them back.

    A step's scratch memory is otherwise handed to the system and faulted in again every step, which
    takes up to half of a small net's step. Other allocators are left alone.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        mallopt(MALLOC_MMAP_MAX, 0)
        mallopt(MALLOC_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(MALLOC_ARENA_MAX, 1)
