"""The rule for code from outside the package: whatever a config names is in its imports.

Else the run would train, and no later command would know its model or its loss.
"""

import sys
from collections.abc import Iterator

import cnn_lab
from cnn_lab.config import ExperimentConfig
from cnn_lab.config.imports import FIELD, UNIMPORTABLE
from cnn_lab.core.errors import ConfigError
from cnn_lab.data.augment.extra import AUGMENTATIONS
from cnn_lab.data.datasets.description import module_of
from cnn_lab.models.registry import MODELS
from cnn_lab.optim.optimizers import OPTIMIZERS
from cnn_lab.optim.schedules import SCHEDULES
from cnn_lab.tasks.losses import LOSSES
from cnn_lab.tasks.task import TASKS


def check_outside(config: ExperimentConfig) -> None:
    """Refuses names that nothing in `config.imports` registers; all of them are known here.

    Raises:
        ConfigError: something that a config names was registered by the experiment file itself, by
            a notebook, or by a module that is not in its imports.
    """
    for field, kind, name, module in _named(config):
        packages = (cnn_lab.__name__, *config.imports)
        if module is None or any(f"{module}.".startswith(f"{package}.") for package in packages):
            continue
        problem = f"{field} is {name!r}, a {kind} of "
        if module in UNIMPORTABLE:
            file = getattr(sys.modules.get(module), "__file__", None) or "this session"
            problem += (
                f"{file} itself, so that no later command would know it: put it in a module, such "
                f"as my_layers.py, and name that in {FIELD}, as by imports=('my_layers',)."
            )
        else:
            problem += (
                f"the module {module}, so that no later command would know it: name the module in "
                f"{FIELD}, as by imports=({module!r},)."
            )
        raise ConfigError(problem, where=field, found=name)


def _named(config: ExperimentConfig) -> Iterator[tuple[str, str, str, str | None]]:
    """Field, kind, name and module of everything that a config names and a module registers."""
    task, optim, schedule = config.task, config.optim, config.optim.schedule
    yield "config.model.name", "model", config.model.name, MODELS.module_of(config.model.name)
    yield "config.task.name", "task", task.name, TASKS.module_of(task.name)
    if task.loss is not None:
        yield "config.task.loss", "loss", task.loss, LOSSES.module_of(task.loss)
    yield "config.optim.name", "optimizer", optim.name, OPTIMIZERS.module_of(optim.name)
    where = "config.optim.schedule.name"
    yield where, "schedule", schedule.name, SCHEDULES.module_of(schedule.name)
    for name in config.data.augment.extra:
        yield "config.data.augment.extra", "augmentation", name, AUGMENTATIONS.module_of(name)
    yield "config.data.name", "data set", config.data.name, module_of(config.data.name)
