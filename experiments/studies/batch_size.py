"""Batch size and generalisation, at one rate and at rates that grow with the batch.

cnn-lab study batch_size

2 CPU cores (Zen 5): 55 trainings in 11 minutes. At one rate 1,024 images a step are 3.8 points
worse than 16; a rate in proportion serves up to 256 and breaks the training at 1,024; of one by the
square root no difference was seen there.
"""

from cnn_lab.config import (
    Comparison,
    DataConfig,
    EvaluateConfig,
    ExperimentConfig,
    ModelConfig,
    OptimConfig,
    Panel,
    ScheduleConfig,
    Study,
    TrainConfig,
    Variant,
)

SIZES, EPOCHS = (16, 64, 256, 1024), 20
SAME, LINEAR, ROOT = "rate 0.01", "in proportion, warmed up", "by the square root, warmed up"
MEASURE = "unseen accuracy"


def config(batch_size: int, rate: float, warmup_epochs: float = 0.0) -> ExperimentConfig:
    return ExperimentConfig(
        data=DataConfig(name="mnist", pad=2, num_train=4096, num_validation=1000),
        model=ModelConfig(name="lenet5", options={"activation": "relu", "pooling": "max"}),
        optim=OptimConfig(
            name="momentum",
            learning_rate=rate,
            schedule=ScheduleConfig(warmup_epochs=warmup_epochs),
        ),
        train=TrainConfig(num_epochs=EPOCHS, batch_size=batch_size),
        evaluate=EvaluateConfig(every_epochs=EPOCHS),
    )


def get_study() -> Study:
    return Study(
        title="Batch size: LeNet-5 on 4,096 images of MNIST",
        question="Twenty epochs with 16 to 1,024 images a step: are large batches worse on unseen "
        "images, and does a rate that grows with the batch (in proportion: Goyal et al. 2017, "
        "arXiv:1706.02677; by its square root: Hoffer et al. 2017, arXiv:1705.08741), reached over "
        "four epochs, mend it?",
        variants=(
            *(Variant(series=SAME, x=n, config=config(n, 0.01)) for n in SIZES),
            *(Variant(series=LINEAR, x=n, config=config(n, 0.01 * n / 64, 4.0)) for n in SIZES),
            *(
                Variant(series=ROOT, x=n, config=config(n, 0.01 * (n / 64) ** 0.5, 4.0))
                for n in SIZES
            ),
        ),
        measures=(MEASURE, "training loss"),
        num_seeds=5,
        panels=(
            Panel(measure=MEASURE, x="images a step", log_x=True),
            Panel(measure="training loss", x="images a step", log_x=True, log_y=True),
        ),
        claims=(
            Comparison(
                text="At one rate, 1,024 images a step are worse on unseen images than 16.",
                measure=MEASURE,
                larger=(SAME, 16),
                smaller=(SAME, 1024),
            ),
            Comparison(
                text="At 1,024 images a step a rate in proportion is better than 0.01.",
                measure=MEASURE,
                larger=(LINEAR, 1024),
                smaller=(SAME, 1024),
            ),
            Comparison(
                text="At rates in proportion, 256 images a step are at most half a point worse "
                "than 64.",
                measure=MEASURE,
                larger=(LINEAR, 256),
                smaller=(LINEAR, 64),
                by=-0.005,
            ),
            Comparison(
                text="At 1,024 images a step a rate by the square root is better than 0.01.",
                measure=MEASURE,
                larger=(ROOT, 1024),
                smaller=(SAME, 1024),
            ),
        ),
    )
