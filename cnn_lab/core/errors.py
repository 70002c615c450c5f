"""Errors that a user can act on.

Every mistake of the user's (a name, a file, a flag, a shape) is raised as a subclass of
`CnnLabError`. Its text is one sentence with what was found, what was expected and what to do; its
fields hold the same for programs. The command line prints the sentence and exits with status 2 (75
for what may pass); anything else is a bug and keeps its traceback.
"""

import contextlib
import copy
import difflib
import errno
import os
import re
import string
import textwrap
import traceback
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

# Exit statuses of a training: "temporary failure", after which the same command goes on from the
# last checkpoint, and a signal before there was anything to save.
LOST_STATUS, INTERRUPTED_STATUS = 75, 130

Value = TypeVar("Value")
ErrorType = TypeVar("ErrorType", bound="CnnLabError")


class CnnLabError(Exception):
    """Base of all errors whose text is meant for the user.

    The text is the `problem`: a whole sentence; or its beginning, without a stop, where `allowed`
    are names that follow it; or None for `WHERE must be ALLOWED; found FOUND.`. `advice` is a
    remark in parentheses at the end.

    Attributes:
        where: the dotted field (`config.optim`), flag (`--top`) or file that the mistake is in.
        found: what the user gave.
        allowed: what would be accepted: words (`a whole number of at least 1`) or all names.
        nearest: up to three of these names that are most like the one found.
    """

    def __init__(
        self,
        problem: str | None = None,
        *,
        where: str | None = None,
        found: Any = None,
        allowed: str | Iterable[str] | None = None,
        advice: str = "",
    ):
        self.where, self.found = where, found
        self.allowed = allowed if allowed is None or isinstance(allowed, str) else sorted(allowed)
        self.nearest: tuple[str, ...] = ()
        if isinstance(self.allowed, list):
            self.nearest = nearest(str(found), self.allowed)
        if problem is None:
            problem = f"{where} must be {self.allowed}; found {found!r}."
        elif isinstance(self.allowed, list):
            problem = f"{problem}; {suggest(str(found), self.allowed)}"
        super().__init__(_advised(problem, advice) if advice else problem)

    def inside(self: ErrorType, place: str) -> ErrorType:
        """The same error, its sentence preceded by the file (and line) that it came from."""
        outer = copy.copy(self)
        outer.args = (f"{place}: {self}",)
        outer.where = self.where or place
        return outer

    def advised(self: ErrorType, advice: str) -> ErrorType:
        """The same error, its sentence followed by a remark in parentheses."""
        advised = copy.copy(self)
        advised.args = (_advised(str(self), advice),)
        return advised


def _advised(problem: str, advice: str) -> str:
    return f"{problem.removesuffix('.')} ({advice})."


class ConfigError(CnnLabError):
    """A field, flag, name or combination of settings that cannot be used."""


class DataError(CnnLabError):
    """A data set that is missing, incomplete, corrupt or unfit for the model."""


class CheckpointError(CnnLabError):
    """A checkpoint that is missing, damaged or belongs to something else."""


class WorkdirError(CnnLabError):
    """A working directory that cannot be used by this run."""


class TrainingError(CnnLabError):
    """A training that cannot go on, such as one whose loss is no longer finite."""


class LostError(CnnLabError):
    """Other processes of a training that cannot be reached; the same command may do later."""


class DivergedError(TrainingError):
    """A training whose loss or gradients are no longer finite."""


class SystemLimitError(CnnLabError):
    """Something that the computer refused: memory, room, permissions, open files."""


# Names of other libraries.
ABBREVIATIONS = {
    "lr": "learning_rate",
    "wd": "weight_decay",
    "bs": "batch_size",
    "epochs": "num_epochs",
}


def nearest(name: str, known: Iterable[str]) -> tuple[str, ...]:
    """Up to three of the known names that are most like an unknown one, the nearest first.

    Those that differ in a number at the end alone, as `resnet20` does from `resnet21`, come first,
    then those that go on where the name ends.
    """
    names = sorted(known)
    if ABBREVIATIONS.get(name) in names:
        return (ABBREVIATIONS[name],)
    stem = name.rstrip(string.digits)
    numbers = [n.removeprefix(stem) for n in names if n.startswith(stem)]
    if stem and stem != name and (found := [n for n in numbers if n.isdecimal()]):
        target = int(name.removeprefix(stem))
        found.sort(key=lambda number: abs(int(number) - target))
        return tuple(f"{stem}{number}" for number in found[:3])
    longer = [known for known in names if len(name) > 2 and known.startswith(name)]
    alike = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    return tuple(dict.fromkeys([*longer, *alike]))[:3]


def suggest(name: str, known: Iterable[str]) -> str:
    """The hint that follows an unknown name: `did you mean a, b?`, else `known: ...` with all."""
    names = sorted(known)
    if near := nearest(name, names):
        return f"did you mean {', '.join(near)}?"
    return f"known: {', '.join(names)}." if names else "there are none."


def lookup(table: Mapping[str, Value], name: str, kind: str, where: str | None = None) -> Value:
    """Returns `table[name]`, or raises a `ConfigError` that offers the nearest names.

    The message calls an entry by its `kind` (`model`); `where` is the field or flag of the name.
    """
    if name not in table:
        problem = f"There is no {kind} named {name!r}"
        raise ConfigError(problem, where=where, found=name, allowed=table)
    return table[name]


# Errors of the system (memory, disk space, permissions, open files) are neither bugs of the program
# nor damage of its files: they deserve neither a traceback nor the advice to delete anything.
OPEN_FILES = {errno.EMFILE, errno.ENFILE}
REFUSED_FILES = {
    *(errno.EACCES, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ENOSPC, errno.EPERM, errno.EROFS)
}
# XLA and tensorstore have no exceptions of their own.
_OUT_OF_MEMORY = re.compile(r"out of memory|bad_alloc|unable to allocate|RESOURCE_EXHAUSTED", re.I)
_OUT_OF_FILES = re.compile("too many open files", re.I)
_WITHOUT_DEVICES = re.compile(
    "Unable to initialize backend|Invalid value .* for JAX flag|invalid truth value|Unknown backend"
)
_DEVICE_VARIABLES = ("JAX_NUM_CPU_DEVICES", "JAX_PLATFORMS")
_TEMPORARY = re.compile("already in use|UNAVAILABLE|ABORTED|NOT_READY|busy", re.I)
_SAFE = "then run the same command again: what was saved before is intact."


def explain_system_error(error: BaseException, place: Path | None = None) -> str | None:
    """One sentence about an error of the system, or one that followed from it; else None.

    `place` is the folder that was written, for an error that names no file.
    """
    for cause in causes(error):
        text, number = str(cause), getattr(cause, "errno", None)
        reason, file = getattr(cause, "strerror", None), getattr(cause, "filename", None)
        if number in OPEN_FILES or _OUT_OF_FILES.search(text):
            return (
                f"{file or 'A file'} cannot be opened ({reason or 'Too many open files'}); allow "
                f"more open files (ulimit -n), {_SAFE}"
            )
        if isinstance(cause, OSError) and number in REFUSED_FILES:
            where = file or place
            problem = f"{where} cannot be used" if where else "A file cannot be written"
            return f"{problem} ({reason}); free space or permissions there, {_SAFE}"
        if isinstance(cause, MemoryError) or _OUT_OF_MEMORY.search(text):
            found = f" ({_first_line(text)})" if text.strip() else ""
            return (
                f"The memory does not suffice{found}; lower config.train.batch_size, the size of "
                "the model or config.evaluate.batch_size (--batch_size of `cnn-lab evaluate`), or "
                "set config.data.loader=streaming."
            )
        devices = None
        if _WITHOUT_DEVICES.search(text) and not _TEMPORARY.search(text):
            devices = text.partition(" (")[0]
        elif isinstance(cause, AssertionError):  # a platform that JAX knows, not installed
            frames = traceback.extract_tb(cause.__traceback__)
            if frames and Path(frames[-1].filename).name == "xla_bridge.py":
                devices = "found none of them"
        if devices is not None:
            names = sorted(
                name
                for name in os.environ
                if name in _DEVICE_VARIABLES
                or (name.startswith("JAX_") and name.lower() in text.lower())
            )
            given = " ".join(f"{name}={os.environ[name]}" for name in names)
            return (
                f"JAX cannot use the devices asked for ({_first_line(devices)}); mend or unset "
                f"what the environment says ({given or 'no JAX_PLATFORMS'}), or install JAX for "
                "these devices, as by pip install '.[cuda13]'."
            )
    return None


@contextlib.contextmanager
def system_errors_explained(place: Path | None = None) -> Iterator[None]:
    """Raises a `SystemLimitError` for an error of the system inside a `with`."""
    try:
        yield
    except Exception as error:
        sentence = None if isinstance(error, CnnLabError) else explain_system_error(error, place)
        if sentence is None:
            raise
        raise SystemLimitError(sentence) from error


def is_out_of_open_files(error: BaseException) -> bool:
    """Whether files could not be opened because too many are."""
    return any(
        getattr(cause, "errno", None) in OPEN_FILES or _OUT_OF_FILES.search(str(cause))
        for cause in causes(error)
    )


def _first_line(text: str) -> str:
    return textwrap.shorten(text.strip().partition("\n")[0], 160, placeholder=" ...").rstrip(".")


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those that it followed from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
