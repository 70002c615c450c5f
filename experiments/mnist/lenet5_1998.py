"""LeNet-5 as of 1998 on MNIST: tanh, average pooling, no dropout, plain data.

cnn-lab train --config=experiments/mnist/lenet5_1998.py

2 CPU cores (Zen 5): 20 epochs in 95 s beside other work (95 to 149 s seen).
Test error 0.82 % (0.75 to 0.89 %, 5 seeds).
With distortions, as the paper has them too: --config=experiments/mnist/lenet5_1998.py:distorted
30 epochs in 110 s; test error 0.50 % (0.47 to 0.55 %, 5 seeds).
"""

from cnn_lab.config import (
    AugmentConfig,
    DataConfig,
    ExperimentConfig,
    ModelConfig,
    OptimConfig,
    ScheduleConfig,
    TrainConfig,
)


def get_config(data: str = "") -> ExperimentConfig:
    if data not in ("", "distorted"):
        raise ValueError(f"the argument must be 'distorted' or left out; found {data!r}")
    augment = AugmentConfig(strength="light" if data else "none")
    return ExperimentConfig(
        data=DataConfig(name="mnist", pad=2, num_validation=5000, augment=augment),
        model=ModelConfig(name="lenet5", options={"activation": "tanh", "pooling": "average"}),
        optim=OptimConfig(
            name="momentum", learning_rate=0.1, l2=1e-4, schedule=ScheduleConfig(name="cosine")
        ),
        train=TrainConfig(num_epochs=30 if data else 20, batch_size=128),
    )
