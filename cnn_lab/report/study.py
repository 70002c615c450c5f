"""The pictures and the page of a study."""

import base64
import dataclasses
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cnn_lab.config import Panel, Study
from cnn_lab.core.files import write_bytes, write_text
from cnn_lab.report.pages import render
from cnn_lab.study.claims import Judged
from cnn_lab.study.rows import Row

TEMPLATE = "study.html.jinja"
MOST_COLUMNS = 2
PAGE, PICTURE = "study.html", "study.png"


@dataclasses.dataclass(frozen=True)
class StudyReport:
    """Where a report was written."""

    page: Path
    picture: Path


def write_study(
    folder: Path, study: Study, rows: Sequence[Row], judged: Sequence[Judged]
) -> StudyReport:
    """Writes `study.html` and `study.png`."""
    picture = draw(study, rows)
    report = StudyReport(folder / PAGE, folder / PICTURE)
    page = render(
        TEMPLATE,
        study=study,
        judged=judged,
        picture=base64.b64encode(picture).decode(),
        tables=_tables(study, rows),
    )
    write_bytes(report.picture, picture)
    write_text(report.page, page)
    return report


def draw(study: Study, rows: Sequence[Row]) -> bytes:
    """Draws every panel: means of the seeds, and how the seeds differ.

    That is a point a seed on bars, one standard deviation to each side on lines, and on logarithmic
    axes the least and the largest seed.

    Returns:
        A PNG.
    """
    num_columns = min(max(len(study.panels), 1), MOST_COLUMNS)
    num_rows = max(-(-len(study.panels) // num_columns), 1)
    figure = Figure(figsize=(7.0 * num_columns, 4.4 * num_rows), layout="constrained")
    figure.suptitle(study.title)
    axes = list(figure.subplots(num_rows, num_columns, squeeze=False).flat)
    for axis, panel in zip(axes, study.panels, strict=False):
        _draw_panel(axis, panel, [row for row in rows if row.measure == panel.measure])
    for axis in axes[len(study.panels) :]:
        axis.set_axis_off()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def _draw_panel(axis: Axes, panel: Panel, rows: Sequence[Row]) -> None:
    wanted = (row.series for row in rows if panel.series is None or row.series in panel.series)
    names = list(dict.fromkeys(wanted))
    colours = colormaps["tab10" if len(names) <= 10 else "tab20"]
    if panel.kind == "bars":
        _bars(axis, names, rows)
        axis.set_xlabel(panel.measure)
    else:
        for index, name in enumerate(names):
            own = [row for row in rows if row.series == name]
            _line(axis, name, own, colours(index), log_y=panel.log_y)
        axis.set_xlabel(panel.x)
        axis.set_ylabel(panel.measure)
        if len(names) > 1:
            axis.legend(frameon=False, fontsize="small")
        numbers = [row.x for row in rows if isinstance(row.x, int | float)]
        if numbers and all(float(number).is_integer() for number in numbers):
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    if panel.log_x:
        axis.set_xscale("log")
    if panel.log_y:
        axis.set_yscale("log")
    axis.set_title(panel.title)
    axis.grid(alpha=0.25)


def _line(axis: Axes, name: str, rows: Sequence[Row], colour: Any, *, log_y: bool) -> None:
    places = list(dict.fromkeys(row.x for row in rows))
    if all(isinstance(place, int | float) for place in places):
        places.sort(key=lambda place: place if isinstance(place, int | float) else 0.0)
    values = [[row.value for row in rows if row.x == place] for place in places]
    means = [float(np.mean(v)) for v in values]
    if max(map(len, values)) == 1:  # one value each: a curve or points, without spread
        style: dict[str, Any] = {"marker": "o", "markersize": 5} if len(places) < 12 else {}
        if name == "points":
            style["linestyle"] = "none"
        axis.plot(_numbers(places), means, color=colour, label=name, **style)
        return
    if log_y:  # a standard deviation may be as large as the mean, and cannot be drawn there
        low, high = [min(v) for v in values], [max(v) for v in values]
    else:
        spreads = [float(np.std(v, ddof=1)) if len(v) > 1 else 0.0 for v in values]
        low, high = np.subtract(means, spreads), np.add(means, spreads)
    many = len(places) > 15
    axis.errorbar(
        _numbers(places),
        means,
        None if many else [np.subtract(means, low), np.subtract(high, means)],
        color=colour,
        label=name,
        marker=None if many else "o",
        markersize=4,
        capsize=3,
    )
    if many:
        axis.fill_between(_numbers(places), low, high, color=colour, alpha=0.2, linewidth=0)
    if any(isinstance(place, str) for place in places):
        axis.set_xticks(range(len(places)), [str(place) for place in places])


def _bars(axis: Axes, names: Sequence[str], rows: Sequence[Row]) -> None:
    """Horizontal, so that names can be read; bars begin where differences can be seen."""
    bars = [
        (name if place is None else f"{name} {place}".strip(), values)
        for name in names
        for place in dict.fromkeys(row.x for row in rows if row.series == name)
        if (values := [r.value for r in rows if (r.series, r.x) == (name, place)])
    ]
    finite = [v for _, values in bars for v in values if math.isfinite(v)] or [0.0, 1.0]
    span = (max(finite) - min(finite)) or abs(max(finite)) or 1.0
    left = 0.0 if min(finite) < 0.5 * max(finite) and min(finite) >= 0 else min(finite) - 0.3 * span
    for position, (_, values) in enumerate(bars):
        mean = float(np.mean(values))
        axis.barh(position, mean - left, left=left, color="#9ab4cf")
        axis.plot(values, [position] * len(values), "o", color="#2d5d8a", markersize=3.5)
        bad = sum(not math.isfinite(value) for value in values)
        text = f"not finite: {bad} of {len(values)}" if bad else f"{mean:.4g}"
        axis.text(max(finite) + 0.03 * span, position, text, va="center", fontsize="small")
    room = 0.22 if all(math.isfinite(v) for _, values in bars for v in values) else 0.45
    axis.set_xlim(left, max(finite) + room * span)
    axis.set_yticks(range(len(bars)), [name for name, _ in bars])
    axis.invert_yaxis()


def _numbers(places: Sequence[Any]) -> list[Any]:
    return [p if isinstance(p, int | float) else i for i, p in enumerate(places)]


def _figure(value: float, digits: int) -> str:
    return f"{value:.{digits}g}" if math.isfinite(value) else "not finite"


def _tables(study: Study, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """A table a measure that was drawn or claimed: mean, spread and number of seeds."""
    wanted = [panel.measure for panel in study.panels if panel.kind == "bars" or panel.x]
    wanted += [claim.measure for claim in study.claims]
    tables = []
    for measure in dict.fromkeys(wanted):
        places: dict[tuple[str, Any], list[float]] = {}
        for row in rows:
            if row.measure == measure:
                places.setdefault((row.series, row.x), []).append(row.value)
        if len(places) > 120:  # a curve; `results.csv` has it
            continue
        lines = [
            {
                "series": series,
                "x": "" if x is None else x,
                "mean": _figure(float(np.mean(values)), 5),
                "sd": _figure(float(np.std(values, ddof=1)), 2) if len(values) > 1 else "",
                "count": len(values),
            }
            for (series, x), values in places.items()
        ]
        tables.append({"measure": measure, "lines": lines})
    return tables
