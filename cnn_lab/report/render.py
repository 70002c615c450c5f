"""Figures as PNG, and pages from the templates in this folder.

In pages everything is escaped, and a missing name is an error.
"""

import base64
import functools
import io
import math
import warnings
from typing import Any

import jinja2
from matplotlib.figure import Figure


def as_png(figure: Figure, dpi: int = 120) -> bytes:
    """Draws a figure. Names of data and classes may be in scripts that the font lacks."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def as_base64(picture: bytes) -> str:
    """A picture as it stands in the address of an image of a page."""
    return base64.b64encode(picture).decode()


def render(template: str, **values: Any) -> str:
    """Fills in a template.

    Args:
        template: file name, beside this file.
        **values: its names.

    Returns:
        A page. Filters: `figure`, a number with four places or `not finite`, and `percent`.
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
    environment.filters["figure"] = _figure
    environment.filters["percent"] = "{:.2%}".format
    return environment


def _figure(value: float | None) -> str:
    return "not finite" if value is None or not math.isfinite(value) else f"{value:.4f}"
