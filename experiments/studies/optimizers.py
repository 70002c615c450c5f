"""Optimizers on one net: how fast does the training loss fall?

cnn-lab study optimizers

2 CPU cores (Zen 5): 72 trainings in 11 minutes; the training loss ends lowest with Muon; three of
five claims hold, two are undecided.
"""

import dataclasses

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

EPOCHS = 10
# The rates in the middle fitted best of 1/9, 1/3 and 1 of them (1/3, 1 and 3 of Adagrad's and
# Muon's) in trainings of the same seeds.
OPTIMIZERS = {
    "SGD": (OptimConfig(name="sgd"), 0.15),
    "momentum": (OptimConfig(name="momentum"), 0.03),
    "Nesterov": (OptimConfig(name="momentum", options={"nesterov": True}), 0.03),
    "Adagrad": (OptimConfig(name="adagrad"), 0.02),
    "RMSProp": (OptimConfig(name="rmsprop"), 3e-3),
    "Adam": (OptimConfig(name="adam"), 6e-3),
    "Lion": (OptimConfig(name="lion"), 1e-3),
    "Muon": (OptimConfig(name="muon"), 0.01),
}
FACTORS = (1 / 3, 1.0, 3.0)
BY_EPOCH, LAST = "training loss by epoch", "training loss"


def config(optim: OptimConfig, rate: float) -> ExperimentConfig:
    schedule = ScheduleConfig(name="cosine")
    return ExperimentConfig(
        data=DataConfig(name="mnist", pad=2, num_train=5000, num_validation=1000),
        model=ModelConfig(name="lenet5", options={"activation": "relu", "pooling": "max"}),
        optim=dataclasses.replace(optim, learning_rate=rate, schedule=schedule),
        train=TrainConfig(num_epochs=EPOCHS, batch_size=64),
        evaluate=EvaluateConfig(every_epochs=EPOCHS),
    )


def get_study() -> Study:
    def at(name: str, epoch: float) -> tuple[str, float]:
        return f"{name} {OPTIMIZERS[name][1]:g}", epoch

    def lower(name: str, than: str, epoch: float) -> Comparison:
        which = "first" if epoch == 1 else "last"
        return Comparison(
            text=f"Over the {which} epoch the training loss is lower with {name} than with {than}.",
            measure=BY_EPOCH,
            larger=at(than, epoch),
            smaller=at(name, epoch),
        )

    return Study(
        title="Optimizers: LeNet-5 on 5,000 images of MNIST",
        question="The same net, images, order of them and number of epochs: which optimizer fits "
        "the training images fastest, each at a good rate, and how much does the rate matter?",
        variants=tuple(
            Variant(series=name, x=rate * factor, config=config(optim, rate * factor))
            for name, (optim, rate) in OPTIMIZERS.items()
            for factor in FACTORS
        ),
        measures=("unseen accuracy", LAST, BY_EPOCH),
        num_seeds=3,
        panels=(
            Panel(
                measure=BY_EPOCH,
                x="epoch",
                log_y=True,
                series=tuple(at(name, 1)[0] for name in OPTIMIZERS),
                title="at the middle rate",
            ),
            Panel(measure=LAST, x="learning rate", log_x=True, log_y=True, title="last epoch"),
            Panel(measure="unseen accuracy", x="learning rate", log_x=True),
        ),
        claims=(
            lower("momentum", "SGD", 1.0),
            lower("Adam", "SGD", 1.0),
            lower("Adam", "momentum", float(EPOCHS)),
            lower("Muon", "Adam", 1.0),
            lower("Nesterov", "momentum", float(EPOCHS)),
        ),
    )
