"""The numbers of a study: one row a measurement."""

import csv
import dataclasses
import io
import math
from collections.abc import Sequence
from typing import Any

from cnn_lab.config.study import Place
from cnn_lab.core.errors import ConfigError, suggest


@dataclasses.dataclass(frozen=True)
class Row:
    """One number.

    Attributes:
        series: line of the picture.
        x: place on it, None where a series is one point.
        seed: of the training, or the first of a group; 0 where there is only one value.
        measure: what was measured.
        value: NaN where it was not finite.
        exact: computed without chance, so that one value decides by itself.
    """

    series: str
    x: float | str | None
    seed: int
    measure: str
    value: float
    exact: bool = False


def values_of(rows: Sequence[Row], measure: str, place: Place) -> dict[int, float]:
    """As `rows_at`, the values alone."""
    return {seed: row.value for seed, row in rows_at(rows, measure, place).items()}


def rows_at(rows: Sequence[Row], measure: str, place: Place) -> dict[int, Row]:
    """Seed to row at one place.

    Raises:
        ConfigError: nothing was measured there; offers the places that were.
    """
    found = {
        row.seed: row
        for row in rows
        if row.measure == measure and (row.series, row.x) == tuple(place)
    }
    if not found:
        raise nothing_at(measure, place, [(r.series, r.x) for r in rows if r.measure == measure])
    return found


def nothing_at(measure: str, place: Place, places: Sequence[Place]) -> ConfigError:
    """What to tell of a place where a measure is not; `places` are those where it is."""
    hint = suggest(str(tuple(place)), sorted({str(tuple(known)) for known in places}))
    return ConfigError(f"The study has no {measure!r} of {tuple(place)}; {hint}")


def to_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The rows as JSON values; numbers that are not finite become null."""
    plain = [dataclasses.asdict(row) for row in rows]
    return [{**r, "value": r["value"] if math.isfinite(r["value"]) else None} for r in plain]


def from_json(values: Sequence[dict[str, Any]]) -> list[Row]:
    """Reads back `to_json`."""
    return [Row(**{**v, "value": math.nan if v["value"] is None else v["value"]}) for v in values]


def to_csv(rows: Sequence[Row]) -> str:
    """The rows as a table for other programs."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([field.name for field in dataclasses.fields(Row)])
    writer.writerows(dataclasses.astuple(row) for row in rows)
    return text.getvalue()
