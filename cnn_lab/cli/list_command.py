"""Lists what there is: models, datasets, experiments, optimizers, losses or schedules.

A pattern keeps the names that match it; `*` stands for anything.

Examples:
  cnn-lab list models
  cnn-lab list models 'le*'
  cnn-lab list experiments
"""

import ast
import fnmatch
import sys
from collections.abc import Callable
from pathlib import Path

from absl import flags

from cnn_lab.cli.main import Invocation
from cnn_lab.core.errors import ConfigError, lookup, suggest


def define_flags(values: flags.FlagValues) -> None:
    """This command has no flags."""


def main(invocation: Invocation) -> int:
    """Prints one line per name."""
    if not 1 <= len(invocation.arguments) <= 2:
        raise ConfigError(f"list takes a kind ({', '.join(KINDS)}) and at most one pattern.")
    kind, *patterns = invocation.arguments
    rows = lookup(KINDS, kind, "kind of thing to list")()
    pattern = patterns[0] if patterns else "*"
    kept = {name: text for name, text in rows.items() if fnmatch.fnmatch(name, pattern)}
    if not kept:
        raise ConfigError(f"No {kind} match {pattern!r}; {suggest(pattern.strip('*?'), rows)}")
    width = max(map(len, kept))
    for name, text in kept.items():
        sys.stdout.write(f"{name:<{width}}  {text}\n")
    return 0


def _models() -> dict[str, str]:
    from cnn_lab.models.catalog import MODELS

    def shape(entry) -> str:
        return "x".join(map(str, entry.image_shape))

    return {
        name: f"{entry.num_parameters:>12,} parameters  {shape(entry):<10}  "
        f"{entry.title}; {entry.paper}"
        for name, entry in MODELS.items()
    }


def _datasets() -> dict[str, str]:
    from cnn_lab.data.catalog import DATASETS

    named = {
        name: f"{'x'.join(map(str, d.image_shape)):<9}  {d.num_classes:>3} classes  "
        + ", ".join(f"{split} {size:,}" for split, size in d.split_sizes.items())
        + f"  {d.title}"
        for name, d in DATASETS.items()
    }
    return {
        **named,
        "folder:PATH": "your images: one sub-folder of JPEG or PNG files per class",
        "tfds:PATH": "a data set that TFDS prepared as array_record",
        "tfds:NAME": "the same by its name, where it was prepared already",
    }


def _experiments() -> dict[str, str]:
    files = sorted(Path("experiments").glob("**/*.py"))
    if not files:
        raise ConfigError(
            "There is no folder experiments/ here; run this in a checkout of cnn_lab."
        )
    return {
        str(path): _first_line(ast.get_docstring(ast.parse(path.read_text()))) for path in files
    }


def _optimizers() -> dict[str, str]:
    from cnn_lab.optim.optimizers import OPTIMIZERS

    return _documented(OPTIMIZERS)


def _schedules() -> dict[str, str]:
    from cnn_lab.optim.schedules import SCHEDULES

    return _documented(SCHEDULES)


def _losses() -> dict[str, str]:
    from cnn_lab.losses import LOSSES

    return _documented(LOSSES)


def _documented(table: dict[str, Callable]) -> dict[str, str]:
    return {name: _first_line(function.__doc__) for name, function in sorted(table.items())}


def _first_line(text: str | None) -> str:
    return (text or "").strip().split("\n")[0]


KINDS: dict[str, Callable[[], dict[str, str]]] = {
    "models": _models,
    "datasets": _datasets,
    "experiments": _experiments,
    "optimizers": _optimizers,
    "schedules": _schedules,
    "losses": _losses,
}
