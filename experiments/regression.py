"""Numbers from images: a small network on a table of image files and the numbers of each.

cnn-lab train --config=experiments/regression.py:angles.csv

The argument is a CSV file with a column `path` and columns of numbers (docs/regression.md), by
default `images.csv`.
"""

from cnn_lab.config import (
    DataConfig,
    ExperimentConfig,
    ModelConfig,
    OptimConfig,
    ScheduleConfig,
    TaskConfig,
    TrainConfig,
)


def get_config(table: str = "images.csv") -> ExperimentConfig:
    return ExperimentConfig(
        data=DataConfig(name=f"table:{table}", image_size=(32, 32), channels=1),
        model=ModelConfig(name="resnet20"),
        task=TaskConfig(name="regression", loss="huber"),
        optim=OptimConfig(
            name="adamw",
            learning_rate=2e-3,
            options={"weight_decay": 0.05},
            schedule=ScheduleConfig(name="cosine", warmup_epochs=1),
        ),
        train=TrainConfig(num_epochs=15, batch_size=64),
    )
