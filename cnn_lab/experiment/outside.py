"""The rule for code from outside the package: whatever a config names is in its imports.

Else the run would train, and no later command would know its model or its loss. The cells of a
notebook are the exception, in which there is no module yet: the run is marked, so that another
session or a command can tell what it lacks.
"""

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cnn_lab
from cnn_lab.config import NO_DATA, ExperimentConfig
from cnn_lab.config.imports import FIELD, SESSION, UNIMPORTABLE, digests_of, files_of
from cnn_lab.core.errors import ConfigError
from cnn_lab.data.augment.extra import AUGMENTATIONS
from cnn_lab.data.datasets.description import DATASETS, module_of
from cnn_lab.models.registry import MODELS
from cnn_lab.optim.optimizers import OPTIMIZERS
from cnn_lab.optim.schedules import SCHEDULES
from cnn_lab.tasks.losses import LOSSES
from cnn_lab.tasks.task import TASKS
from cnn_lab.workdir.run_dir import read_record

REMEDY = f"put it in a module, such as my_layers.py, and name that in {FIELD}"


@dataclasses.dataclass(frozen=True)
class _Named:
    """A name in a config: its field, the kind of the thing, and the module that registered it.

    `module` is None for what no module registered; `is_known` says whether it is there at all.
    """

    field: str
    kind: str
    name: str
    module: str | None
    is_known: bool


def check_outside(config: ExperimentConfig) -> None:
    """Refuses names that nothing in `config.imports` registers; all of them are known here.

    What the cells of an interactive session registered may be trained with (`session_parts`).

    Raises:
        ConfigError: something that a config names was registered by the experiment file or a script
            itself, or by a module that is not in its imports.
    """
    for part in _named(config):
        field, module = part.field, part.module
        packages = (cnn_lab.__name__, *config.imports)
        if module is None or any(f"{module}.".startswith(f"{package}.") for package in packages):
            continue
        file = getattr(sys.modules.get(module), "__file__", None)
        if module == SESSION and file is None:
            continue
        problem = f"{field} is {part.name!r}, a {part.kind} of "
        if module in UNIMPORTABLE:
            problem += (
                f"{file or 'this session'} itself, so that no later command would know it: "
                f"{REMEDY}, as by imports=('my_layers',)."
            )
        else:
            problem += (
                f"the module {module}, so that no later command would know it: name the module in "
                f"{FIELD}, as by imports=({module!r},)."
            )
        raise ConfigError(problem, where=field, found=part.name)


def session_parts(config: ExperimentConfig) -> str:
    """The parts that a config names and this interactive session registered, in words; or empty."""
    parts = [f"{part.kind} {part.name!r}" for part in _named(config) if part.module == SESSION]
    return ", ".join(parts)


def imported_code(config: ExperimentConfig) -> dict[str, Any]:
    """Values of run.json: the file of each module in the imports, and the digest of its code.

    A session's own parts have neither: they stand as a module without a file.
    """
    session = {SESSION: None} if session_parts(config) else {}
    return {
        "imports": files_of(config.imports) | session,
        "import_digests": digests_of(config.imports),
    }


def check_registered(config: ExperimentConfig, run: Path) -> None:
    """Refuses the config of a run that needs what the session that trained it registered.

    Raises:
        ConfigError: a name that this process does not know, of a run that a session's cells belong
            to.
    """
    if SESSION not in (read_record(run).get("imports") or {}):
        return
    for part in _named(config):
        if not part.is_known:
            raise ConfigError(
                f"{part.field} is {part.name!r}, a {part.kind} that was registered in the session "
                f"that trained {run}, which is in no module: run its cell here first; for "
                f"commands, {REMEDY}.",
                where=part.field,
                found=part.name,
            )


def _named(config: ExperimentConfig) -> Iterator[_Named]:
    """Everything that a config names and a module registers."""
    task, optim, schedule = config.task, config.optim, config.optim.schedule
    for field, kind, name, registry in (
        ("config.model.name", "model", config.model.name, MODELS),
        ("config.task.name", "task", task.name, TASKS),
        ("config.task.loss", "loss", task.loss, LOSSES),
        ("config.optim.name", "optimizer", optim.name, OPTIMIZERS),
        ("config.optim.schedule.name", "schedule", schedule.name, SCHEDULES),
        *(
            ("config.data.augment.extra", "augmentation", name, AUGMENTATIONS)
            for name in config.data.augment.extra
        ),
    ):
        if name is not None:
            yield _Named(field, kind, name, registry.module_of(name), name in registry)
    data = config.data.name
    # Others name files, or arrays, and nothing that is registered.
    is_known = data in DATASETS or ":" in data or data == NO_DATA
    yield _Named("config.data.name", "data set", data, module_of(data), is_known)
