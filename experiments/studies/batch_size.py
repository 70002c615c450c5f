"""Batch size and generalisation, at one rate and at a rate in proportion.

cnn-lab study batch_size
"""

from cnn_lab.config import (
    Comparison,
    DataConfig,
    EvaluateConfig,
    ExperimentConfig,
    ModelSpec,
    OptimConfig,
    Panel,
    Study,
    TrainConfig,
    Variant,
)

SIZES, EPOCHS = (16, 64, 256, 1024), 20
SAME, SCALED = "rate 0.01", "rate in proportion"
MEASURE = "unseen accuracy"


def config(batch_size: int, rate: float) -> ExperimentConfig:
    return ExperimentConfig(
        data=DataConfig(name="mnist", pad=2, num_train=4096, num_validation=1000),
        model=ModelSpec(name="lenet5", options={"activation": "relu", "pooling": "max"}),
        optim=OptimConfig(name="momentum", learning_rate=rate),
        train=TrainConfig(num_epochs=EPOCHS, batch_size=batch_size),
        evaluate=EvaluateConfig(every_epochs=EPOCHS),
    )


def get_study() -> Study:
    return Study(
        title="Batch size: LeNet-5 on 4,096 images of MNIST",
        question="Twenty epochs with 16 to 1,024 images a step: are large batches worse on unseen "
        "images, and does a rate that grows with the batch (Goyal et al. 2017) mend it?",
        variants=(
            *(Variant(series=SAME, x=n, config=config(n, 0.01)) for n in SIZES),
            *(Variant(series=SCALED, x=n, config=config(n, 0.01 * n / 64)) for n in SIZES),
        ),
        measures=(MEASURE, "training loss"),
        num_seeds=5,
        panels=(
            Panel(measure=MEASURE, x="images a step", log_x=True),
            Panel(measure="training loss", x="images a step", log_x=True, log_y=True),
        ),
        claims=(
            Comparison(
                text="At one rate, 1,024 images a step are worse than 16.",
                measure=MEASURE,
                larger=(SAME, 16),
                smaller=(SAME, 1024),
            ),
            Comparison(
                text="A rate in proportion is better for 1,024 images a step.",
                measure=MEASURE,
                larger=(SCALED, 1024),
                smaller=(SAME, 1024),
            ),
            Comparison(
                text="With it, 256 images a step are as good as 64, to half a point.",
                measure=MEASURE,
                larger=(SCALED, 256),
                smaller=(SCALED, 64),
                by=-0.005,
            ),
        ),
    )
