"""DenseNet-40 with growth 12 (Huang et al. 2016, table 2) on CIFAR-10, without augmentation.

cnn-lab train --config=experiments/cifar10/densenet.py

2 CPU cores (Zen 5), CIFAR-10 (JPEG copy), at depth 22 on 19,200 images for one epoch of 300 steps
(--config.data.name=folder:DIR --config.model.options.depth=22 --config.data.num_train=19200
--config.train.num_epochs=1): 3 minutes at 100 to 125 images/s, training loss from 2.16 to 1.41,
validation accuracy 0.499, n = 1. Depth 40 is for accelerators: 18 images/s here.
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
        data=DataConfig(name="cifar10", image_size=(32, 32), num_validation=5000),
        model=ModelConfig(name="densenet_cifar", options={"depth": 40, "growth": 12}),
        optim=OptimConfig(
            name="momentum",
            learning_rate=0.1,
            l2=1e-4,
            schedule=ScheduleConfig(name="cosine", warmup_steps=200),
        ),
        train=TrainConfig(num_epochs=40, batch_size=64),
    )
