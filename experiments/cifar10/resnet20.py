"""ResNet-20 (He et al. 2015, section 4.2) on CIFAR-10, by the recipe of the paper.

cnn-lab train --config=experiments/cifar10/resnet20.py

64,064 updates of 128 images (45,000 for training), the rate divided by ten after a half and
three quarters, decay 1e-4, flips and shifts of 4 pixels. The paper's test error is 8.75 %.
Differs from the paper: what a shift lays bare is black, not the mean, and only kernels decay.
Has not been run to its end. Shortened by --config.train.num_epochs=16, to 5,632 updates, on
CIFAR-10 (JPEG copy) and 2 CPU cores (Zen 5), 3 to 5 minutes an epoch: best validation accuracy
0.826, test error 17.75 % (16.9 to 18.5 %, 95 % over the images), n = 1.
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


def get_config() -> ExperimentConfig:
    return ExperimentConfig(
        data=DataConfig(
            name="cifar10",
            image_size=(32, 32),
            num_validation=5000,
            augment=AugmentConfig(recipe="cifar", strength="light"),
        ),
        model=ModelConfig(name="resnet20"),
        optim=OptimConfig(
            name="momentum",
            learning_rate=0.1,
            l2=1e-4,
            schedule=ScheduleConfig(name="step"),
        ),
        train=TrainConfig(num_epochs=182, batch_size=128),
    )
