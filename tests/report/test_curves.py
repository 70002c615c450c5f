"""The picture of the learning curves, looked at before it is drawn."""

import numpy as np
from matplotlib.figure import Figure

from cnn_lab.report.curves import learning_curves

PLACE = {"step": 2, "epoch": 1.0}


def labels(figure: Figure) -> list[str]:
    return [axis.get_ylabel() for axis in figure.axes if axis.axison]


def test_metrics_are_drawn_and_rates_are_not(figures: list[Figure]):
    rates = {"learning_rate": 0.1, "gradient_norm": 2.0, "examples_per_second": 99.0}
    rows = [
        {**PLACE, "split": "train", "mean_iou": 0.5, "loss": 1.0, **rates},
        {**PLACE, "split": "validation", "mean_iou": 0.25, "loss": 2.0, "dice": 0.5},
    ]
    assert learning_curves(rows, best_step=2).startswith(b"\x89PNG")
    assert labels(figures[0]) == ["loss", "mean iou", "dice"]


def test_many_metrics_stand_in_rows(figures: list[Figure]):
    row = {**PLACE, "split": "validation", **{f"class{k}": 0.5 for k in range(7)}}
    learning_curves([row])
    assert labels(figures[0]) == [f"class{k}" for k in range(7)]
    width, height = figures[0].get_size_inches()
    assert width < 20
    assert height > 10


def test_what_is_not_finite_leaves_a_gap(figures: list[Figure]):
    values = [1.0, None, 0.5]
    rows = [{"step": s, "epoch": s, "split": "train", "loss": v} for s, v in enumerate(values)]
    learning_curves(rows)
    drawn = figures[0].axes[0].lines[0].get_ydata()
    assert [str(value) for value in np.asarray(drawn).tolist()] == ["1.0", "nan", "0.5"]


def test_no_rows_are_no_error(figures: list[Figure]):
    assert learning_curves([]).startswith(b"\x89PNG")
    assert labels(figures[0]) == []
