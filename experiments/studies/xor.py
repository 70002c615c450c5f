"""XOR by a perceptron and by a multi-layer perceptron.

cnn-lab study xor

2 CPU cores (Zen 5): 12 s with compiling beside other work; all four claims hold.
"""

from cnn_lab.config import Bounds, Computation, Panel, Study


def get_study() -> Study:
    claims = [
        Bounds(
            text=f"A perceptron learns {name.upper()}.",
            measure="accuracy",
            place=("perceptron", name),
            low=1.0,
        )
        for name in ("and", "or")
    ]
    return Study(
        title="XOR is out of a perceptron's reach",
        question="Four inputs, three functions, 20 initialisations: what do a perceptron and a net "
        "with one hidden layer of four units learn?",
        computations=(Computation(name="xor"),),
        panels=(Panel(measure="accuracy", kind="bars"),),
        claims=(
            *claims,
            Bounds(
                text="A perceptron never learns XOR: at most three inputs of four come out right.",
                measure="accuracy",
                place=("perceptron", "xor"),
                high=0.75,
            ),
            Bounds(
                text="A net with one hidden layer learns XOR from nearly every initialisation.",
                measure="accuracy",
                place=("multi-layer perceptron", "xor"),
                low=0.9,
            ),
        ),
    )
