"""Lines for whoever waits: seldom enough to be read, often enough to be believed."""

import time
from collections.abc import Callable

Progress = Callable[[str], None]
"""Receives one line of text about what is going on, at most a few a second."""

_FIRST_SECONDS = 0.5
_LONGEST_SECONDS = 10.0


class Ticker:
    """Passes on a line now and then; the pauses grow, so that an hour does not fill the screen.

    Args:
        progress: receives the lines; None drops them.
    """

    def __init__(self, progress: Progress | None):
        self._progress = progress
        self._pause = _FIRST_SECONDS
        self._last = time.monotonic()

    def __call__(self, line: str) -> None:
        """Passes on the line if it is time for one."""
        if self._progress is not None and time.monotonic() - self._last > self._pause:
            self._last = time.monotonic()
            self._pause = min(2 * self._pause, _LONGEST_SECONDS)
            self._progress(line)
