"""cnn_lab: a functional JAX/Flax research codebase for convolutional networks.

The names below are the public Python API, each imported when it is first used:

    import cnn_lab

    data = cnn_lab.from_arrays(images, labels)
    run = cnn_lab.train(cnn_lab.ExperimentConfig(), data)
    run.predict(images).names
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cnn_lab.config import ExperimentConfig
    from cnn_lab.data.datasets.arrays import from_arrays
    from cnn_lab.data.datasets.catalog import open_dataset as load_dataset
    from cnn_lab.models.create import create_model, feature_maps, init_variables, list_models
    from cnn_lab.runs.run import Run, import_weights, load_run, train
    from cnn_lab.tasks.task import create_task
    from cnn_lab.training.state import init_state
    from cnn_lab.training.step import make_train_step

__all__ = [
    "ExperimentConfig",
    "Run",
    "create_model",
    "create_task",
    "feature_maps",
    "from_arrays",
    "import_weights",
    "init_state",
    "init_variables",
    "list_models",
    "load_dataset",
    "load_run",
    "make_train_step",
    "train",
]

_PLACES = {
    "ExperimentConfig": "cnn_lab.config",
    "Run": "cnn_lab.runs.run",
    "create_model": "cnn_lab.models.create",
    "create_task": "cnn_lab.tasks.task",
    "feature_maps": "cnn_lab.models.create",
    "from_arrays": "cnn_lab.data.datasets.arrays",
    "import_weights": "cnn_lab.runs.run",
    "init_state": "cnn_lab.training.state",
    "init_variables": "cnn_lab.models.create",
    "list_models": "cnn_lab.models.create",
    "load_dataset": "cnn_lab.data.datasets.catalog:open_dataset",
    "load_run": "cnn_lab.runs.run",
    "make_train_step": "cnn_lab.training.step",
    "train": "cnn_lab.runs.run",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'cnn_lab' has no attribute {name!r}")
    module, _, attribute = _PLACES[name].partition(":")
    found = getattr(importlib.import_module(module), attribute or name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return [*__all__]
