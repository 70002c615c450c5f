"""What numbers say of claims, by hand."""

import math
from typing import Any

import pytest

from cnn_lab.analysis.verdict import Record, from_json, judge, to_csv, to_json
from cnn_lab.config import Bounds, Comparison


def records(exact=False, **values) -> list[Record]:
    return [
        Record(series, None, seed, "accuracy", value, exact)
        for series, found in values.items()
        for seed, value in enumerate(found)
    ]


def compare(by=0.0, exact=False, **values):
    claim = Comparison(
        text="a is better", measure="accuracy", larger=("a", None), smaller=("b", None), by=by
    )
    return judge(claim, records(exact, **values))


def test_a_difference_that_is_sure_holds_or_fails():
    assert compare(a=[0.9, 0.91, 0.92], b=[0.8, 0.81, 0.82]).verdict == "holds"
    assert compare(a=[0.8, 0.81, 0.82], b=[0.9, 0.91, 0.92]).verdict == "fails"


def test_differences_are_taken_seed_by_seed():
    # Seeds differ much more than the two series; the difference is 0.01 or 0.02 each time.
    found = compare(a=[0.51, 0.72, 0.91], b=[0.50, 0.70, 0.90])
    assert found.verdict == "undecided"  # 0.0133 +- 4.30 * 0.0033: from -0.0010
    assert found.evidence == (
        "accuracy, a less b: 0.01333 (-0.001009 to 0.02768, 95 % interval, n = 3)"
    )
    assert compare(a=[0.515, 0.72, 0.92], b=[0.50, 0.70, 0.90]).verdict == "holds"


def test_a_difference_must_exceed_what_is_claimed():
    values: Any = {"a": [0.9, 0.91, 0.92], "b": [0.8, 0.81, 0.82]}
    assert compare(by=0.05, **values).verdict == "holds"
    assert compare(by=0.15, **values).verdict == "fails"


def test_single_values_decide_by_themselves_where_no_chance_was_in_them():
    assert compare(exact=True, a=[2.0], b=[1.0]).verdict == "holds"
    assert compare(exact=True, by=2.0, a=[2.0], b=[1.0]).verdict == "fails"


def test_one_training_decides_nothing():
    for a, b in ((2.0, 1.0), (1.0, 2.0)):
        found = compare(a=[a], b=[b])
        assert found.verdict == "undecided"
        assert "one seed, which decides nothing" in found.evidence
    bound = Bounds(text="so", measure="accuracy", place=("a", None), high=0.5)
    assert judge(bound, records(a=[0.1])).verdict == "undecided"
    assert judge(bound, records(a=[0.1], exact=True)).verdict == "holds"
    mixed = [*records(a=[2.0]), *records(b=[1.0], exact=True)]
    claim = Comparison(text="so", measure="accuracy", larger=("a", None), smaller=("b", None))
    assert judge(claim, mixed).verdict == "undecided"


@pytest.mark.parametrize("exact", [True, False])
def test_what_is_equal_does_not_exceed(exact):
    values = [0.9] if exact else [0.9, 0.8, 0.7]
    assert compare(exact=exact, a=values, b=values).verdict == "fails"
    noisy = [value + 1.2e-16 for value in values]
    assert noisy != values
    assert compare(exact=exact, a=noisy, b=values).verdict == "fails"
    assert compare(exact=exact, a=values, b=noisy).verdict == "fails"
    # 0.3 - 0.1 is less than 0.2 by rounding alone, 0.9 - 0.7 more.
    assert compare(exact=exact, by=0.2, a=[0.3] * len(values), b=[0.1] * len(values)).verdict == (
        "fails"
    )
    assert compare(exact=exact, a=[v + 1e-12 for v in values], b=values).verdict == "holds"


def test_at_most_so_much_worse_includes_as_much():
    assert compare(by=-0.2, a=[0.1] * 3, b=[0.3] * 3).verdict == "holds"
    assert compare(by=-0.2, a=[0.1 - 1e-9] * 3, b=[0.3] * 3).verdict == "fails"


def test_bounds_include_their_ends():
    claim = Bounds(text="so", measure="accuracy", place=("a", None), low=1.0, high=1.0)
    assert judge(claim, records(a=[1.0, 1.0, 1.0])).verdict == "holds"


def test_values_of_no_common_seed_decide_nothing():
    claim = Comparison(text="so", measure="m", larger=("a", None), smaller=("b", None))
    found = judge(claim, [Record("a", None, 0, "m", 1.0), Record("b", None, 10, "m", 0.0)])
    assert (found.verdict, found.evidence) == ("undecided", "No seed has both a and b.")


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(0.5, 1.5, "holds"), (1.5, 2.0, "fails"), (-1.0, 0.5, "fails"), (1.0, 2.0, "undecided")],
)
def test_bounds(low, high, verdict):
    claim = Bounds(text="so", measure="accuracy", place=("a", None), low=low, high=high)
    assert judge(claim, records(a=[0.99, 1.0, 1.01, 1.02])).verdict == verdict


def test_what_is_not_finite_decides_nothing():
    assert compare(a=[math.nan, 1.0], b=[0.0, 0.0]).verdict == "undecided"


def test_a_claim_about_nothing_offers_the_places_there_are():
    claim = Bounds(text="so", measure="accuracy", place=("c", 1), low=0)
    found = judge(claim, records(a=[0.5]))
    assert found.verdict == "undecided"
    assert found.evidence.startswith("The study has no 'accuracy' of ('c', 1); ")


def test_records_survive_json_and_become_a_table():
    some = [
        Record("a", 3, 0, "m", 0.5),
        Record("b,c", None, 1, "m", math.nan),
        Record("d", "x", 2, "m", 1),
    ]
    again = from_json(to_json(some))
    assert again[0] == some[0]
    assert again[2] == some[2]
    assert (again[1].series, again[1].x) == ("b,c", None)
    assert math.isnan(again[1].value)
    assert to_csv(some).splitlines()[:3] == [
        "series,x,seed,measure,value,exact",
        "a,3,0,m,0.5,False",
        '"b,c",,1,m,nan,False',
    ]
