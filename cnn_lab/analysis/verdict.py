"""The numbers of a study, one record a measurement, and the claims that are held against them."""

import csv
import dataclasses
import io
import math
import sys
from collections.abc import Sequence
from typing import Any, Literal

from cnn_lab.analysis.scores import Interval, over_runs
from cnn_lab.config.study import Bounds, Comparison, Place
from cnn_lab.core.errors import ConfigError

Decision = Literal["holds", "fails", "undecided"]
ROUNDING = 4 * sys.float_info.epsilon  # relative: less than this is no difference


@dataclasses.dataclass(frozen=True)
class Record:
    """One number.

    Attributes:
        series: line of the picture.
        x: place on it, None where a series is one point.
        seed: of the training, or the first of a group; 0 where there is only one value.
        value: NaN where it was not finite.
        exact: computed without chance, so that one value decides by itself.
    """

    series: str
    x: float | str | None
    seed: int
    measure: str
    value: float
    exact: bool = False


def values_of(records: Sequence[Record], measure: str, place: Place) -> dict[int, float]:
    """Seed to value at one place; otherwise as `records_at`."""
    found = records_at(records, measure, place)
    return {seed: record.value for seed, record in found.items()}


def records_at(records: Sequence[Record], measure: str, place: Place) -> dict[int, Record]:
    """Seed to record at one place; the error of a place without any offers others."""
    found = {
        record.seed: record
        for record in records
        if record.measure == measure and (record.series, record.x) == tuple(place)
    }
    if not found:
        raise nothing_at(measure, place, [(r.series, r.x) for r in records if r.measure == measure])
    return found


def nothing_at(measure: str, place: Place, places: Sequence[Place]) -> ConfigError:
    """The error of a place without a measure; `places` are those that have it."""
    known, found = {str(tuple(known)) for known in places}, str(tuple(place))
    return ConfigError(f"The study has no {measure!r} of {found}", found=found, allowed=known)


def to_json(records: Sequence[Record]) -> list[dict[str, Any]]:
    """The records as JSON values; numbers that are not finite become null."""
    plain = [dataclasses.asdict(record) for record in records]
    return [{**r, "value": r["value"] if math.isfinite(r["value"]) else None} for r in plain]


def from_json(values: Sequence[dict[str, Any]]) -> list[Record]:
    """Reads back `to_json`."""
    return [
        Record(**{**v, "value": math.nan if v["value"] is None else v["value"]}) for v in values
    ]


def to_csv(records: Sequence[Record]) -> str:
    """The records as a table for other programs."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([field.name for field in dataclasses.fields(Record)])
    writer.writerows(dataclasses.astuple(record) for record in records)
    return text.getvalue()


@dataclasses.dataclass(frozen=True)
class Verdict:
    """A claim and its verdict.

    Attributes:
        verdict: `holds` where the whole 95 % interval is on the claimed side, `fails` where it is
            on the other side, else `undecided`.
        evidence: the numbers, in words.
    """

    text: str
    verdict: Decision
    evidence: str


def judge(claim: Comparison | Bounds, records: Sequence[Record]) -> Verdict:
    """Holds a claim against the records of a study.

    A comparison is paired: differences between values of one seed, and Student's interval of their
    mean. A single value decides where it was computed without chance, not where it is that of one
    training. Where nothing was measured, or something that is not finite, nothing is decided.
    """
    try:
        holds, fails, evidence = (
            _compare(claim, records) if isinstance(claim, Comparison) else _bound(claim, records)
        )
    except ConfigError as error:
        holds, fails, evidence = False, False, str(error)
    decision: Decision = "holds" if holds else "fails" if fails else "undecided"
    return Verdict(claim.text, decision, evidence)


def _compare(claim: Comparison, records: Sequence[Record]) -> tuple[bool, bool, str]:
    larger = records_at(records, claim.measure, claim.larger)
    smaller = records_at(records, claim.measure, claim.smaller)
    pairs = [(larger[seed], smaller[seed]) for seed in sorted(larger.keys() & smaller)]
    if not pairs:
        raise ConfigError(f"No seed has both {_name(claim.larger)} and {_name(claim.smaller)}.")
    interval, evidence = _interval(
        [one.value - other.value for one, other in pairs],
        f"{claim.measure}, {_name(claim.larger)} less {_name(claim.smaller)}",
        exact=all(record.exact for pair in pairs for record in pair),
    )
    noise = ROUNDING * max(abs(record.value) for pair in pairs for record in pair)
    if claim.by < 0:  # at most so much worse
        bound = claim.by - noise
        return interval.low >= bound, interval.high < bound, evidence
    bound = claim.by + noise
    return interval.low > bound, interval.high <= bound, evidence


def _bound(claim: Bounds, records: Sequence[Record]) -> tuple[bool, bool, str]:
    found = records_at(records, claim.measure, claim.place).values()
    interval, evidence = _interval(
        [record.value for record in found],
        f"{claim.measure}, {_name(claim.place)}",
        exact=all(record.exact for record in found),
    )
    holds = claim.low <= interval.low and interval.high <= claim.high
    return holds, interval.high < claim.low or interval.low > claim.high, evidence


def _interval(values: Sequence[float], what: str, *, exact: bool) -> tuple[Interval, str]:
    """The interval that a mean lies in, NaN where it decides nothing, and the evidence in words."""
    nothing = Interval(math.nan, math.nan)
    if bad := sum(not math.isfinite(value) for value in values):
        return nothing, f"{what}: not finite in {bad} of {len(values)}"
    if len(values) > 1:
        spread = over_runs(values)
        ends = f"{spread.interval.low:.4g} to {spread.interval.high:.4g}"
        evidence = f"{what}: {spread.mean:.4g} ({ends}, 95 % interval, n = {len(values)})"
        return spread.interval, evidence
    if exact:
        return Interval(values[0], values[0]), f"{what}: {values[0]:.6g}"
    return nothing, f"{what}: {values[0]:.6g}, from one seed, which decides nothing"


def _name(place: Place) -> str:
    series, x = place
    if x is None:
        return series
    number = f"{x:g}" if isinstance(x, int | float) else x
    return f"{series} at {number}" if series else number
