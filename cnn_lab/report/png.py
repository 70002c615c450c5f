"""Figures as PNG."""

import io
import warnings

from matplotlib.figure import Figure


def as_png(figure: Figure) -> bytes:
    """Draws a figure. Names of data and classes may be in scripts that the font lacks."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()
