"""What numbers say of claims, by hand."""

import math

import pytest

from cnn_lab.config import Bounds, Comparison
from cnn_lab.study.claims import judge
from cnn_lab.study.rows import Row, from_json, to_csv, to_json


def rows(**values) -> list[Row]:
    return [
        Row(series, None, seed, "accuracy", value)
        for series, found in values.items()
        for seed, value in enumerate(found)
    ]


def compare(by=0.0, **values):
    claim = Comparison(
        text="a is better", measure="accuracy", larger=("a", None), smaller=("b", None), by=by
    )
    return judge(claim, rows(**values))


def test_a_difference_that_is_sure_holds_or_fails():
    assert compare(a=[0.9, 0.91, 0.92], b=[0.8, 0.81, 0.82]).verdict == "holds"
    assert compare(a=[0.8, 0.81, 0.82], b=[0.9, 0.91, 0.92]).verdict == "fails"


def test_differences_are_taken_seed_by_seed():
    # Seeds differ much more than the two series; the difference is 0.01 or 0.02 each time.
    found = compare(a=[0.51, 0.72, 0.91], b=[0.50, 0.70, 0.90])
    assert found.verdict == "undecided"  # 0.0133 +- 4.30 * 0.0033: from -0.0010
    assert found.evidence == (
        "accuracy, a less b: 0.01333 (-0.001009 to 0.02768, 95 % interval, 3 seeds)"
    )
    assert compare(a=[0.515, 0.72, 0.92], b=[0.50, 0.70, 0.90]).verdict == "holds"


def test_a_difference_must_exceed_what_is_claimed():
    values = {"a": [0.9, 0.91, 0.92], "b": [0.8, 0.81, 0.82]}
    assert compare(by=0.05, **values).verdict == "holds"
    assert compare(by=0.15, **values).verdict == "fails"


def test_single_values_decide_by_themselves():
    assert compare(a=[2.0], b=[1.0]).verdict == "holds"
    assert compare(by=2.0, a=[2.0], b=[1.0]).verdict == "fails"


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(0.5, 1.5, "holds"), (1.5, 2.0, "fails"), (-1.0, 0.5, "fails"), (1.0, 2.0, "undecided")],
)
def test_bounds(low, high, verdict):
    claim = Bounds(text="so", measure="accuracy", place=("a", None), low=low, high=high)
    assert judge(claim, rows(a=[0.99, 1.0, 1.01, 1.02])).verdict == verdict


def test_what_is_not_finite_decides_nothing():
    assert compare(a=[math.nan, 1.0], b=[0.0, 0.0]).verdict == "undecided"


def test_a_claim_about_nothing_offers_the_places_there_are():
    claim = Bounds(text="so", measure="accuracy", place=("c", 1), low=0)
    found = judge(claim, rows(a=[0.5]))
    assert found.verdict == "undecided"
    assert found.evidence.startswith("The study has no 'accuracy' of ('c', 1); ")


def test_rows_survive_json_and_become_a_table():
    some = [Row("a", 3, 0, "m", 0.5), Row("b,c", None, 1, "m", math.nan), Row("d", "x", 2, "m", 1)]
    again = from_json(to_json(some))
    assert again[0] == some[0]
    assert again[2] == some[2]
    assert (again[1].series, again[1].x) == ("b,c", None)
    assert math.isnan(again[1].value)
    assert to_csv(some).splitlines()[:3] == [
        "series,x,seed,measure,value",
        "a,3,0,m,0.5",
        '"b,c",,1,m,nan',
    ]
