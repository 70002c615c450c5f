"""Activation functions in a deep dense net, and units that die.

cnn-lab study activations

2 CPU cores (Zen 5): 70 trainings in 6 minutes. At the moderate rate all but the sigmoid (0.102)
reach 0.92 to 0.93; at the high one 1.8 % of ReLU's units are dead, ELU diverges from every seed and
leaky ReLU from one of five, so that it cannot be said to be better than ReLU.
"""

from cnn_lab.config import (
    Comparison,
    DataConfig,
    EvaluateConfig,
    ExperimentConfig,
    ModelConfig,
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
        model=ModelConfig(name="mlp", options=options),
        optim=OptimConfig(name="sgd", learning_rate=rate),
        train=TrainConfig(num_epochs=EPOCHS, batch_size=64),
        evaluate=EvaluateConfig(every_epochs=EPOCHS),
    )


def get_study() -> Study:
    return Study(
        title="Activations in a net of five hidden layers",
        question="How accurate is a net with each activation, and how many of its units give 0 for "
        "every unseen image, after training at a moderate and at a high rate?",
        variants=tuple(
            Variant(series=series, x=activation, config=config(activation, rate))
            for series, rate in ((MODERATE, 0.05), (HIGH, 0.25))
            for activation in ACTIVATIONS
        ),
        measures=(ACCURACY, DEAD),
        num_seeds=5,
        panels=(Panel(measure=ACCURACY, kind="points"), Panel(measure=DEAD, kind="points")),
        claims=(
            Comparison(
                text="At the moderate rate ReLU is right on more unseen images than the sigmoid "
                "(by more than 0.3).",
                measure=ACCURACY,
                larger=(MODERATE, "relu"),
                smaller=(MODERATE, "sigmoid"),
                by=0.3,
            ),
            Comparison(
                text="More units of ReLU are dead after the high rate than after the moderate one.",
                measure=DEAD,
                larger=(HIGH, "relu"),
                smaller=(MODERATE, "relu"),
            ),
            Comparison(
                text="At the high rate leaky ReLU is right on more unseen images than ReLU.",
                measure=ACCURACY,
                larger=(HIGH, "leaky_relu"),
                smaller=(HIGH, "relu"),
            ),
        ),
    )
