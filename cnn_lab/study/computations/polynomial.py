"""Overfitting in its smallest form: polynomials through ten points of a noisy sine (Bishop 2006,
"Pattern recognition and machine learning", section 1.1).
"""  # noqa: D205 - a citation

import dataclasses

import numpy as np

from cnn_lab.analysis.verdict import Record

X = np.linspace(0.0, 1.0, 10)
T = np.array(
    [
        *(0.349486, 0.830839, 1.007332, 0.971507, 0.133066),
        *(0.166823, -0.848307, -0.445686, -0.563567, 0.261502),
    ]
)
GRID = np.linspace(0.0, 1.0, 101)
TRUTH = np.sin(2 * np.pi * GRID)
HIGHEST = 9
# Degree to the coefficients that are taught, lowest power first, and the unit of their last digits.
TAUGHT: dict[int, tuple[tuple[float, ...], tuple[float, ...]]] = {
    0: ((0.19,), (0.01,)),
    1: ((0.82, -1.27), (0.01,) * 2),
    3: ((0.31, 7.99, -25.43, 17.37), (0.01,) * 4),
    9: (
        (
            *(0.35, 232.37, -5321.83, 48568.31, -231639.3),
            *(640042.3, -1061800.6, 1042400.3, -557683.1, 125201.4),
        ),
        (0.01,) * 4 + (0.1,) * 6,
    ),
}


def polynomial(
    degrees: tuple[int, ...] = (0, 1, 3, 9),
    log_penalties: tuple[float, ...] = (-40.0, -30.0, -25.0, -18.0, -13.0, -10.0, -5.0, 0.0, 5.0),
    num_steps: int = 200_000,
) -> list[Record]:
    """Fits by least squares, and of degree 9 with a ridge penalty as well.

    Args:
        degrees: of the plain fits.
        log_penalties: natural logarithms of lambda in |t - Aw|^2 + lambda |w|^2.
        num_steps: of gradient descent, which is to find the ridge solution of the middle penalty.

    Returns:
        Coefficients, their distance from those that are taught (in units of the last digit given),
        errors (root of the mean square; the test's against the sine itself, at 101
        points) and fitted curves.
    """
    records = []
    for degree in range(HIGHEST + 1):
        w = least_squares(degree)
        records += _errors("least squares", degree, w)
        if degree in degrees:
            series = f"degree {degree}"
            records += [
                Record(series, power, 0, "coefficient", float(c)) for power, c in enumerate(w)
            ]
            records += _curve(series, w)
        if degree in TAUGHT:
            taught, units = np.array(TAUGHT[degree])
            distance = float((abs(w - taught) / units).max())
            name = "distance from the lecture's coefficients"
            records.append(Record(f"degree {degree}", None, 0, name, distance))
    for log_penalty in log_penalties:
        records += _errors("ridge, degree 9", log_penalty, ridge(np.exp(log_penalty)), "by penalty")
    chosen = np.exp(np.median(log_penalties))
    closed, descended = ridge(chosen), descent(chosen, num_steps)
    records += _curve("degree 9, ridge", closed)
    largest = float(abs(closed - descended).max())
    records.append(Record("ridge, degree 9", None, 0, "closed form against descent", largest))
    sizes = {"least squares": abs(least_squares(HIGHEST)).max(), "ridge": abs(closed).max()}
    records += [Record(name, None, 0, "largest coefficient", float(v)) for name, v in sizes.items()]
    records += _points("points", X, T) + _points("sine", GRID, TRUTH)
    return [dataclasses.replace(record, exact=True) for record in records]


def least_squares(degree: int) -> np.ndarray:
    """Coefficients, lowest power first, of least squared error on the ten points."""
    return np.linalg.lstsq(_powers(X, degree), T, rcond=None)[0]


def ridge(penalty: float) -> np.ndarray:
    """Coefficients of degree 9 that minimise |t - Aw|^2 + penalty |w|^2, by one linear system."""
    # As least squares of a longer system, which keeps twice the digits of the normal equations.
    a = np.concatenate([_powers(X, HIGHEST), np.sqrt(penalty) * np.eye(HIGHEST + 1)])
    return np.linalg.lstsq(a, np.concatenate([T, np.zeros(HIGHEST + 1)]), rcond=None)[0]


def descent(penalty: float, num_steps: int) -> np.ndarray:
    """The same by gradient descent with Nesterov's momentum, from zero."""
    a = _powers(X, HIGHEST)
    curvature = a.T @ a + penalty * np.eye(HIGHEST + 1)
    steepest, flattest = np.linalg.eigvalsh(curvature)[[-1, 0]]
    rate, ratio = 1 / steepest, np.sqrt(flattest / steepest)
    momentum = (1 - ratio) / (1 + ratio)
    w = before = np.zeros(HIGHEST + 1)
    for _ in range(num_steps):
        ahead = w + momentum * (w - before)
        before, w = w, ahead - rate * (curvature @ ahead - a.T @ T)
        if not (w - before).any():
            break
    return w


def _powers(x: np.ndarray, degree: int) -> np.ndarray:
    return x[:, None] ** np.arange(degree + 1)


def _errors(series: str, x: float, w: np.ndarray, suffix: str = "by degree") -> list[Record]:
    degree = len(w) - 1
    train = float(np.sqrt(np.mean((_powers(X, degree) @ w - T) ** 2)))
    test = float(np.sqrt(np.mean((_powers(GRID, degree) @ w - TRUTH) ** 2)))
    return [
        Record(f"{series}, {split}", x, 0, f"error {suffix}", value)
        for split, value in (("training", train), ("test", test))
    ]


def _curve(series: str, w: np.ndarray) -> list[Record]:
    return _points(series, GRID, _powers(GRID, len(w) - 1) @ w)


def _points(series: str, xs: np.ndarray, values: np.ndarray) -> list[Record]:
    pairs = zip(xs, values, strict=True)
    return [Record(series, float(x), 0, "fit", float(value)) for x, value in pairs]
