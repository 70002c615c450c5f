"""Plain against residual nets by depth, at a size for two CPU cores.

cnn-lab study depth

The whole recipe of He et al. 2015 is experiments/cifar10/resnet20.py; for accelerators:
--config.model.name=plain56 or resnet56 there.

2 CPU cores (Zen 5), beside other work: 24 trainings in 30 minutes; from 20 to 56 layers the plain
nets' training loss rises from 0.17 to 1.42, that of residual ones falls from 0.057 to 0.043; three
of four claims hold, one is undecided.
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

DEPTHS, EPOCHS, MEASURE = (20, 32, 44, 56), 8, "training loss"


def config(name: str) -> ExperimentConfig:
    return ExperimentConfig(
        data=DataConfig(name="mnist", image_size=(16, 16), num_train=3200, num_validation=1000),
        model=ModelConfig(name=name, options={"width": 4}),
        optim=OptimConfig(
            name="momentum",
            learning_rate=0.05,
            l2=1e-4,
            schedule=ScheduleConfig(name="cosine", warmup_epochs=1.0),
        ),
        train=TrainConfig(num_epochs=EPOCHS, batch_size=64),
        evaluate=EvaluateConfig(every_epochs=EPOCHS),
    )


def get_study() -> Study:
    def lower(name: str, depth: int, than: str, other: int) -> Comparison:
        return Comparison(
            text=f"Over the last epoch the {name} net of {depth} layers has a lower training loss "
            f"than the {than} one of {other}.",
            measure=MEASURE,
            larger=(than, other),
            smaller=(name, depth),
        )

    return Study(
        title="Depth: plain against residual nets (width 4, 16-pixel digits)",
        question="He et al. 2015: deeper plain nets fit their training images worse, residual ones "
        "do not. Does it show in nets so thin, on so easy images, after so few epochs?",
        variants=tuple(
            Variant(series=series, x=depth, config=config(f"{family}{depth}"))
            for series, family in (("plain", "plain"), ("residual", "resnet"))
            for depth in DEPTHS
        ),
        measures=(MEASURE, "unseen accuracy"),
        num_seeds=3,
        panels=(
            Panel(measure=MEASURE, x="layers", log_y=True),
            Panel(measure="unseen accuracy", x="layers"),
        ),
        claims=(
            lower("plain", 20, "plain", 56),
            lower("residual", 20, "plain", 20),
            lower("residual", 56, "plain", 56),
            lower("residual", 56, "residual", 20),
        ),
    )
