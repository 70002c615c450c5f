"""Listings of the config's fields (`cnn-lab help config [BRANCH]`) and of options (`list`).

Each has its flag and default, its type and its meaning. The docstrings are the only place where
meanings are written.
"""

import inspect
import re
import shlex
import textwrap
from collections.abc import Iterator
from typing import Any

from cnn_lab.config import ExperimentConfig
from cnn_lab.config.node import Node
from cnn_lab.config.values import annotations_of, describe, group_in
from cnn_lab.core.errors import ConfigError

WIDTH = 100
ABOUT = """\
Fields of the config, with their defaults. An experiment file sets them by name, the command line
by --config.a.b=value; `none` clears an optional one. Options are listed by `cnn-lab list models
NAME`, and likewise for optimizers and schedules.
"""
_ENTRY = re.compile(r"\*{0,2}(\w+): (.*)")


def config_help(branch: str = "") -> str:
    """The listing of all fields, or of one branch, such as `optim` or `optim.schedule`.

    Raises:
        ConfigError: there is no such branch (offers the nearest).
    """
    branch = branch.removeprefix("--").removeprefix("config").removeprefix(".").rstrip(".")
    lines = dict(_fields(ExperimentConfig, ""))
    listed = [
        text
        for path, texts in lines.items()
        if not branch or path == branch or path.startswith(f"{branch}.")
        for text in texts
    ]
    if not listed:
        problem = f"The config has no field {branch!r}"
        raise ConfigError(problem, where="config", found=branch, allowed=lines)
    return "\n".join([*([] if branch else [ABOUT]), *listed]).strip("\n") + "\n"


def _fields(node_type: type[Node], prefix: str) -> Iterator[tuple[str, list[str]]]:
    """Dotted path and lines of every field; the single values of a node come before its nodes."""
    annotations = annotations_of(node_type)
    meanings, defaults = explained(node_type, "Attributes"), node_type()
    for name in sorted(annotations, key=lambda name: group_in(annotations[name]) is not None):
        path, annotation, default = f"{prefix}{name}", annotations[name], getattr(defaults, name)
        group = group_in(annotation)
        if group is None:
            yield path, entry(f"--config.{path}", annotation, default, meanings.get(name))
            continue
        absent = " None by default; setting one of its fields makes it." if default is None else ""
        yield path, ["", *wrapped(f"config.{path}: {first_line(group)}{absent}")]
        yield from _fields(group, f"{path}.")


def first_line(documented: Any) -> str:
    """The summary line of something's docstring."""
    return (inspect.getdoc(documented) or "").partition("\n")[0]


def explained(documented: Any, section: str) -> dict[str, str]:
    """The meanings of names in a section, `Args` or `Attributes`, of a docstring."""
    _, found, rest = (inspect.getdoc(documented) or "").partition(f"\n{section}:\n")
    meanings: dict[str, str] = {}
    name = None
    for line in rest.splitlines() if found else ():
        if not line.startswith("    "):
            break
        entry = _ENTRY.fullmatch(line[4:])
        if entry is not None:
            name = entry[1]
            meanings[name] = entry[2]
        elif name is not None:
            meanings[name] += f" {line.strip()}"
    return meanings


def entry(flag: str, annotation: Any, default: Any, meaning: str | None) -> list[str]:
    """The lines of one field or option: `flag=default  type`, and its meaning below."""
    first = f"  {flag}={shlex.quote(flag_text(default))}  {describe(annotation)}"
    return [first, *wrapped(meaning or "", " " * 6)]


def wrapped(text: str, indent: str = "") -> list[str]:
    """The lines of a text, none too long for a terminal."""
    # Not at hyphens, so that commands and flags can be copied.
    return textwrap.wrap(
        text, WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
    )


def flag_text(value: Any) -> str:
    """A value as it is written on the command line, before quoting."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple) and value:
        return ",".join(map(repr, value)) + ("," if len(value) == 1 else "")
    return str(value)
