"""Lists models, datasets, experiments, optimizers, losses and all else that has a name.

Without arguments it lists what can be listed. A pattern keeps the names that match it; `*` stands
for anything. The full name of a model, an optimizer or a loss shows its options: types,
ranges and defaults.

Examples:
  cnn-lab list
  cnn-lab list models
  cnn-lab list models 'le*'
  cnn-lab list optimizers adamw
  cnn-lab list experiments
  cnn-lab list models --imports=my_layers
"""

import ast
import dataclasses
import fnmatch
import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cnn_lab.cli.flags import CONFIG, IMPORTS, Invocation, imported_config
from cnn_lab.cli.reference import entry, explained, first_line, flag_text
from cnn_lab.config.experiments import experiment_files, is_shipped
from cnn_lab.config.values import declared_options
from cnn_lab.core.errors import ConfigError, lookup
from cnn_lab.core.text import human_count

FLAGS = (IMPORTS, CONFIG)
TAKES_ARGUMENTS = True
# Kinds whose members have options: the fields of the config that take a name, and its options.
DETAILED = {
    "models": ("config.model.name", "config.model.options"),
    "optimizers": ("config.optim.name", "config.optim.options"),
    "schedules": ("config.optim.schedule.name", "config.optim.schedule.options"),
    "losses": ("config.task.loss", "config.task.loss_options"),
    "tasks": ("config.task.name", "config.task.options"),
    "augmentations": ("config.data.augment.recipe", "config.data.augment.options"),
}
# Options that take a name which another listing shows.
NAMED_BY = {
    "activation": "activations",
    "output_activation": "activations",
    "kernel_init": "initializers",
}


def main(invocation: Invocation) -> int:
    """Prints one line per name, or all about one name."""
    if not invocation.arguments:
        sys.stdout.writelines(f"cnn-lab list {kind}\n" for kind in KINDS)
        return 0
    if len(invocation.arguments) > 2:
        sentence = f"list takes a kind ({', '.join(KINDS)}) and at most one pattern."
        raise ConfigError(sentence, found=invocation.arguments)
    imported_config(invocation)
    kind, *patterns = invocation.arguments
    rows = lookup(KINDS, kind, "kind of thing to list")()
    pattern = patterns[0] if patterns else "*"
    if pattern in rows and kind in DETAILED:
        sys.stdout.write(_details(kind, pattern, rows[pattern]))
        return 0
    matching = {name: text for name, text in rows.items() if fnmatch.fnmatch(name, pattern)}
    if not matching:
        problem = f"No {kind} match {pattern!r}"
        raise ConfigError(problem, found=pattern.strip("*?"), allowed=rows)
    width = max(map(len, matching))
    for name, text in matching.items():
        sys.stdout.write(f"{name:<{width}}  {text}".rstrip() + "\n")
    if kind in DETAILED:
        sys.stdout.flush()
        sys.stderr.write(f"cnn-lab list {kind} NAME shows the options of one.\n")
    return 0


def _details(kind: str, name: str, row: str) -> str:
    """The line of a name, its flag, and every option that its function declares."""
    function, title = named_functions(kind)[name], " ".join(row.split())
    field, options_field = fields_of(kind, name)
    summary = first_line(function)
    lines = [f"{name}: {title}", *([] if summary in title else [summary]), ""]
    lines.append(f"  --{field}={name}")
    options, meanings = declared_options(function), explained(function, "Args")
    meanings = meanings or explained(function, "Attributes")
    if kind == "models":
        from cnn_lab.models.registry import OPTIONS

        meanings = {**OPTIONS, **meanings}
    for option, (annotation, default) in options.items():
        meaning = meanings.get(option, "")
        if option in NAMED_BY:
            listing = f"`cnn-lab list {NAMED_BY[option]}` names them."
            meaning = f"{meaning.rstrip('.')}; {listing}".lstrip("; ")
        lines += entry(f"--{options_field}.{option}", annotation, default, meaning)
    if not options:
        lines.append("  It has no options.")
    return "\n".join(lines) + "\n"


def fields_of(kind: str, name: str) -> tuple[str, str]:
    """The fields of the config that take a name of a kind, and its options."""
    if kind == "augmentations":
        from cnn_lab.data.augment.extra import AUGMENTATIONS, FIELD, OPTIONS

        if name in AUGMENTATIONS:
            return FIELD, f"{OPTIONS}.{name}"
    return DETAILED[kind]


def named_functions(kind: str) -> dict[str, Callable]:
    """The functions of a kind by name; their signatures declare options."""
    match kind:
        case "models":
            from cnn_lab.models.registry import MODELS

            return {name: model.make for name, model in MODELS.items()}
        case "optimizers":
            from cnn_lab.optim.optimizers import OPTIMIZERS

            return {name: optimizer.make for name, optimizer in OPTIMIZERS.items()}
        case "schedules":
            from cnn_lab.optim.schedules import SCHEDULES

            return dict(SCHEDULES)
        case "losses":
            from cnn_lab.tasks.losses import LOSSES

            return {name: loss.function for name, loss in LOSSES.items()}
        case "augmentations":
            from cnn_lab.data.augment.extra import AUGMENTATIONS
            from cnn_lab.data.augment.recipes import RECIPES, Augmentation

            return {**dict.fromkeys(RECIPES, Augmentation), **AUGMENTATIONS}
        case "tasks":
            from cnn_lab.tasks.task import TASKS

            return dict(TASKS)
        case "activations":
            from cnn_lab.layers.factory import ACTIVATIONS

            return dict(ACTIVATIONS)
        case _:
            raise ValueError(f"{kind} are not listed by functions")


def _summaries(kind: str) -> dict[str, str]:
    return {name: first_line(named) for name, named in sorted(named_functions(kind).items())}


def _models() -> dict[str, str]:
    from cnn_lab.models.registry import MODELS

    rows = {}
    for name, model in MODELS.items():
        if not model.is_ours:
            model.verify()
        macs = "?" if model.macs is None else human_count(model.macs)
        shape = "x".join(map(str, model.image_shape))
        rows[name] = (
            f"{model.num_parameters:>12,} parameters  {macs:>9} MACs  {shape:<10}  {model.title}; "
            f"{model.paper}"
        )
    return rows


def _datasets() -> dict[str, str]:
    from cnn_lab.data.datasets.catalog import DATASETS

    named = {
        name: f"{'x'.join(map(str, d.image_shape)):<9}  {d.num_classes:>3} classes  "
        + ", ".join(f"{split} {size:,}" for split, size in d.split_sizes.items())
        + f"  {d.title}"
        for name, d in DATASETS.items()
    }
    return {
        **named,
        "folder:PATH": "your images: one sub-folder of JPEG or PNG files per class",
        "table:FILE": "your images: a CSV file of their paths, and a class or numbers for each",
        "tfds:PATH": "a data set that TFDS prepared as array_record",
        "tfds:NAME": "the same by its name, where it was prepared already",
    }


def _experiments() -> dict[str, str]:
    """Names of the experiments that ship, and paths of those in the current directory."""
    return {
        name if is_shipped(path) else str(path): _title(path)
        for name, path in experiment_files().items()
    }


def _title(path: Path) -> str:
    try:
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    except (OSError, SyntaxError, ValueError) as error:  # it is listed, so that it can be mended
        return f"(cannot be read: {error})"
    return text.partition("\n")[0]


def _recipes() -> dict[str, str]:
    from cnn_lab.data.augment.extra import AUGMENTATIONS
    from cnn_lab.data.augment.recipes import RECIPES

    def changes(augmentation: Any) -> str:
        values = dataclasses.asdict(augmentation).items()
        plain = {field.name: field.default for field in dataclasses.fields(augmentation)}
        return ", ".join(f"{n} {_rounded(v)}" for n, v in values if v != plain[n])

    recipes = {
        name: "; ".join(f"{s}: {changes(a)}" for s, a in strengths.items() if changes(a))
        for name, strengths in RECIPES.items()
    }
    return recipes | {name: f"extra: {first_line(f)}" for name, f in AUGMENTATIONS.items()}


def _rounded(value: Any) -> str:
    if isinstance(value, tuple):
        return " to ".join(map(_rounded, value))
    return f"{value:.3g}" if isinstance(value, float) else flag_text(value)


def _initializers() -> dict[str, str]:
    from cnn_lab.layers.factory import INITIALIZERS

    return {name: meaning for name, (_, meaning) in INITIALIZERS.items()}


KINDS: dict[str, Callable[[], dict[str, str]]] = {
    "models": _models,
    "datasets": _datasets,
    "experiments": _experiments,
    "augmentations": _recipes,
    "initializers": _initializers,
    **{
        kind: functools.partial(_summaries, kind)
        for kind in ("optimizers", "schedules", "losses", "tasks", "activations")
    },
}
