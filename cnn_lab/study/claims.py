"""What the numbers say of a claim."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal

from cnn_lab.analysis.intervals import over_runs
from cnn_lab.config.study import Bounds, Comparison, Study
from cnn_lab.core.errors import ConfigError, lookup
from cnn_lab.core.numbers import counted
from cnn_lab.study.measures import name_of
from cnn_lab.study.rows import Row, values_of

Verdict = Literal["holds", "fails", "undecided"]


@dataclasses.dataclass(frozen=True)
class Judged:
    """A claim and what became of it.

    Attributes:
        text: the claim.
        verdict: `holds` where the whole 95 % interval is on the claimed side, `fails` where it is
            on the other side, else `undecided`.
        evidence: the numbers, in words.
    """

    text: str
    verdict: Verdict
    evidence: str


def judge(claim: Comparison | Bounds, rows: Sequence[Row]) -> Judged:
    """Holds a claim against the rows.

    A comparison is paired: differences between trainings of one seed, and Student's interval of
    their mean. Where there is one value only, it decides by itself. Where nothing was measured, or
    something that is not finite, nothing is decided.
    """
    try:
        return _judge_numbers(claim, rows)
    except ConfigError as error:
        return Judged(claim.text, "undecided", str(error))


def _judge_numbers(claim: Comparison | Bounds, rows: Sequence[Row]) -> Judged:
    if isinstance(claim, Comparison):
        larger = values_of(rows, claim.measure, claim.larger)
        smaller = values_of(rows, claim.measure, claim.smaller)
        differences = [larger[seed] - smaller[seed] for seed in sorted(larger.keys() & smaller)]
        of = f"{_name(claim.larger)} less {_name(claim.smaller)}"
        return _judge(claim.text, differences, claim.by, math.inf, f"{claim.measure}, {of}")
    values = list(values_of(rows, claim.measure, claim.place).values())
    return _judge(
        claim.text, values, claim.low, claim.high, f"{claim.measure}, {_name(claim.place)}"
    )


def check_places(study: Study, computed: Sequence[Row]) -> None:
    """Tells of claims and panels of what the study will not measure, before anything is trained.

    Args:
        study: its variants and measures.
        computed: the rows of its computations.

    Raises:
        ConfigError: a measure or a series of another name.
    """
    measures = dict.fromkeys(
        (*study.measures, *study.over_seeds, *(row.measure for row in computed))
    )
    names = [name for v in study.variants for name in (v.series, name_of(v))]
    series = dict.fromkeys((*names, *(row.series for row in computed)))
    for claim in study.claims:
        lookup(measures, claim.measure, "measure in this study")
        places = (claim.larger, claim.smaller) if isinstance(claim, Comparison) else (claim.place,)
        for name, _ in places:
            lookup(series, name, "series in this study")
    for panel in study.panels:
        lookup(measures, panel.measure, "measure in this study")
        for name in panel.series or ():
            lookup(series, name, "series in this study")


def _judge(text: str, values: Sequence[float], low: float, high: float, what: str) -> Judged:
    if bad := sum(not math.isfinite(value) for value in values):
        return Judged(text, "undecided", f"{what}: not finite in {bad} of {len(values)}")
    if len(values) > 1:
        spread = over_runs(values)
        mean, least, most = spread.mean, spread.interval.low, spread.interval.high
        count = counted(len(values), "seed")
        evidence = f"{what}: {mean:.4g} ({least:.4g} to {most:.4g}, 95 % interval, {count})"
    else:
        mean = least = most = values[0]
        evidence = f"{what}: {mean:.6g}"
    verdict: Verdict = "undecided"
    if low <= least and most <= high:
        verdict = "holds"
    elif most < low or least > high:
        verdict = "fails"
    return Judged(text, verdict, evidence)


def _name(place: tuple[str, float | str | None]) -> str:
    series, x = place
    if x is None:
        return series
    number = f"{x:g}" if isinstance(x, int | float) else x
    return f"{series} at {number}" if series else number
