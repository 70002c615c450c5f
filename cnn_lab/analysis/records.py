"""The numbers of a study: one record a measurement."""

import csv
import dataclasses
import io
import math
from collections.abc import Sequence
from typing import Any

from cnn_lab.config.study import Place
from cnn_lab.core.errors import ConfigError, suggest


@dataclasses.dataclass(frozen=True)
class Record:
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


def values_of(records: Sequence[Record], measure: str, place: Place) -> dict[int, float]:
    """Seed to value at one place; otherwise as `records_at`."""
    found = records_at(records, measure, place)
    return {seed: record.value for seed, record in found.items()}


def records_at(records: Sequence[Record], measure: str, place: Place) -> dict[int, Record]:
    """Seed to record at one place.

    Raises:
        ConfigError: nothing was measured there; offers the places that were.
    """
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
    hint = suggest(str(tuple(place)), sorted({str(tuple(known)) for known in places}))
    return ConfigError(f"The study has no {measure!r} of {tuple(place)}; {hint}")


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
