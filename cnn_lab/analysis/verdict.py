"""What the numbers say of a claim."""

import dataclasses
import math
import sys
from collections.abc import Sequence
from typing import Literal

from cnn_lab.analysis.intervals import over_runs
from cnn_lab.analysis.records import Row, rows_at
from cnn_lab.config.study import Bounds, Comparison, Place
from cnn_lab.core.errors import ConfigError

Verdict = Literal["holds", "fails", "undecided"]
ROUNDING = 4 * sys.float_info.epsilon  # relative: less than this is no difference


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


@dataclasses.dataclass(frozen=True)
class _Estimate:
    """What values say of their mean: where it is, or that nothing can be said."""

    least: float
    most: float
    decides: bool
    evidence: str


def judge(claim: Comparison | Bounds, rows: Sequence[Row]) -> Judged:
    """Holds a claim against the rows.

    A comparison is paired: differences between values of one seed, and Student's interval of their
    mean. A single value decides where it was computed without chance, not where it is that of one
    training. Where nothing was measured, or something that is not finite, nothing is decided.
    """
    try:
        return _compare(claim, rows) if isinstance(claim, Comparison) else _bound(claim, rows)
    except ConfigError as error:
        return Judged(claim.text, "undecided", str(error))


def _compare(claim: Comparison, rows: Sequence[Row]) -> Judged:
    larger = rows_at(rows, claim.measure, claim.larger)
    smaller = rows_at(rows, claim.measure, claim.smaller)
    pairs = [(larger[seed], smaller[seed]) for seed in sorted(larger.keys() & smaller)]
    if not pairs:
        raise ConfigError(f"No seed has both {_name(claim.larger)} and {_name(claim.smaller)}.")
    found = _estimate(
        [one.value - other.value for one, other in pairs],
        f"{claim.measure}, {_name(claim.larger)} less {_name(claim.smaller)}",
        exact=all(row.exact for pair in pairs for row in pair),
    )
    noise = ROUNDING * max(abs(row.value) for pair in pairs for row in pair)
    if claim.by < 0:  # at most so much worse
        holds, fails = found.least >= claim.by - noise, found.most < claim.by - noise
    else:
        holds, fails = found.least > claim.by + noise, found.most <= claim.by + noise
    return _judged(claim.text, found, holds=holds, fails=fails)


def _bound(claim: Bounds, rows: Sequence[Row]) -> Judged:
    at = list(rows_at(rows, claim.measure, claim.place).values())
    found = _estimate(
        [row.value for row in at],
        f"{claim.measure}, {_name(claim.place)}",
        exact=all(row.exact for row in at),
    )
    holds = claim.low <= found.least and found.most <= claim.high
    fails = found.most < claim.low or found.least > claim.high
    return _judged(claim.text, found, holds=holds, fails=fails)


def _estimate(values: Sequence[float], what: str, *, exact: bool) -> _Estimate:
    if bad := sum(not math.isfinite(value) for value in values):
        evidence = f"{what}: not finite in {bad} of {len(values)}"
        return _Estimate(math.nan, math.nan, False, evidence)
    if len(values) > 1:
        spread = over_runs(values)
        least, most = spread.interval.low, spread.interval.high
        interval = f"{least:.4g} to {most:.4g}, 95 % interval, n = {len(values)}"
        return _Estimate(least, most, True, f"{what}: {spread.mean:.4g} ({interval})")
    evidence = f"{what}: {values[0]:.6g}"
    if not exact:
        evidence += ", from one seed, which decides nothing"
    return _Estimate(values[0], values[0], exact, evidence)


def _judged(text: str, found: _Estimate, *, holds: bool, fails: bool) -> Judged:
    verdict: Verdict = "undecided"
    if found.decides:
        verdict = "holds" if holds else "fails" if fails else "undecided"
    return Judged(text, verdict, found.evidence)


def _name(place: Place) -> str:
    series, x = place
    if x is None:
        return series
    number = f"{x:g}" if isinstance(x, int | float) else x
    return f"{series} at {number}" if series else number
