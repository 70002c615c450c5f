"""Figures as PNG, and pages from the templates in this folder.

In pages everything is escaped, and a missing name is an error.
"""

import base64
import functools
import io
import math
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from matplotlib.axes import Axes
from matplotlib.figure import Figure

BLUE, RED = "#4878a8", "#c8553d"


class Report(NamedTuple):
    """Paths of a page, and of the picture or the figures beside it."""

    page: Path
    beside: Path


def panels(count: int, max_columns: int, size: tuple[float, float]) -> tuple[Figure, list[Axes]]:
    """A figure with rows of panels (width, height) in inches, and the axes of each."""
    num_columns = min(max(count, 1), max_columns)
    num_rows = max(-(-count // num_columns), 1)
    figure = Figure(figsize=(size[0] * num_columns, size[1] * num_rows), layout="constrained")
    axes = list(figure.subplots(num_rows, num_columns, squeeze=False).flat)
    for axis in axes[count:]:
        axis.set_axis_off()
    return figure, axes[:count]


def as_png(figure: Figure, dpi: int = 120) -> bytes:
    """Draws a figure. Names of data and classes may be in scripts that the font lacks."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def render(template: str, **values: Any) -> str:
    """Fills in a template of this folder, whose names are `values`.

    Filters: `figure`, a number with four places or `not finite`; `percent`; `embedded`, the address
    of a PNG that is part of the page.
    """
    return _environment().get_template(template).render(**values)


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("cnn_lab.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["figure"] = lambda value: (
        "not finite" if value is None or not math.isfinite(value) else f"{value:.4f}"
    )
    environment.filters["percent"] = "{:.2%}".format
    environment.filters["embedded"] = lambda png: (
        f"data:image/png;base64,{base64.b64encode(png).decode()}"
    )
    return environment
