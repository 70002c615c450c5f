"""Optimizers on one net: how fast does the training loss fall?

cnn-lab study optimizers
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

EPOCHS = 10
# Rates near the steepest fall that `cnn-lab lr-find` shows for this net.
OPTIMIZERS = {
    "SGD": OptimConfig(name="sgd", learning_rate=0.1),
    "momentum": OptimConfig(name="momentum", learning_rate=0.02),
    "Nesterov": OptimConfig(name="momentum", learning_rate=0.02, options={"nesterov": True}),
    "Adagrad": OptimConfig(name="adagrad", learning_rate=0.02),
    "RMSProp": OptimConfig(name="rmsprop", learning_rate=1e-3),
    "Adam": OptimConfig(name="adam", learning_rate=2e-3),
    "Lion": OptimConfig(name="lion", learning_rate=3e-4),
    "Muon": OptimConfig(name="muon", learning_rate=0.02),
}
MEASURE = "training loss by epoch"


def config(optim: OptimConfig) -> ExperimentConfig:
    return ExperimentConfig(
        data=DataConfig(name="mnist", pad=2, num_train=5000, num_validation=1000),
        model=ModelSpec(name="lenet5", options={"activation": "relu", "pooling": "max"}),
        optim=optim,
        train=TrainConfig(num_epochs=EPOCHS, batch_size=64),
        evaluate=EvaluateConfig(every_epochs=EPOCHS),
    )


def get_study() -> Study:
    def lower(name: str, than: str, epoch: float) -> Comparison:
        return Comparison(
            text=f"After {epoch:g} epochs the loss is lower with {name} than with {than}.",
            measure=MEASURE,
            larger=(than, epoch),
            smaller=(name, epoch),
        )

    return Study(
        title="Optimizers: LeNet-5 on 5,000 images of MNIST",
        question="The same net, order of examples and number of epochs: which optimizer fits the "
        "training images fastest, each at a rate near the steepest fall of its range test?",
        variants=tuple(Variant(series=n, config=config(o)) for n, o in OPTIMIZERS.items()),
        measures=("unseen accuracy", MEASURE),
        num_seeds=3,
        panels=(
            Panel(measure=MEASURE, x="epoch", log_y=True),
            Panel(measure="unseen accuracy", kind="bars"),
        ),
        claims=(
            lower("momentum", "SGD", 1.0),
            lower("Adam", "SGD", 1.0),
            lower("Adam", "momentum", float(EPOCHS)),
            lower("Muon", "Adam", 1.0),
            lower("Nesterov", "momentum", float(EPOCHS)),
        ),
    )
