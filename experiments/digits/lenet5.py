"""LeNet-5 on scikit-learn's 8x8 digits: the experiment that needs no download.

cnn-lab train --config=experiments/digits/lenet5.py

2 CPU cores (Zen 5): 30 epochs in 4 to 5 s. Best validation accuracy 98.8 % (3 seeds: 98.95,
98.95, 98.61).
"""

from cnn_lab.config import (
    DataConfig,
    ExperimentConfig,
    ModelConfig,
    OptimConfig,
    ScheduleConfig,
    TrainConfig,
)


def get_config() -> ExperimentConfig:
    return ExperimentConfig(
        data=DataConfig(name="digits", image_size=(32, 32), validation_fraction=0.2),
        model=ModelConfig(
            name="lenet5",
            options={"activation": "relu", "pooling": "max", "dropout_rates": (0.0, 0.3, 0.3)},
        ),
        optim=OptimConfig(
            name="adamw",
            learning_rate=2e-3,
            options={"weight_decay": 0.2},
            schedule=ScheduleConfig(name="cosine", warmup_steps=20),
        ),
        train=TrainConfig(num_epochs=30, batch_size=64),
    )
