"""The log of a training: metric rows with their throughput, and the progress bar."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from cnn_lab.workdir.metric_writers import MetricWriter
from cnn_lab.workdir.progress_bar import Display

# From this share of the time between two rows spent waiting for data, and from this time on, a line
# says so: where epochs are over in no time, nobody waits.
WAIT_SHARE, WAIT_SECONDS = 0.3, 1.0


class Stopwatch:
    """Time since the last row, and the part of it spent waiting for data.

    The first wait of a session, in which the readers start, counts as neither.
    """

    def __init__(self):
        self._warned = False
        self._reading = False
        self.restart()

    def restart(self) -> None:
        """Starts the next interval."""
        self.examples = 0.0
        self._start = time.perf_counter()
        self._waited = 0.0

    def waited(self, seconds: float) -> None:
        """Adds time during which the devices had nothing to do but wait for data."""
        if not self._reading:
            self._reading = True
            self.restart()
            return
        self._waited += seconds

    def count(self, examples: float) -> None:
        """Adds examples that were trained on."""
        self.examples += examples

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Leaves the time inside a `with` out: an evaluation or a save lowers no rate."""
        start = time.perf_counter()
        yield
        self._start += time.perf_counter() - start

    @property
    def seconds(self) -> float:
        """Length of the interval so far."""
        return time.perf_counter() - self._start

    def complaint(self) -> str | None:
        """A line, once, when the input pipeline is the bottleneck."""
        share = self._waited / max(self.seconds, 1e-9)
        if self._warned or share < WAIT_SHARE or self._waited < WAIT_SECONDS:
            return None
        self._warned = True
        return (
            f"The input pipeline is the bottleneck: {share:.0%} of the time the step waited for "
            "data; raise config.data.num_workers, lower config.data.image_size or use "
            "config.data.loader=in_memory."
        )


class TrainingLog:
    """Writes the rows of a training, and shows how far it is.

    Args:
        metric_writers: where rows go.
        display: progress bar or plain lines; None shows nothing, as in all processes but the
            primary one.
        log: takes lines for the user where there is no display.
        steps_per_epoch: turns steps into epochs.
    """

    def __init__(
        self,
        metric_writers: Sequence[MetricWriter],
        display: Display | None,
        log: Callable[[str], None],
        steps_per_epoch: int,
    ):
        self._writers, self._display, self._log = metric_writers, display, log
        self._steps_per_epoch = steps_per_epoch
        self._stopwatch = Stopwatch()

    def log(self, text: str) -> None:
        """Shows one line, above the progress bar where there is one."""
        (self._log if self._display is None else self._display.log)(text)

    def advance(self, step: int, num_examples: float, means: Mapping[str, float]) -> None:
        """Counts examples that were trained on, and moves the progress bar."""
        self._stopwatch.count(num_examples)
        if self._display is not None:
            self._display.advance(step, step / self._steps_per_epoch, means)

    def waited_for_data(self, seconds: float) -> None:
        """Adds time during which the devices had nothing to do but wait for data."""
        self._stopwatch.waited(seconds)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves the time inside a `with` out of the throughput."""
        with self._stopwatch.stopped():
            yield

    def training_row(self, step: int, metrics: Mapping[str, float]) -> None:
        """Writes a training row with its throughput, and begins the next interval."""
        rate = self._stopwatch.examples / self._stopwatch.seconds
        self._write(step, "train", {**metrics, "examples_per_second": rate})
        if complaint := self._stopwatch.complaint():
            self.log(complaint)
        self._stopwatch.restart()

    def validation_row(self, step: int, metrics: Mapping[str, float]) -> None:
        """Writes a validation row."""
        self._write(step, "validation", metrics)

    def close(self) -> None:
        """Writes out what is buffered, and leaves the terminal as it was."""
        for writer in self._writers:
            writer.close()
        if self._display is not None:
            self._display.close()

    def _write(self, step: int, split: str, metrics: Mapping[str, float]) -> None:
        row = {"step": step, "epoch": step / self._steps_per_epoch, "split": split, **metrics}
        for writer in self._writers:
            writer.write(row)
        if self._display is not None:
            self._display.row(row)
