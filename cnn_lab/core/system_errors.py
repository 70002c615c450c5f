"""Errors of the system (memory, disk space, permissions, open files), explained in one sentence.

Such a failure is no bug of the program's and no damage of its files, so it deserves neither a
traceback nor the advice to delete anything.
"""

import contextlib
import errno
import os
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

from cnn_lab.core.errors import CnnLabError, SystemLimitError

TOO_MANY_OPEN_FILES = {errno.EMFILE, errno.ENFILE}
SYSTEM_ERRORS = {
    *TOO_MANY_OPEN_FILES,
    errno.EACCES,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EIO,
    errno.ENOSPC,
    errno.EPERM,
    errno.EROFS,
}
# XLA and tensorstore have no exceptions of their own.
_OUT_OF_MEMORY = re.compile(r"out of memory|bad_alloc|unable to allocate|RESOURCE_EXHAUSTED", re.I)
_OUT_OF_FILES = re.compile("too many open files", re.I)
_WITHOUT_DEVICES = re.compile(
    "Unable to initialize backend|Invalid value .* for JAX flag|invalid truth value|Unknown backend"
)
_TEMPORARY = re.compile("already in use|UNAVAILABLE|ABORTED|NOT_READY|busy", re.I)
_MAX_CHARACTERS = 160


def explain_system_error(error: BaseException, place: Path | None = None) -> str | None:
    """One sentence about an error of the system, None for any other failure.

    Args:
        error: the one that was raised; those that it followed from are looked through too.
        place: the folder that was written, for an error that names no file.
    """
    for cause in causes(error):
        text = str(cause)
        number = cause.errno if isinstance(cause, OSError) else None
        if _is_out_of_files(cause):
            name = getattr(cause, "filename", None) or "A file"
            reason = getattr(cause, "strerror", None) or "Too many open files"
            return (
                f"{name} cannot be opened ({reason}); allow more open files (ulimit -n), then run "
                "the same command again: what was saved before is intact."
            )
        if number in SYSTEM_ERRORS and isinstance(cause, OSError):
            where = cause.filename or place
            what = f"{where} cannot be used" if where else "A file cannot be written"
            return (
                f"{what} ({cause.strerror}); free space or permissions there, then run the same "
                "command again: what was saved before is intact."
            )
        if isinstance(cause, MemoryError) or _OUT_OF_MEMORY.search(text):
            return _no_memory(text)
        if _WITHOUT_DEVICES.search(text) and not _TEMPORARY.search(text):
            return _no_devices(text.partition(" (")[0])
        if isinstance(cause, AssertionError) and _raised_in(cause) == "xla_bridge.py":
            return _no_devices("found none of them")  # a platform that JAX knows, not installed
    return None


@contextlib.contextmanager
def system_errors_explained(place: Path | None = None) -> Iterator[None]:
    """Raises a `SystemLimitError` for an error of the system inside a `with`."""
    try:
        yield
    except CnnLabError:
        raise
    except Exception as error:
        sentence = explain_system_error(error, place)
        if sentence is None:
            raise
        raise SystemLimitError(sentence) from error


def is_out_of_open_files(error: BaseException) -> bool:
    """Whether files could not be opened because too many are."""
    return any(map(_is_out_of_files, causes(error)))


def _is_out_of_files(cause: BaseException) -> bool:
    number = cause.errno if isinstance(cause, OSError) else None
    return number in TOO_MANY_OPEN_FILES or bool(_OUT_OF_FILES.search(str(cause)))


def _no_memory(reason: str) -> str:
    """The sentence for too little memory, on the host or on a device."""
    line = _first_line(reason)
    found = f" ({line})" if line else ""
    return (
        f"The memory does not suffice{found}; lower config.train.batch_size, the size of the model "
        "or config.evaluate.batch_size (--batch_size of `cnn-lab evaluate`), or set "
        "config.data.loader=streaming."
    )


def _no_devices(reason: str) -> str:
    given = " ".join(
        f"{name}={os.environ[name]}" for name in sorted(os.environ) if name.startswith("JAX_")
    )
    return (
        f"JAX cannot use the devices asked for ({_first_line(reason)}); mend or unset what the "
        f"environment says ({given or 'no variable JAX_...'}), or install JAX for these devices, "
        "as by pip install '.[cuda13]'."
    )


def _raised_in(error: BaseException) -> str:
    """Name of the file that an error was raised in."""
    frame, name = error.__traceback__, ""
    while frame is not None:
        name, frame = Path(frame.tb_frame.f_code.co_filename).name, frame.tb_next
    return name


def _first_line(text: str) -> str:
    line = text.strip().partition("\n")[0]
    return textwrap.shorten(line, _MAX_CHARACTERS, placeholder=" ...").rstrip(".")


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those that it followed from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
