"""Errors that a user can act on.

Every mistake of the user's (a name, a file, a flag, a shape) is raised as a subclass of
`CnnLabError`, whose text is one sentence saying what was found, what was expected and what to
do. The command line prints that sentence and exits with status 2 (75 for what may pass); anything
else is a bug and keeps its traceback.
"""

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

# Exit statuses of a training: "temporary failure", after which the same command goes on from the
# last checkpoint, and a signal before there was anything to save.
LOST_STATUS, INTERRUPTED_STATUS = 75, 130

Value = TypeVar("Value")


class CnnLabError(Exception):
    """Base of all errors whose text is meant for the user."""


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


class RefusedError(CnnLabError):
    """Something that the computer refused: memory, room, permissions, open files."""


# What other libraries call them.
SHORT = {"lr": "learning_rate", "wd": "weight_decay", "bs": "batch_size", "epochs": "num_epochs"}


def suggest(name: str, known: Iterable[str]) -> str:
    """Words the hint that follows an unknown name.

    Args:
        name: what the user wrote.
        known: the names that would have been accepted.

    Returns:
        `did you mean a, b?` with up to three near names, else `known: ...` with all of them.
    """
    names = sorted(known)
    if SHORT.get(name) in names:
        return f"did you mean {SHORT[name]}?"
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if near:
        return f"did you mean {', '.join(near)}?"
    return f"known: {', '.join(names)}." if names else "there are none."


def lookup(table: Mapping[str, Value], name: str, kind: str) -> Value:
    """Returns `table[name]`, or raises a `ConfigError` that offers the nearest names.

    Args:
        table: the known names.
        name: the name asked for.
        kind: what the table holds, in the singular, for the message (`model`).
    """
    if name not in table:
        raise ConfigError(f"There is no {kind} named {name!r}; {suggest(name, table)}")
    return table[name]
