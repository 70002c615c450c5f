"""How fields of the config and options are listed: flag and default, type, meaning.

The docstrings are the only place where meanings are written; `help config` and `list` read them.
"""

import inspect
import re
import shlex
import textwrap
from typing import Any

from cnn_lab.config.annotations import describe

WIDTH = 100
_ENTRY = re.compile(r"\*{0,2}(\w+): (.*)")


def first_line(documented: Any) -> str:
    """The summary line of something's docstring."""
    return (inspect.getdoc(documented) or "").partition("\n")[0]


def explained(documented: Any, section: str) -> dict[str, str]:
    """Reads name to meaning from the section of a docstring.

    Args:
        documented: a class or a function.
        section: `Args` or `Attributes`.
    """
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
