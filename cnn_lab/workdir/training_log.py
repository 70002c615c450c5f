"""The log of a training: metric rows with their throughput, and the progress bar."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
)

from cnn_lab.workdir.metric_writers import MetricWriter, metric_names

WIDE_TERMINAL = 100  # columns


@runtime_checkable
class Display(Protocol):
    """A display of the progress of a training."""

    def advance(self, step: int, epoch: float, metrics: Mapping[str, float]) -> None:
        """After each call of the program: steps done, and the newest training metrics."""
        ...

    def row(self, row: Mapping[str, Any]) -> None:
        """After each row of the metrics."""
        ...

    def log(self, text: str) -> None:
        """One line for the user."""
        ...

    def close(self) -> None:
        """Leaves the terminal as it was."""
        ...


def make_display(total_steps: int, first_step: int, log: Callable[[str], None]) -> Display:
    """A bar when standard output is a terminal, else plain lines, which `log` takes."""
    if sys.stdout.isatty():
        return TerminalDisplay(total_steps, first_step)
    return PlainDisplay(total_steps, first_step, log)


class TerminalDisplay:
    """A live bar with rate, remaining time and training loss; validation rows stay above it."""

    def __init__(self, total_steps: int, first_step: int):
        console = Console(file=sys.stdout)
        columns = [
            TextColumn("epoch {task.fields[epoch]:.1f}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("eta {task.fields[eta]}"),
            TextColumn("{task.fields[train]}"),
        ]
        if console.width >= WIDE_TERMINAL:
            columns += [TextColumn("{task.fields[rate]}"), TimeElapsedColumn()]
        self._bar = Progress(*columns, console=console, expand=True)
        self._total, self._eta = total_steps, Eta(total_steps, first_step)
        fields: dict[str, Any] = {"epoch": 0.0, "eta": "?", "rate": "", "train": ""}
        self._task = self._bar.add_task("", total=total_steps, completed=first_step, **fields)
        self._bar.start()

    def advance(self, step: int, epoch: float, metrics: Mapping[str, float]) -> None:
        """Moves the bar."""
        shown = f"loss {metrics['loss']:.4f}" if "loss" in metrics else ""
        eta = self._eta.after(step)
        self._bar.update(self._task, completed=step, epoch=epoch, train=shown, eta=eta)

    def row(self, row: Mapping[str, Any]) -> None:
        """Shows the rate of a training row, and keeps the metrics of a validation row above."""
        if row["split"] == "train":
            self._bar.update(self._task, rate=f"{row['examples_per_second']:,.0f} img/s")
        else:
            self.log(_row_text(row, self._total))

    def log(self, text: str) -> None:
        """Prints a line above the bar."""
        self._bar.console.print(text, markup=False, highlight=False)

    def close(self) -> None:
        """Stops the live display."""
        self._bar.stop()


class PlainDisplay:
    """One line a row, for logs."""

    def __init__(self, total_steps: int, first_step: int, log: Callable[[str], None]):
        self._total, self._eta = total_steps, Eta(total_steps, first_step)
        self._say = log

    def advance(self, step: int, epoch: float, metrics: Mapping[str, float]) -> None:
        """Shows nothing: rows are enough for a log."""

    def row(self, row: Mapping[str, Any]) -> None:
        """Prints the row with rate and remaining time."""
        line = _row_text(row, self._total)
        if row["split"] == "train":
            rate, eta = row["examples_per_second"], self._eta.after(row["step"])
            line += f" | {rate:,.0f} images/s, eta {eta}"
        self.log(line)

    def log(self, text: str) -> None:
        """Passes on one line."""
        self._say(text)

    def close(self) -> None:
        """Nothing is open."""


class Eta:
    """Remaining wall time, from the time since the loop began: evaluations and saves included."""

    def __init__(self, total_steps: int, first_step: int):
        self._total, self._first = total_steps, first_step
        self._start = time.monotonic()

    def after(self, step: int) -> str:
        """Remaining time after `step` steps, as `h:mm:ss` or `m:ss`."""
        seconds_per_step = (time.monotonic() - self._start) / max(step - self._first, 1)
        return _duration(seconds_per_step * (self._total - step))


def _row_text(row: Mapping[str, Any], total_steps: int) -> str:
    start = f"step {row['step']}/{total_steps} epoch {row['epoch']:.4g} {row['split']:<10} "
    return start + " ".join(f"{name} {row[name]:.4f}" for name in metric_names([row]))


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


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
