"""Strength of augmentation, by the number of training images.

cnn-lab study augmentation

2 CPU cores (Zen 5): 45 trainings in 25 minutes; light augmentation is 11.4 points better on 100
images and 0.7 on 10,000, where heavy is 0.2 worse than light; six of seven claims hold.
"""

from cnn_lab.config import (
    AugmentConfig,
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

SIZES = (100, 300, 1000, 3000, 10000)
STRENGTHS = ("none", "light", "heavy")
STEPS, BATCH, MEASURE = 4000, 50, "unseen accuracy"


def config(strength, num_train: int) -> ExperimentConfig:
    num_epochs = STEPS * BATCH // num_train  # as many updates for all
    return ExperimentConfig(
        data=DataConfig(
            name="mnist",
            pad=2,
            num_train=num_train,
            num_validation=1000,
            augment=AugmentConfig(strength=strength),
        ),
        model=ModelConfig(name="lenet5", options={"activation": "relu", "pooling": "max"}),
        optim=OptimConfig(name="adamw", learning_rate=2e-3, schedule=ScheduleConfig(name="cosine")),
        train=TrainConfig(num_epochs=num_epochs, batch_size=BATCH),
        evaluate=EvaluateConfig(every_epochs=num_epochs),
    )


def get_study() -> Study:
    def better(strength: str, than: str, size: int) -> Comparison:
        return Comparison(
            text=f"With {size:,} training images, {strength} augmentation gives a higher accuracy "
            f"on unseen ones than {than}.",
            measure=MEASURE,
            larger=(strength, size),
            smaller=(than, size),
        )

    return Study(
        title="Strength of augmentation on MNIST",
        question="4,000 updates of LeNet-5 from 100 to 10,000 digits, which are turned, scaled, "
        "slanted, moved and bent a little, more, or not at all: how many unseen ones are right?",
        variants=tuple(
            Variant(series=strength, x=size, config=config(strength, size))
            for strength in STRENGTHS
            for size in SIZES
        ),
        measures=(MEASURE,),
        num_seeds=3,
        panels=(Panel(measure=MEASURE, x="training images", log_x=True),),
        claims=(
            *(better("light", "none", size) for size in SIZES),
            better("heavy", "light", 100),
            better("heavy", "light", 10000),
        ),
    )
