"""HTML from the templates in this folder: everything is escaped, and a missing name is an error."""

import functools
import math
from typing import Any

import jinja2


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
