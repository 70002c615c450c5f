"""Errors that a user can act on.

Every mistake of the user's (a name, a file, a flag, a shape) is raised as a subclass of
`CnnLabError`. Its text is one sentence, which says what was found, what was expected and what to
do; its fields hold the same for programs. The command line prints the sentence and exits with
status 2 (75 for what may pass); anything else is a bug and keeps its traceback.
"""

import copy
import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

# Exit statuses of a training: "temporary failure", after which the same command goes on from the
# last checkpoint, and a signal before there was anything to save.
LOST_STATUS, INTERRUPTED_STATUS = 75, 130

Value = TypeVar("Value")
ErrorType = TypeVar("ErrorType", bound="CnnLabError")


class CnnLabError(Exception):
    """Base of all errors whose text is meant for the user.

    Args:
        problem: a whole sentence; or its beginning, without a stop, where `allowed` are names that
            follow it; or None for `WHERE must be ALLOWED; found FOUND.`.
        where: see Attributes; likewise `found` and `allowed`.
        advice: a remark in parentheses at the end.

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
            problem = f"{problem}; {_hint(self.nearest, self.allowed)}"
        if advice:
            problem = f"{problem.removesuffix('.')} ({advice})."
        super().__init__(problem)

    def inside(self: ErrorType, place: str) -> ErrorType:
        """The same error, its sentence preceded by the file (and line) that it came from."""
        outer = copy.copy(self)
        outer.args = (f"{place}: {self}",)
        outer.where = self.where or place
        return outer


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
    """Up to three of the known names that are most like an unknown one, the nearest first."""
    names = sorted(known)
    if ABBREVIATIONS.get(name) in names:
        return (ABBREVIATIONS[name],)
    return tuple(difflib.get_close_matches(name, names, n=3, cutoff=0.5))


def suggest(name: str, known: Iterable[str]) -> str:
    """The hint that follows an unknown name.

    Args:
        name: what the user wrote.
        known: the names that would have been accepted.

    Returns:
        `did you mean a, b?` with up to three near names, else `known: ...` with all of them.
    """
    names = sorted(known)
    return _hint(nearest(name, names), names)


def _hint(near: Sequence[str], names: Sequence[str]) -> str:
    if near:
        return f"did you mean {', '.join(near)}?"
    return f"known: {', '.join(names)}." if names else "there are none."


def lookup(table: Mapping[str, Value], name: str, kind: str, where: str | None = None) -> Value:
    """Returns `table[name]`, or raises a `ConfigError` that offers the nearest names.

    Args:
        table: the known names.
        name: the name asked for.
        kind: one entry of the table in a word, for the message (`model`).
        where: the field or flag that the name was given by.
    """
    if name not in table:
        problem = f"There is no {kind} named {name!r}"
        raise ConfigError(problem, where=where, found=name, allowed=table)
    return table[name]
