"""The pictures and the page of a study."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from cnn_lab.analysis.scores import over_runs
from cnn_lab.analysis.verdict import Record, Verdict
from cnn_lab.config import Panel, Study
from cnn_lab.core.files import write_bytes, write_text
from cnn_lab.report.render import Report, as_png, panels, render

MAX_COLUMNS, PANEL = 2, (7.0, 4.4)  # width and height in inches
MAX_MARKED = 15  # places of a line
SHARES = ("accuracy", "share", "dead")  # words in measures that cannot pass 1
PLAIN: dict[str, Any] = {"parse_math": False}  # for text of users, in which a $ is a $


class _Point:
    """The values of the seeds at one place; the mean is of the finite ones, NaN without any.

    The note gives the numbers of finite and of all values, where not all are finite.
    """

    def __init__(self, values: Sequence[float]):
        self.finite = [value for value in values if math.isfinite(value)]
        self.count = len(values)
        self.mean = float(np.mean(self.finite)) if self.finite else math.nan
        self.note = f"{len(self.finite)} of {self.count}" if len(self.finite) < self.count else ""

    def ends(self, *, log_y: bool) -> tuple[float, float]:
        """The ends of the bar through the mean."""
        if not self.finite:
            return math.nan, math.nan
        if log_y:  # a standard deviation may be as large as the mean, and cannot be drawn there
            return min(self.finite), max(self.finite)
        sd = float(np.std(self.finite, ddof=1)) if len(self.finite) > 1 else 0.0
        return self.mean - sd, self.mean + sd


Series = dict[str, dict[Any, _Point]]  # by name and place, in the order of the records


def write_study(
    folder: Path, study: Study, records: Sequence[Record], verdicts: Sequence[Verdict]
) -> Report:
    """Writes `study.html` and `study.png`."""
    picture = draw(study, records)
    report = Report(folder / "study.html", folder / "study.png")
    page = render(
        "study.html.jinja",
        study=study,
        verdicts=verdicts,
        picture=picture,
        tables=_tables(study, records),
        max_marked=MAX_MARKED,
        over_seeds=len({record.seed for record in records}) > 1,
        lines=any(panel.kind == "lines" for panel in study.panels),
        points=any(panel.kind == "points" for panel in study.panels),
        unfinished=any(not math.isfinite(record.value) for record in records),
    )
    write_bytes(report.beside, picture)
    write_text(report.page, page)
    return report


def draw(study: Study, records: Sequence[Record]) -> bytes:
    """A PNG with every panel: means of the seeds, and how the seeds differ.

    That is every seed and the 95 % interval of the mean in rows of points, one standard deviation
    to each side on lines, and on logarithmic axes the smallest and the largest seed.
    """
    figure, axes = panels(len(study.panels), MAX_COLUMNS, PANEL)
    figure.suptitle(study.title, **PLAIN)
    drawn: list[Series] = []
    for panel in study.panels:
        series: Series = {}
        for (name, place), values in _values(records, panel.measure).items():
            if panel.series is None or name in panel.series:
                series.setdefault(name, {})[place] = _Point(values)
        drawn.append(series)
    colours = _colours(study, drawn)
    for axis, panel, series in zip(axes, study.panels, drawn, strict=True):
        _draw_panel(axis, panel, series, colours)
    return as_png(figure, dpi=110)


def _values(records: Sequence[Record], measure: str) -> dict[tuple[str, Any], list[float]]:
    """Values of the seeds by series and place."""
    places: dict[tuple[str, Any], list[float]] = {}
    for record in records:
        if record.measure == measure:
            places.setdefault((record.series, record.x), []).append(record.value)
    return places


def _colours(study: Study, drawn: Sequence[Series]) -> dict[str, Any]:
    """Series to colour, the same in every panel.

    One variant with levels of its own, such as epochs, has the colour of its series, unless a panel
    shows several of that series.
    """
    series_of = {variant.name: variant.series for variant in study.variants}
    crowded = set()
    for names in drawn:
        owners = [series_of.get(name, name) for name in names]
        crowded |= {owner for owner in owners if owners.count(owner) > 1}
    keys = {
        name: name if (owner := series_of.get(name, name)) in crowded else owner
        for names in drawn
        for name in names
    }
    different = list(dict.fromkeys(keys.values()))
    palette = colormaps["tab10" if len(different) <= 10 else "tab20"]
    return {name: palette(different.index(key) % palette.N) for name, key in keys.items()}


def _draw_panel(axis: Axes, panel: Panel, series: Series, colours: Mapping[str, Any]) -> None:
    if panel.kind == "points":
        _draw_points(axis, series, colours)
        axis.set_xlabel(panel.measure, **PLAIN)
    else:
        _draw_lines(axis, series, colours, log_y=panel.log_y)
        axis.set_xlabel(panel.x, **PLAIN)
        axis.set_ylabel(panel.measure, **PLAIN)
    if panel.log_x:
        axis.set_xscale("log")
    if panel.log_y:
        axis.set_yscale("log")
    if any(word in panel.measure for word in SHARES):
        limits = axis.set_ylim if panel.kind == "lines" else axis.set_xlim
        low, high = limits()
        limits(max(low, 0.0), min(high, 1.0))
    axis.set_title(panel.title, **PLAIN)
    axis.grid(alpha=0.25)


def _draw_lines(axis: Axes, series: Series, colours: Mapping[str, Any], *, log_y: bool) -> None:
    places = list(dict.fromkeys(place for points in series.values() for place in points))
    if any(isinstance(place, str) for place in places):
        at = {place: float(index) for index, place in enumerate(places)}
        axis.set_xticks(range(len(places)), [str(place) for place in places], **PLAIN)
    else:
        at = {place: float(place) for place in places}
        if all(x.is_integer() for x in at.values()):
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    for name, points in series.items():
        placed = dict(sorted((at[place], point) for place, point in points.items()))
        _line(axis, name, placed, colours[name], log_y=log_y)
    if len(series) > 1:
        for text in axis.legend(frameon=False, fontsize="small").get_texts():
            text.set_parse_math(False)


def _line(axis: Axes, name: str, points: dict[float, _Point], colour: Any, *, log_y: bool) -> None:
    means, many = [point.mean for point in points.values()], len(points) > MAX_MARKED
    style: dict[str, Any] = {"color": colour, "label": name}
    if name == "points":
        style |= {"linestyle": "none", "marker": "o", "markersize": 5}
    axis.plot(list(points), means, **style)
    _marks(axis, points, colour, few=not many and name != "points")
    if all(point.count == 1 for point in points.values()):
        return
    low, high = np.array([point.ends(log_y=log_y) for point in points.values()]).T
    if many:
        axis.fill_between(list(points), low, high, color=colour, alpha=0.2, linewidth=0)
    else:
        lengths = np.maximum([np.subtract(means, low), np.subtract(high, means)], 0.0)
        axis.errorbar(list(points), means, lengths, color=colour, linestyle="none", capsize=3)


def _marks(axis: Axes, points: dict[float, _Point], colour: Any, *, few: bool) -> None:
    """Marks means, open ones where some seeds are not finite, and crosses where none is."""
    style: dict[str, Any] = {"color": colour, "linestyle": "none", "clip_on": False, "zorder": 3}
    whole = {x: point.mean for x, point in points.items() if not point.note}
    if few and whole:
        axis.plot(list(whole), list(whole.values()), marker="o", markersize=4, **style)
    noted = [(x, point) for x, point in points.items() if point.note]
    for x, point in noted if few else noted[-1:]:
        open_mark = {"marker": "o", "markersize": 7, "markerfacecolor": "white"}
        note: dict[str, Any] = {"color": colour, "fontsize": "small", "textcoords": "offset points"}
        if point.finite:
            axis.plot([x], [point.mean], **open_mark, **style)
            axis.annotate(point.note, (x, point.mean), (6, 6), **note)
        else:
            bottom: Any = axis.get_xaxis_transform()
            axis.plot([x], [0.04], marker="x", transform=bottom, **style)
            axis.annotate(point.note, (x, 0.04), (6, 0), xycoords=bottom, **note)


def _draw_points(axis: Axes, series: Series, colours: Mapping[str, Any]) -> None:
    """A row for each place: seeds as small points, their mean with its interval, its number."""
    labels: list[str] = []
    for name, points in series.items():
        for place, point in points.items():
            row, colour = len(labels), colours[name]
            number = "" if place is None else place if isinstance(place, str) else f"{place:g}"
            labels.append(f"{name} {number}".strip() if number else name)
            text = f"{point.mean:.4g} ({point.note})" if point.note else f"{point.mean:.4g}"
            text = text if point.finite else point.note
            at: Any = axis.get_yaxis_transform()
            axis.text(1.02, row, text, transform=at, va="center", fontsize="small")
            if not point.finite:
                continue
            style: dict[str, Any] = {"color": colour, "linestyle": "none"}
            style |= {"clip_on": False, "zorder": 3}  # above the frame
            if point.count > 1:
                seeds = [row] * len(point.finite)
                axis.plot(point.finite, seeds, marker="o", markersize=3.5, alpha=0.5, **style)
            if len(point.finite) > 1:
                interval = over_runs(point.finite).interval
                axis.hlines(row, interval.low, interval.high, color=colour, linewidth=1.5)
            face = "white" if point.note else colour
            axis.plot([point.mean], [row], marker="D", markersize=7, markerfacecolor=face, **style)
    axis.set_yticks(range(len(labels)), labels, **PLAIN)
    axis.set_ylim(len(labels) - 0.5, -0.5)


def _tables(study: Study, records: Sequence[Record]) -> list[dict[str, Any]]:
    """A table a measure that was drawn or claimed: mean, spread and number of seeds."""

    def figure(value: np.floating, digits: int) -> str:
        return f"{value:.{digits}g}" if np.isfinite(value) else "not finite"

    wanted = [panel.measure for panel in study.panels if panel.kind == "points" or panel.x]
    wanted += [claim.measure for claim in study.claims]
    tables = []
    for measure in dict.fromkeys(wanted):
        places = _values(records, measure)
        if len(places) > 120:  # a curve; `results.csv` has it
            continue
        lines = [
            {
                "series": series,
                "x": "" if x is None else x,
                "mean": figure(np.mean(values), 5),
                "sd": figure(np.std(values, ddof=1), 2) if len(values) > 1 else "",
                "count": len(values),
            }
            for (series, x), values in places.items()
        ]
        tables.append({"measure": measure, "lines": lines})
    return tables
