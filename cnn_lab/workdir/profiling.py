"""A trace of some steps: what the devices and the host do, on one time line."""

from collections.abc import Callable
from pathlib import Path

import jax

FOLDER = "profile"


class Profile:
    """Traces the steps from `first` to `last`, for TensorBoard or Perfetto.

    Attributes:
        cuts: updates made when the trace begins and ends.

    Args:
        first: updates made before it begins.
        last: updates made when it ends.
        folder: of the run; the trace goes into `profile` there.
        log: takes lines for the user.
    """

    def __init__(self, first: int, last: int, folder: Path, log: Callable[[str], None]):
        self.cuts = (first, last)
        self._folder, self._say = folder / FOLDER, log
        self._running = False

    def __call__(self, step: int) -> None:
        """Begins or ends the trace, if it is time; all calls before have ended."""
        first, last = self.cuts
        if not self._running and first <= step < last:
            jax.profiler.start_trace(str(self._folder), create_perfetto_trace=True)
            self._running = True
        elif self._running and step >= last:
            self.close()

    def close(self) -> None:
        """Ends the trace, if it was begun."""
        if self._running:
            jax.profiler.stop_trace()
            self._running = False
            self._say(f"The trace of what follows step {self.cuts[0]} is in {self._folder}.")
