"""LeNet-5 as of 1998 on MNIST: tanh, average pooling, no dropout, plain data.

cnn-lab train --config=experiments/mnist/lenet5_1998.py

2 CPU cores (Zen 5): 20 epochs in 95 s beside other work (95 to 149 s seen).
Test error 0.82 % (0.75 to 0.89 %, 5 seeds).
"""

from cnn_lab.config import (
    DataConfig,
    ExperimentConfig,
    ModelSpec,
    OptimConfig,
    ScheduleConfig,
    TrainConfig,
)


def get_config() -> ExperimentConfig:
    return ExperimentConfig(
        data=DataConfig(name="mnist", pad=2, num_validation=5000),
        model=ModelSpec(name="lenet5", options={"activation": "tanh", "pooling": "average"}),
        optim=OptimConfig(
            name="momentum", learning_rate=0.1, l2=1e-4, schedule=ScheduleConfig(name="cosine")
        ),
        train=TrainConfig(num_epochs=20, batch_size=128),
    )
