"""Overfitting ten points of a noisy sine by polynomials (Bishop 2006, section 1.1).

cnn-lab study polynomial

2 CPU cores (Zen 5): 9 s beside other work; all claims hold.
"""

from cnn_lab.config import Bounds, Comparison, Computation, Panel, Study


def get_study() -> Study:
    training, test = "least squares, training", "least squares, test"
    error = "error by degree"
    claims = (
        Bounds(
            text="Degree 9 goes through all ten points (to 1e-6).",
            measure=error,
            place=(training, 9),
            high=1e-6,
        ),
        Comparison(
            text="Degree 9 is worse on new points than degree 3.",
            measure=error,
            larger=(test, 9),
            smaller=(test, 3),
        ),
        Comparison(
            text="Degree 1 is worse on new points than degree 3, too.",
            measure=error,
            larger=(test, 1),
            smaller=(test, 3),
        ),
        Comparison(
            text="Degree 9 with a penalty of e^-13 is better on new points than with one of e^-40.",
            measure="error by penalty",
            larger=("ridge, degree 9, test", -40.0),
            smaller=("ridge, degree 9, test", -13.0),
        ),
        Comparison(
            text="A penalty of e^5 is worse on new points than one of e^-13.",
            measure="error by penalty",
            larger=("ridge, degree 9, test", 5.0),
            smaller=("ridge, degree 9, test", -13.0),
        ),
        Comparison(
            text="A penalty of e^-13 shrinks the largest coefficient by more than a million.",
            measure="largest coefficient",
            larger=("least squares", None),
            smaller=("ridge", None),
            by=1e6,
        ),
        Bounds(
            text="Gradient descent finds the coefficients of the closed form, to 1e-6.",
            measure="closed form against descent",
            place=("ridge, degree 9", None),
            high=1e-6,
        ),
        *(
            Bounds(
                text=f"Degree {degree}: the coefficients are the lecture's, to its last digit.",
                measure="distance from the lecture's coefficients",
                place=(f"degree {degree}", None),
                high=1.0,
            )
            for degree in (0, 1, 3, 9)
        ),
    )
    fits = ("sine", "points", "degree 1", "degree 3", "degree 9")
    return Study(
        title="Overfitting: polynomials through ten points",
        question="What happens to the error on new points as a model gets more parameters, and "
        "what does a penalty on the parameters do about it?",
        computations=(Computation(name="polynomial"),),
        panels=(
            Panel(measure="fit", x="x", series=fits, title="least squares"),
            Panel(
                measure="fit", x="x", series=("sine", "points", "degree 9, ridge"), title="ridge"
            ),
            Panel(measure="error by degree", x="degree"),
            Panel(measure="error by penalty", x="ln of the penalty"),
        ),
        claims=claims,
    )
