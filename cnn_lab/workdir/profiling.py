"""A trace of some steps: what the devices and the host do, on one time line."""

from collections.abc import Callable
from pathlib import Path

import jax

FOLDER = "profile"


class Profile:
    """Traces the steps after `first` updates up to `last`, for TensorBoard or Perfetto.

    The trace goes into `profile` of the run's folder; `log` takes lines for the user.
    """

    def __init__(self, first: int, last: int, workdir: Path, log: Callable[[str], None]):
        self._first, self._last = first, last
        self._folder, self._log = workdir / FOLDER, log
        self._running = False

    def __call__(self, step: int) -> None:
        """Begins or ends the trace, if it is time; all calls before have ended."""
        if not self._running and self._first <= step < self._last:
            jax.profiler.start_trace(str(self._folder), create_perfetto_trace=True)
            self._running = True
        elif self._running and step >= self._last:
            self.close()

    def close(self) -> None:
        """Ends the trace, if it was begun."""
        if self._running:
            jax.profiler.stop_trace()
            self._running = False
            self._log(f"The trace of what follows step {self._first} is in {self._folder}.")
