"""Activation functions in a deep dense net, and units that die.

cnn-lab study activations
"""

from cnn_lab.config import (
    Bounds,
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

ACTIVATIONS = ("sigmoid", "tanh", "relu", "leaky_relu", "elu", "gelu", "silu")
MODERATE, HIGH, EPOCHS = "rate 0.05", "rate 0.25", 10
ACCURACY, DEAD = "unseen accuracy", "dead units"


def config(activation: str, rate: float) -> ExperimentConfig:
    init = "he_normal" if "relu" in activation else "glorot_normal"
    options = {"hidden": (100,) * 5, "activation": activation, "kernel_init": init}
    return ExperimentConfig(
        data=DataConfig(name="mnist", num_train=5000, num_validation=1000),
        model=ModelSpec(name="mlp", options=options),
        optim=OptimConfig(name="sgd", learning_rate=rate),
        train=TrainConfig(num_epochs=EPOCHS, batch_size=64),
        evaluate=EvaluateConfig(every_epochs=EPOCHS),
    )


def get_study() -> Study:
    return Study(
        title="Activations in a net of five hidden layers",
        question="Which activations can be trained, and how many units are silent for every unseen "
        "image after training at a moderate and at a high rate?",
        variants=tuple(
            Variant(series=series, x=activation, config=config(activation, rate))
            for series, rate in ((MODERATE, 0.05), (HIGH, 0.25))
            for activation in ACTIVATIONS
        ),
        measures=(ACCURACY, DEAD),
        num_seeds=5,
        panels=(Panel(measure=ACCURACY, kind="bars"), Panel(measure=DEAD, kind="bars")),
        claims=(
            Comparison(
                text="Five layers of sigmoids are hardly trained where ReLU is (by 0.3).",
                measure=ACCURACY,
                larger=(MODERATE, "relu"),
                smaller=(MODERATE, "sigmoid"),
                by=0.3,
            ),
            Comparison(
                text="A high rate kills units of ReLU.",
                measure=DEAD,
                larger=(HIGH, "relu"),
                smaller=(MODERATE, "relu"),
            ),
            Bounds(
                text="Units of leaky ReLU do not die, even at the high rate.",
                measure=DEAD,
                place=(HIGH, "leaky_relu"),
                high=0.0,
            ),
        ),
    )
