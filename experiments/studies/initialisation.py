"""Initialisation by depth: what reaches the last layer, and what can be trained?

cnn-lab study initialisation

2 CPU cores (Zen 5): 80 trainings in 6 minutes; of 20 layers He's learn to 0.895, those of standard
deviation 0.01 stay at chance; one of seven claims fails, about two layers.
"""

from cnn_lab.config import (
    Bounds,
    Comparison,
    Computation,
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

DEPTHS = (2, 5, 10, 20)
NETS = {
    "standard deviation 0.01, ReLU": {"kernel_init": "normal", "activation": "relu"},
    "Xavier, ReLU": {"kernel_init": "glorot_normal", "activation": "relu"},
    "He, ReLU": {"kernel_init": "he_normal", "activation": "relu"},
    "Xavier, tanh": {"kernel_init": "glorot_normal", "activation": "tanh"},
}
TRAINED = "training accuracy"


def config(options: dict, depth: int) -> ExperimentConfig:
    return ExperimentConfig(
        data=DataConfig(name="mnist", num_train=5000, num_validation=1000),
        model=ModelConfig(name="mlp", options={**options, "hidden": (100,) * depth}),
        optim=OptimConfig(name="momentum", learning_rate=0.01),
        train=TrainConfig(num_epochs=5, batch_size=64),
        evaluate=EvaluateConfig(every_epochs=5),
    )


def get_study() -> Study:
    return Study(
        title="Initialisation by depth",
        question="How do activations and gradients travel through twenty layers before any "
        "training, and what does that mean for training?",
        variants=tuple(
            Variant(series=name, x=depth, config=config(options, depth))
            for name, options in NETS.items()
            for depth in DEPTHS
        ),
        computations=(Computation(name="signal", options={"depth": 20, "num_seeds": 20}),),
        measures=(TRAINED,),
        num_seeds=5,
        panels=(
            Panel(
                measure="activation",
                x="layer",
                log_y=True,
                title="mean square before training, relative to the first layer",
            ),
            Panel(
                measure="gradient",
                x="layer",
                log_y=True,
                title="mean square before training, relative to the last layer",
            ),
            Panel(measure=TRAINED, x="hidden layers", title="after five epochs"),
        ),
        claims=(
            Bounds(
                text="With He's weights and ReLU the last of 20 layers is as active as the first "
                "(to a factor of two).",
                measure="activation",
                place=("he_normal, relu", 20),
                low=0.5,
                high=2.0,
            ),
            Bounds(
                text="With Xavier's weights ReLU leaves 2^-19 of it, half in every layer (to a "
                "factor of two in all).",
                measure="activation",
                place=("glorot_normal, relu", 20),
                low=2.0**-20,
                high=2.0**-18,
            ),
            Bounds(
                text="Of the gradient that comes back to the first layer there is as little.",
                measure="gradient",
                place=("glorot_normal, relu", 1),
                low=2.0**-20,
                high=2.0**-18,
            ),
            Bounds(
                text="With a standard deviation of 0.01 at most a trillionth of it is left at the "
                "tenth layer.",
                measure="activation",
                place=("normal, relu", 10),
                high=1e-12,
            ),
            Bounds(
                text="Twenty layers can be trained from He's weights: at least 80 % of the "
                "training images are right.",
                measure=TRAINED,
                place=("He, ReLU", 20),
                low=0.8,
            ),
            Bounds(
                text="Twenty layers cannot be trained from a standard deviation of 0.01 at the "
                "same rate: at most 15 % are right, where one class is 11 %.",
                measure=TRAINED,
                place=("standard deviation 0.01, ReLU", 20),
                high=0.15,
            ),
            Comparison(
                text="In two layers a standard deviation of 0.01 is at most 0.05 behind He's "
                "weights.",
                measure=TRAINED,
                larger=("standard deviation 0.01, ReLU", 2),
                smaller=("He, ReLU", 2),
                by=-0.05,
            ),
        ),
    )
