"""The lines and rows of a training while it runs."""

import time
from typing import Any

import pytest

from cnn_lab.workdir import training_log
from cnn_lab.workdir.training_log import PlainDisplay, TerminalDisplay, TrainingLog, make_display


class Recorded(TrainingLog):
    """A log that shows nothing, with its lines and rows."""

    def __init__(self):
        self.lines: list[str] = []
        self.rows: list[dict[str, Any]] = []
        super().__init__([self], None, self.lines.append, steps_per_epoch=10)

    def write(self, row):
        self.rows.append(row)

    def seconds(self) -> float:
        """The time of a row of 10 examples, as its throughput has it."""
        self.advance(1, 10, {})
        self.training_row(1, {})
        return 10 / self.rows[-1]["examples_per_second"]


def reading() -> Recorded:
    """A log whose readers have started."""
    log = Recorded()
    log.waited_for_data(0.0)
    return log


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(training_log, "WAIT_SECONDS", 0.01)


def test_the_start_of_the_readers_is_no_bottleneck(impatient):
    log = Recorded()
    time.sleep(0.05)
    log.waited_for_data(0.05)
    assert log.seconds() < 0.05  # nor does it lower the rate of the first row
    assert log.lines == []
    time.sleep(0.02)
    log.waited_for_data(0.018)
    log.seconds()
    assert len(log.lines) == 1


def test_who_hardly_waits_is_told_nothing():
    log = reading()
    time.sleep(0.02)
    log.waited_for_data(0.018)
    log.seconds()
    assert log.lines == []


def test_the_input_pipeline_is_named_once_when_the_step_waits_for_it(impatient):
    log = reading()
    for _ in range(2):  # once is enough
        time.sleep(0.02)
        log.waited_for_data(0.018)
        log.seconds()
    (line,) = log.lines
    assert "The input pipeline is the bottleneck" in line
    assert "config.data.num_workers" in line


def test_a_busy_step_is_no_reason_to_complain(impatient):
    log = reading()
    time.sleep(0.1)
    log.waited_for_data(0.02)
    assert log.seconds() >= 0.1
    assert log.lines == []
    assert log.seconds() < 0.1  # of the next row alone


def test_evaluations_and_saves_lower_no_rate():
    log = reading()
    time.sleep(0.01)
    with log.paused():
        time.sleep(0.2)
    assert 0.01 <= log.seconds() < 0.2


def test_a_log_gets_plain_lines(capsys: pytest.CaptureFixture[str]):
    display = make_display(total_steps=100, first_step=40, log=print)
    assert type(display) is PlainDisplay  # standard output is no terminal here
    row = {"step": 50, "epoch": 0.5, "loss": 1.25, "accuracy": 0.5}
    display.advance(50, 0.5, {"loss": 1.25})
    display.write({**row, "split": "train", "examples_per_second": 1234.0})
    display.write({**row, "split": "validation"})
    display.close()
    train, validation = capsys.readouterr().out.splitlines()
    assert train.startswith("step 50/100 epoch 0.5 train      loss 1.2500 accuracy 0.5000 | 1,234")
    assert validation == "step 50/100 epoch 0.5 validation loss 1.2500 accuracy 0.5000"


def test_the_remaining_time_counts_evaluations(monkeypatch: pytest.MonkeyPatch):
    """4 epochs of 10 steps, each 10 s long, each followed by an evaluation of 30 s."""
    now = [1000.0]
    monkeypatch.setattr(training_log.time, "monotonic", lambda: now[0])
    display = PlainDisplay(50, 10, print)
    now[0] += 4.0
    assert display.eta(14) == "0:36"  # no evaluation is known of yet
    now[0] += 36.0
    assert display.eta(20) == "2:00"
    now[0] += 40.0
    assert display.eta(30) == "1:20"
    assert display.eta(50) == "0:00"


def test_both_displays_show_the_metrics_there_are(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COLUMNS", "120")
    place = {"step": 50, "epoch": 0.5, "split": "validation"}
    row = {**place, "mean_iou": float("nan"), "loss": 1.25}
    train = {**row, "split": "train", "learning_rate": 0.1, "gradient_norm": 2.0}
    for display in (PlainDisplay(100, 40, print), TerminalDisplay(100, 40)):
        display.advance(50, 0.5, {"loss": 1.25})
        display.write({**train, "examples_per_second": 1234.0})
        display.write(row)
        display.close()
    output = capsys.readouterr().out
    assert output.count("step 50/100 epoch 0.5 validation loss 1.2500 mean_iou nan") == 2
    assert "step 50/100 epoch 0.5 train      loss 1.2500 mean_iou nan | 1,234" in output
    assert "eta 0:00" in output
    assert "gradient_norm" not in output
