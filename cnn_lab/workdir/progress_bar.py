"""The progress of a training: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
)

from cnn_lab.workdir.metric_writers import metric_names

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
