"""`cnn-lab help config [BRANCH]`: every field of the config, read off its dataclasses."""

import dataclasses
import typing
from collections.abc import Iterator

from cnn_lab.cli.reference import entry, explained, first_line, wrapped
from cnn_lab.config import ExperimentConfig
from cnn_lab.config.node import Node, node_in
from cnn_lab.core.errors import ConfigError, suggest

ABOUT = """\
Fields of the config, with their defaults. An experiment file sets them by name, the command line
by --config.a.b=value; `none` clears an optional one. Options are listed by `cnn-lab list models
NAME`, and likewise for optimizers and schedules.
"""


def config_help(branch: str = "") -> str:
    """Words all fields, or those of one branch, such as `optim` or `optim.schedule`.

    Raises:
        ConfigError: there is no such branch (offers the nearest).
    """
    branch = branch.removeprefix("--").removeprefix("config").removeprefix(".").rstrip(".")
    lines = dict(_fields(ExperimentConfig, ""))
    kept = [
        text
        for path, texts in lines.items()
        if not branch or path == branch or path.startswith(f"{branch}.")
        for text in texts
    ]
    if not kept:
        raise ConfigError(f"The config has no field {branch!r}; {suggest(branch, lines)}")
    return "\n".join([*([] if branch else [ABOUT]), *kept]).strip("\n") + "\n"


def _fields(node_type: type[Node], prefix: str) -> Iterator[tuple[str, list[str]]]:
    """Dotted path and lines of every field; the single values of a node come before its nodes."""
    hints = typing.get_type_hints(node_type, include_extras=True)
    meanings, defaults = explained(node_type, "Attributes"), node_type()
    fields = dataclasses.fields(node_type)  # pyright: ignore[reportArgumentType]
    for field in sorted(fields, key=lambda field: node_in(hints[field.name]) is not None):
        path, annotation = f"{prefix}{field.name}", hints[field.name]
        child = node_in(annotation)
        if child is None:
            default = getattr(defaults, field.name)
            yield path, entry(f"--config.{path}", annotation, default, meanings.get(field.name))
            continue
        absent = (
            " None by default; setting one of its fields makes it."
            if getattr(defaults, field.name) is None
            else ""
        )
        yield path, ["", *wrapped(f"config.{path}: {first_line(child)}{absent}")]
        yield from _fields(child, f"{path}.")
