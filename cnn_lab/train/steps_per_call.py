"""How long a call of a compiled program may be."""

SECONDS_PER_CALL = 1.0
GROWTH = 4  # of the number of steps from one call to the next


class StepsPerCall:
    """How many steps a call should run, so that a signal is answered within about a second.

    Their number is data of the program: where a run is cut changes nothing in its results.

    Args:
        most: steps that a call may run.
    """

    def __init__(self, most: int):
        self.num_steps = 1
        self._most = most
        self._last_end = 0.0

    def measure(self, num_steps: int, start: float, end: float) -> None:
        """Takes a call's steps and the times at which it was made and was found to have ended."""
        self.adopt(self.fitting(num_steps, start, end))

    def fitting(self, num_steps: int, start: float, end: float) -> int:
        """How many steps would have been long enough, going by one call.

        The devices began it when the call before ended, if that was later.
        """
        seconds = max(end - max(start, self._last_end), 1e-6)
        self._last_end = end
        return int(num_steps * SECONDS_PER_CALL / seconds)

    def adopt(self, fitting: int) -> None:
        """Sets the number of steps to one that fits, growing to it little by little."""
        self.num_steps = max(1, min(fitting, GROWTH * self.num_steps, self._most))
