"""Linear probes: an output layer fitted by scikit-learn's logistic regression with L2 penalty."""

import dataclasses
import warnings
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

# Inverse strengths of the penalty, weakest last (`C` of scikit-learn), for standardised features.
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
MAX_ITERATIONS = 1000
ROUNDING = 1e-6  # of a float32 feature, as a share of its size
ABSENT_CLASS_LOGIT = -30.0  # of a class without an example


@dataclasses.dataclass(frozen=True)
class Output:
    """A fitted output layer, and whether its optimum was reached."""

    kernel: Float[np.ndarray, "d k"]
    bias: Float[np.ndarray, " k"]
    converged: bool


def fit_output(
    features: Float[np.ndarray, "n d"],
    labels: Int[np.ndarray, " n"],
    num_classes: int,
    strength: float,
    class_weights: Sequence[float] | None = None,
) -> Output:
    """The layer of the lowest mean cross-entropy plus penalty.

    The features are standardised, so that the penalty weighs on all alike; the layer takes them as
    they are. A class without an example gets a logit far below the others.

    Args:
        labels: at least two different ones, in [0, num_classes).
        strength: inverse strength of the penalty, positive.
        class_weights: factors of the losses of each class.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    values = features.astype(np.float64)
    mean, deviation = values.mean(axis=0), values.std(axis=0)
    # A feature that is constant up to rounding, as of a saturated unit, carries no information.
    varies = deviation > ROUNDING * np.abs(values).max(axis=0)
    deviation = np.where(varies, deviation, np.inf)
    weights = None if class_weights is None else np.asarray(class_weights)[labels]
    model = LogisticRegression(C=strength, max_iter=MAX_ITERATIONS)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        model.fit((values - mean) / deviation, labels, weights)
    converged = not any(issubclass(w.category, ConvergenceWarning) for w in caught)
    rows, offsets = np.asarray(model.coef_), np.asarray(model.intercept_)
    if len(model.classes_) == 2:  # one row: how far the second class is above the first
        rows, offsets = np.stack([-rows[0], rows[0]]) / 2, np.stack([-offsets[0], offsets[0]]) / 2
    rows = rows / deviation
    kernel = np.zeros((values.shape[1], num_classes), np.float32)
    bias = np.full(num_classes, ABSENT_CLASS_LOGIT, np.float32)
    kernel[:, model.classes_] = rows.T
    bias[model.classes_] = offsets - rows @ mean
    return Output(kernel, bias, converged)
