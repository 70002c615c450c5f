"""XOR by a perceptron and by a multi-layer perceptron.

cnn-lab study xor

2 CPU cores (Zen 5): 12 s with compiling beside other work; all claims hold.
"""

from cnn_lab.config import Bounds, Computation, Panel, Study

NUM_SEEDS = 20
ONE, DEEP, LEARNED = "perceptron", "multi-layer perceptron", "share that learn it"


def get_study() -> Study:
    return Study(
        title="XOR is out of a perceptron's reach",
        question=f"Four inputs, three functions, {NUM_SEEDS} initialisations: what do a perceptron "
        "(one threshold unit a class) and a net with one hidden layer of four units learn? Where "
        "both outputs are equal the answer is a guess, which counts as half right.",
        computations=(Computation(name="xor", options={"num_seeds": NUM_SEEDS}),),
        panels=(Panel(measure="accuracy", kind="points"), Panel(measure=LEARNED, kind="points")),
        claims=(
            *(
                Bounds(
                    text=f"A perceptron learns {name.upper()} from every initialisation.",
                    measure=LEARNED,
                    place=(ONE, name),
                    low=1.0,
                )
                for name in ("and", "or")
            ),
            Bounds(
                text="A perceptron never learns XOR: from no initialisation are more than three "
                "inputs of four right.",
                measure="highest accuracy",
                place=(ONE, "xor"),
                high=0.75,
            ),
            Bounds(
                text="A net with one hidden layer learns XOR from at least nine initialisations of "
                "ten.",
                measure=LEARNED,
                place=(DEEP, "xor"),
                low=0.9,
            ),
        ),
    )
