"""The pictures of several seeds and of a learning-rate range test, looked at before drawing."""

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from cnn_lab.analysis.calibration import Reliability
from cnn_lab.analysis.lr_range import LrRange
from cnn_lab.report.curves import BLUE, COLOURS, learning_curves, rate_chart, seeds_chart
from cnn_lab.report.evaluation import reliability_chart

ODD = "folder:/tmp/a$\\frac$ x \u8774"  # matplotlib would read mathematics, and lacks the last one


def row(epoch: float, split: str, **metrics: float | None) -> dict:
    return {"step": int(epoch), "epoch": epoch, "split": split, **metrics}


def lines(axis: Axes, split: str) -> list[list[tuple[float, float]]]:
    """The curves of a split in the order drawn, as points."""
    found = [line for line in axis.lines if to_hex(str(line.get_color())) == COLOURS[split]]
    return [np.asarray(line.get_xydata()).tolist() for line in found]


def test_every_seed_has_a_line_and_their_mean_one(figures: list[Figure]):
    rows_of = {
        3: [
            row(1, "train", loss=4.0),
            row(1, "validation", loss=3.0),
            row(2, "validation", loss=1),
        ],
        4: [
            row(1, "train", loss=2.0),
            row(1, "validation", loss=5.0),
            row(2, "validation", loss=2),
        ],
    }
    assert seeds_chart(rows_of).startswith(b"\x89PNG")
    (axis,) = figures[0].axes
    assert axis.get_ylabel() == "loss"
    assert lines(axis, "train") == [[[1, 4]], [[1, 2]], [[1, 3]]]
    assert lines(axis, "validation") == [
        [[1, 3], [2, 1]],
        [[1, 5], [2, 2]],
        [[1, 4], [2, 1.5]],
    ]
    widths = [line.get_linewidth() for line in axis.lines]
    assert widths[0] == widths[1] < widths[2]
    assert axis.get_legend_handles_labels()[1] == ["train, mean of 2", "validation, mean of 2"]


def test_the_mean_is_of_epochs_that_all_seeds_have(figures: list[Figure]):
    looks = [[row(e, "validation", loss=e, accuracy=None) for e in range(n)] for n in (2, 4)]
    seeds_chart(dict(enumerate(looks)))
    loss, accuracy = figures[0].axes
    assert lines(loss, "validation")[-1] == [[0, 0], [1, 1]]
    assert accuracy.get_ylabel() == "accuracy"
    assert np.isnan([y for _, y in lines(accuracy, "validation")[0]]).all()  # a gap


def test_without_looks_at_validation_the_training_loss_is_drawn(figures: list[Figure]):
    seeds_chart({0: [row(1, "train", loss=4.0)], 1: [row(1, "train", loss=2.0)]})
    (axis,) = figures[0].axes
    assert lines(axis, "train")[-1] == [[1, 3]]
    assert lines(axis, "validation") == [[], []]


@pytest.fixture
def found() -> LrRange:
    rates = np.geomspace(1e-4, 1, 40)
    smoothed = 2 + (np.log10(rates) + 1.5) ** 2
    smoothed[-1] = 900.0  # it diverged
    return LrRange(rates, smoothed + 0.5, smoothed, 1e-3, 10**-1.5, still_falling=False)


def test_the_loss_is_drawn_over_the_rate_with_the_suggestion(found: LrRange, figures):
    rate_chart(found, title="lenet5 on digits, sgd")
    (axis,) = figures[0].axes
    assert axis.get_title() == "lenet5 on digits, sgd"
    each, smoothed, steepest, lowest = axis.lines
    np.testing.assert_array_equal(each.get_xydata(), np.stack([found.rates, found.losses], 1))
    np.testing.assert_array_equal(smoothed.get_xydata(), np.stack([found.rates, found.smoothed], 1))
    assert to_hex(smoothed.get_color()) == BLUE
    assert set(steepest.get_xdata()) == {found.steepest}
    assert set(lowest.get_xdata()) == {found.lowest}
    assert axis.get_xscale() == "log"
    assert axis.get_xlim() == pytest.approx((1e-4, 1))
    low, high = axis.get_ylim()
    assert low < 2
    assert found.smoothed[0] < high < 20  # what diverged flattens nothing
    labels = axis.get_legend_handles_labels()[1]
    assert labels[2:] == ["steepest fall: 0.001", "lowest loss: 0.032"]


def test_what_users_call_things_is_no_mathematics(found: LrRange, figures: list[Figure]):
    rate_chart(found, title=ODD)
    seeds_chart({s: [row(1, "validation", **{ODD: 1.0})] for s in (0, 1)})
    learning_curves([row(1, "validation", **{ODD: 1.0})])
    bins = Reliability(np.asarray([1]), np.asarray([0.5]), np.asarray([1]))
    reliability_chart([(ODD, bins)])
    rates, seeds, curves, bars = figures
    assert rates.axes[0].get_title() == ODD
    assert seeds.axes[0].get_ylabel() == ODD
    assert curves.axes[0].get_ylabel() == ODD
    assert bars.axes[0].get_title().startswith(ODD)
