"""Experiments and studies as typed dataclasses.

An experiment file defines `get_config()` (or `get_config(argument)`) and returns an
`ExperimentConfig`; every field can be overridden by `--config.a.b=value`. Durations carry their
unit in the name. A field marked `runtime()` concerns where or how fast a run happens, not what it
computes, so it may differ when a run is resumed. Only the standard library is used here.
"""

from cnn_lab.config.data import NO_DATA, AugmentConfig, DataConfig
from cnn_lab.config.experiment import (
    CheckpointConfig,
    EarlyStoppingConfig,
    EvaluateConfig,
    ExperimentConfig,
    LogConfig,
    MeshConfig,
    SelectionConfig,
    TrainConfig,
)
from cnn_lab.config.learning import (
    AverageConfig,
    ModelConfig,
    OptimConfig,
    ScheduleConfig,
    TaskConfig,
    TransferConfig,
)
from cnn_lab.config.study import Bounds, Comparison, Computation, Panel, Place, Study, Variant

__all__ = [
    "NO_DATA",
    "AugmentConfig",
    "AverageConfig",
    "Bounds",
    "CheckpointConfig",
    "Comparison",
    "Computation",
    "DataConfig",
    "EarlyStoppingConfig",
    "EvaluateConfig",
    "ExperimentConfig",
    "LogConfig",
    "MeshConfig",
    "ModelConfig",
    "OptimConfig",
    "Panel",
    "Place",
    "ScheduleConfig",
    "SelectionConfig",
    "Study",
    "TaskConfig",
    "TrainConfig",
    "TransferConfig",
    "Variant",
]
