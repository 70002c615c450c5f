"""The log of a training: metric rows with their throughput, and the progress bar."""

import functools
import importlib.util
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from cnn_lab.workdir.metric_writers import MetricWriter, metric_names

WIDE_TERMINAL = 100  # columns
# From this share of the time between two rows spent waiting for data, and from this time on, a line
# is logged: where epochs are over in no time, nobody waits.
WAIT_SHARE, WAIT_SECONDS = 0.3, 1.0


def make_display(total_steps: int, first_step: int, log: Callable[[str], None]) -> "PlainDisplay":
    """A bar in a terminal or a notebook that can draw one, else plain lines, which `log` takes."""
    draws = Console().is_jupyter and importlib.util.find_spec("ipywidgets") is not None
    if draws or sys.stdout.isatty():
        return TerminalDisplay(total_steps, first_step)
    return PlainDisplay(total_steps, first_step, log)


DisplayFactory = Callable[[int, int, Callable[[str], None]], "PlainDisplay"]


class PlainDisplay:
    """One line a row, for logs; a metric writer.

    Attributes:
        log: takes lines for the user.
    """

    def __init__(self, total_steps: int, first_step: int, log: Callable[[str], None]):
        self.log = log
        self._total, self._first, self._start = total_steps, first_step, time.monotonic()

    def advance(self, step: int, epoch: float, metrics: Mapping[str, float]) -> None:
        """After each call of the program: steps done, and the newest training metrics."""

    def write(self, row: Mapping[str, Any]) -> None:
        """Prints the metrics of the row, for one of training with rate and remaining time."""
        names = " ".join(f"{name} {row[name]:.4f}" for name in metric_names([row]))
        step, epoch = row["step"], row["epoch"]
        line = f"step {step}/{self._total} epoch {epoch:.4g} {row['split']:<10} {names}"
        if row["split"] == "train":
            line += f" | {row['examples_per_second']:,.0f} images/s, eta {self.eta(step)}"
        self.log(line)

    def close(self) -> None:
        """Does nothing, since plain lines leave nothing on the terminal to tidy up."""

    def eta(self, step: int) -> str:
        """Remaining wall time after `step` steps, as `h:mm:ss` or `m:ss`.

        From the time since the loop began: evaluations and saves are included.
        """
        seconds_per_step = (time.monotonic() - self._start) / max(step - self._first, 1)
        minutes, rest = divmod(int(seconds_per_step * (self._total - step) + 0.5), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class TerminalDisplay(PlainDisplay):
    """A live bar with rate, remaining time and training loss; validation rows stay above it."""

    def __init__(self, total_steps: int, first_step: int):
        console = Console(file=sys.stdout)
        log = functools.partial(console.print, markup=False, highlight=False)
        super().__init__(total_steps, first_step, log)
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
        fields: dict[str, Any] = {"epoch": 0.0, "eta": "?", "rate": "", "train": ""}
        self._task = self._bar.add_task("", total=total_steps, completed=first_step, **fields)
        self._bar.start()

    def advance(self, step: int, epoch: float, metrics: Mapping[str, float]) -> None:
        """Moves the bar."""
        shown = f"loss {metrics['loss']:.4f}" if "loss" in metrics else ""
        eta = self.eta(step)
        self._bar.update(self._task, completed=step, epoch=epoch, train=shown, eta=eta)

    def write(self, row: Mapping[str, Any]) -> None:
        """Shows the rate of a training row, and keeps the metrics of a validation row above."""
        if row["split"] == "train":
            self._bar.update(self._task, rate=f"{row['examples_per_second']:,.0f} img/s")
        else:
            super().write(row)

    def close(self) -> None:
        """Stops the live display."""
        self._bar.stop()


class TrainingLog:
    """Writes the rows of a training with their throughput, and shows how far it is.

    The throughput is that since the row before; neither evaluations and saves (`paused`) nor the
    first wait for data, in which the readers start, lower it.

    Args:
        metric_writers: where rows go.
        display: progress bar or plain lines; None in all processes but the primary one.
        log: takes lines for the user where there is no display.
        steps_per_epoch: turns steps into epochs.
    """

    def __init__(
        self,
        metric_writers: Sequence[MetricWriter],
        display: PlainDisplay | None,
        log: Callable[[str], None],
        steps_per_epoch: int,
    ):
        self.log = log if display is None else display.log
        self._writers = [*metric_writers, *([] if display is None else [display])]
        self._display, self._steps_per_epoch = display, steps_per_epoch
        self._start, self._examples, self._waited = time.perf_counter(), 0.0, 0.0
        self._reading = self._complained = False

    def advance(self, step: int, num_examples: float, means: Mapping[str, float]) -> None:
        """Counts examples that were trained on, and moves the progress bar."""
        self._examples += num_examples
        if self._display is not None:
            self._display.advance(step, step / self._steps_per_epoch, means)

    def waited_for_data(self, seconds: float) -> None:
        """Adds time during which the devices had nothing to do but wait for data."""
        if self._reading:
            self._waited += seconds
        else:
            self._reading, self._start, self._examples = True, time.perf_counter(), 0.0

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves the time inside a `with` out of the throughput."""
        start = time.perf_counter()
        yield
        self._start += time.perf_counter() - start

    def training_row(self, step: int, metrics: Mapping[str, float]) -> None:
        """Writes a training row; a line, once, where the input pipeline is the bottleneck."""
        seconds = time.perf_counter() - self._start
        self._write(step, "train", {**metrics, "examples_per_second": self._examples / seconds})
        share = self._waited / max(seconds, 1e-9)
        if share >= WAIT_SHARE and self._waited >= WAIT_SECONDS and not self._complained:
            self._complained = True
            self.log(
                f"The input pipeline is the bottleneck: {share:.0%} of the time the step waited "
                "for data; raise config.data.num_workers, lower config.data.image_size or use "
                "config.data.loader=in_memory."
            )
        self._start, self._examples, self._waited = time.perf_counter(), 0.0, 0.0

    def validation_row(self, step: int, metrics: Mapping[str, float]) -> None:
        """Writes a validation row."""
        self._write(step, "validation", metrics)

    def close(self) -> None:
        """Writes out what is buffered, and leaves the terminal as it was."""
        for writer in self._writers:
            writer.close()

    def _write(self, step: int, split: str, metrics: Mapping[str, float]) -> None:
        row = {"step": step, "epoch": step / self._steps_per_epoch, "split": split, **metrics}
        for writer in self._writers:
            writer.write(row)
