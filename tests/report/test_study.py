"""What the pictures and the page of a study show."""

import math

import pytest
from matplotlib.colors import to_rgba

from cnn_lab.analysis.scores import over_runs
from cnn_lab.analysis.verdict import Record, Verdict
from cnn_lab.config import ExperimentConfig, Panel, Study, Variant
from cnn_lab.report import study as drawing
from cnn_lab.report.study import draw, write_study

LOSS, ACCURACY, BY_EPOCH = "training loss", "unseen accuracy", "training loss by epoch"


def records(measure: str, series: str, **values) -> list[Record]:
    """Keywords `x3=[...]` are the seeds' values at 3."""
    return [
        Record(series, float(place[1:]), seed, measure, value)
        for place, found in values.items()
        for seed, value in enumerate(found)
    ]


def study(*panels: Panel, **changes) -> Study:
    return Study(**{"title": "Rates", "question": "Which?", "panels": panels, **changes})


def marks(axis, marker: str) -> list[tuple[list[float], list[float]]]:
    return [
        (list(line.get_xdata()), list(line.get_ydata()))
        for line in axis.lines
        if line.get_marker() == marker
    ]


def labelled(axis) -> dict[str, tuple[list[float], list[float]]]:
    lines = [line for line in axis.lines if not line.get_label().startswith("_")]
    return {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in lines}


def test_lines_go_through_the_means_in_order(figures):
    found = [
        *records(LOSS, "a", x10=[0.5, 0.7], x1=[1.0, 2.0]),
        *records(LOSS, "b", x1=[3.0, 3.0], x10=[0.1, 0.3]),
    ]
    draw(study(Panel(measure=LOSS, x="rate")), found)
    axis = figures[0].axes[0]
    drawn = labelled(axis)
    assert drawn.keys() == {"a", "b"}
    assert drawn["a"] == ([1, 10], pytest.approx([1.5, 0.6]))
    assert drawn["b"] == ([1, 10], pytest.approx([3.0, 0.2]))
    assert marks(axis, "o") == [drawn["a"], drawn["b"]]
    # One standard deviation to each side.
    ends = [segment[:, 1].tolist() for segment in axis.collections[0].get_segments()]
    assert ends[0] == pytest.approx([1.5 - 0.5**0.5, 1.5 + 0.5**0.5])
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("rate", LOSS)


def test_on_a_logarithmic_axis_the_seeds_ends_are_drawn(figures):
    draw(study(Panel(measure=LOSS, x="rate", log_y=True)), records(LOSS, "a", x1=[1.0, 2.0, 9.0]))
    axis = figures[0].axes[0]
    assert axis.get_yscale() == "log"
    assert axis.collections[0].get_segments()[0][:, 1] == pytest.approx([1.0, 9.0])


def test_many_places_have_a_band(figures):
    values = {f"x{x}": [x + 0.0, x + 2.0] for x in range(drawing.MAX_MARKED + 1)}
    draw(study(Panel(measure=LOSS, x="epoch")), records(LOSS, "a", **values))
    axis = figures[0].axes[0]
    assert marks(axis, "o") == []
    band = axis.collections[0].get_paths()[0].vertices[:, 1]
    assert (min(band), max(band)) == pytest.approx((1 - 2**0.5, drawing.MAX_MARKED + 1 + 2**0.5))


def test_a_row_of_points_shows_seeds_mean_and_interval(figures):
    values = [0.9, 0.91, 0.95]
    found = [*records(LOSS, "a", x1=values), *records(LOSS, "b", x1=[0.5, 0.6, 0.7])]
    draw(study(Panel(measure=LOSS, kind="points")), found)
    axis = figures[0].axes[0]
    assert marks(axis, "o")[0] == (values, [0, 0, 0])
    assert marks(axis, "D") == [
        (pytest.approx([0.92]), [0]),
        (pytest.approx([0.6]), [1]),
    ]
    interval = over_runs(values).interval
    assert axis.collections[0].get_segments()[0][:, 0] == pytest.approx(
        [interval.low, interval.high]
    )
    assert [label.get_text() for label in axis.get_yticklabels()] == ["a 1", "b 1"]
    assert [text.get_text() for text in axis.texts] == ["0.92", "0.6"]
    assert not axis.patches  # no bar, whose length would have to begin at 0


@pytest.mark.parametrize("kind", ["lines", "points"])
def test_shares_do_not_pass_one(figures, kind):
    found = records(ACCURACY, "a", x1=[1.0, 0.9, 1.0], x2=[1.0, 1.0, 1.0])
    draw(study(Panel(measure=ACCURACY, kind=kind)), found)
    axis = figures[0].axes[0]
    low, high = axis.get_ylim() if kind == "lines" else axis.get_xlim()
    assert high == 1.0
    assert 0 <= low < 0.95
    at_one = [line for line in axis.lines if line.get_marker() in ("o", "D")]
    assert at_one
    assert not any(line.get_clip_on() for line in at_one)  # seen whole
    draw(study(Panel(measure=LOSS, kind=kind)), records(LOSS, "a", x1=[1.0, 0.9], x2=[1.0, 1.0]))
    axis = figures[1].axes[0]
    assert max(axis.get_ylim() if kind == "lines" else axis.get_xlim()) > 1


def test_what_diverged_is_marked_and_said(figures):
    found = records(LOSS, "a", x1=[1.0, math.nan, 3.0], x2=[math.nan] * 3, x3=[5.0, 5.0, 5.0])
    draw(study(Panel(measure=LOSS, x="rate")), found)
    axis = figures[0].axes[0]
    assert marks(axis, "o") == [([3.0], [5.0]), ([1.0], [2.0])]
    assert [line.get_markerfacecolor() for line in axis.lines if line.get_marker() == "o"][1] == (
        "white"
    )
    assert [x for x, _ in marks(axis, "x")] == [[2.0]]
    assert [text.get_text() for text in axis.texts] == ["2 of 3", "0 of 3"]
    draw(study(Panel(measure=LOSS, kind="points")), found)
    axis = figures[1].axes[0]
    assert [text.get_text() for text in axis.texts] == ["2 (2 of 3)", "0 of 3", "5"]
    first = next(line for line in axis.lines if line.get_marker() == "D")
    assert first.get_markerfacecolor() == "white"
    assert marks(axis, "D") == [([2.0], [0]), ([5.0], [2])]


def test_a_series_has_one_colour_in_all_panels(figures):
    found = [
        *records(LOSS, "a", x1=[1.0], x2=[1.0]),
        *records(LOSS, "b", x1=[2.0], x2=[1.0]),
        *records(BY_EPOCH, "b 2", x1=[2.0], x2=[1.0]),
        *records(BY_EPOCH, "a 2", x1=[2.0], x2=[1.0]),
        *records(BY_EPOCH, "a 1", x1=[2.0], x2=[1.0]),
        *records(ACCURACY, "b", x1=[1.0]),
    ]
    variants = tuple(
        Variant(series=s, x=x, config=ExperimentConfig()) for s in ("a", "b") for x in (1, 2)
    )
    panels = (
        Panel(measure=LOSS, x="rate"),
        Panel(measure=BY_EPOCH, x="epoch", series=("a 2", "b 2")),
        Panel(measure=ACCURACY, kind="points"),
    )
    draw(study(*panels, variants=variants), found)

    def colours(axis) -> dict:
        return {
            line.get_label(): to_rgba(line.get_color())
            for line in axis.lines
            if not line.get_label().startswith("_")
        }

    first, second = (colours(axis) for axis in figures[0].axes[:2])
    assert first["a"] != first["b"]
    assert second == {"a 2": first["a"], "b 2": first["b"]}
    assert to_rgba(figures[0].axes[2].lines[0].get_color()) == first["b"]
    # Where a panel shows several of a series, each has its own.
    both = Panel(measure=BY_EPOCH, x="epoch")
    draw(study(panels[0], both, variants=variants), found)
    second = colours(figures[1].axes[1])
    assert len(set(second.values())) == 3
    assert second["b 2"] == colours(figures[1].axes[0])["b"]


def test_text_is_no_mathematics(figures):
    odd = "$\\frac$"
    found = [*records("m $x$", odd, x1=[1.0, math.nan]), *records("m $x$", "$", x1=[1.0, 2.0])]
    named = [Record(odd, "$_", seed, "m $x$", 1.0) for seed in range(2)]
    panels = (
        Panel(measure="m $x$", x=odd, title=odd),
        Panel(measure="m $x$", kind="points", title=odd),
    )
    assert draw(study(*panels, title=odd), found)[1:4] == b"PNG"
    assert draw(study(*panels, title=odd), named)[1:4] == b"PNG"
    legend = figures[0].axes[0].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == [odd, "$"]


def page_of(tmp_path, found, verdicts=(), **changes) -> str:
    panels = (Panel(measure=LOSS, x="rate"), Panel(measure=LOSS, kind="points"))
    return write_study(tmp_path, study(*panels, **changes), found, verdicts).page.read_text()


def test_the_caption_says_what_is_drawn(tmp_path):
    whole, cut = records(LOSS, "a", x1=[1.0, 2.0]), records(LOSS, "a", x1=[1.0, math.nan])
    page = page_of(tmp_path, whole)
    assert "as bars, of more than 15 places as a band" in page
    assert "a diamond is their mean, with its 95 % interval" in page
    assert "An open mark" not in page
    assert "An open mark" in page_of(tmp_path, cut)
    without_seeds = page_of(tmp_path, records(LOSS, "a", x1=[1.0], x2=[2.0]))
    assert "means over the seeds" not in without_seeds
    assert "single seeds" not in without_seeds


def test_the_page_says_what_a_seed_chooses_and_how_many_claims_chance_decides(tmp_path):
    found, verdicts = records(LOSS, "a", x1=[1.0, 2.0]), (Verdict("so", "holds", "m: 1"),)
    variants = (Variant(series="a", x=1, config=ExperimentConfig()),)
    page = page_of(tmp_path, found, verdicts, variants=variants)
    assert "its own choice of the images that are held out" in page
    assert "about one in twenty is decided by chance" in page
    page = page_of(tmp_path, found, verdicts, variants=variants, seeds_per_split=10)
    assert "is shared by 10 seeds, and the next 10 have another" in page
    computed = page_of(tmp_path, found, verdicts)
    assert "held out" not in computed
    assert "one in twenty" not in computed
