"""What a training says while it runs."""

import time

import pytest

from cnn_lab.workdir import training_log
from cnn_lab.workdir.training_log import Eta, PlainDisplay, Stopwatch, TerminalDisplay, make_display


def reading() -> Stopwatch:
    """A stopwatch whose readers have started."""
    stopwatch = Stopwatch()
    stopwatch.waited(0.0)
    return stopwatch


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(training_log, "WAIT_SECONDS", 0.01)


def test_the_start_of_the_readers_is_no_bottleneck(impatient):
    stopwatch = Stopwatch()
    time.sleep(0.05)
    stopwatch.waited(stopwatch.seconds)
    assert stopwatch.seconds < 0.05  # nor does it lower the rate of the first row
    time.sleep(0.02)
    assert stopwatch.complaint() is None
    stopwatch.waited(0.9 * stopwatch.seconds)
    assert stopwatch.complaint() is not None


def test_who_hardly_waits_is_told_nothing():
    stopwatch = reading()
    time.sleep(0.02)
    stopwatch.waited(0.9 * stopwatch.seconds)
    assert stopwatch.complaint() is None


def test_the_input_pipeline_is_named_once_when_the_step_waits_for_it(impatient):
    stopwatch = reading()
    time.sleep(0.02)
    stopwatch.waited(0.9 * stopwatch.seconds)
    complaint = stopwatch.complaint()
    assert complaint is not None
    assert "The input pipeline is the bottleneck" in complaint
    assert "config.data.num_workers" in complaint
    assert stopwatch.complaint() is None  # once is enough


def test_a_busy_step_is_no_reason_to_complain(impatient):
    stopwatch = reading()
    time.sleep(0.02)
    stopwatch.waited(0.1 * stopwatch.seconds)
    assert stopwatch.complaint() is None
    stopwatch.restart()
    assert stopwatch.seconds < 0.02


def test_evaluations_and_saves_lower_no_rate():
    stopwatch = reading()
    time.sleep(0.01)
    with stopwatch.stopped():
        time.sleep(0.2)
    assert 0.01 <= stopwatch.seconds < 0.2


def test_a_log_gets_plain_lines(capsys: pytest.CaptureFixture[str]):
    display = make_display(total_steps=100, first_step=40, log=print)
    assert isinstance(display, PlainDisplay)  # standard output is no terminal here
    row = {"step": 50, "epoch": 0.5, "loss": 1.25, "accuracy": 0.5}
    display.advance(50, 0.5, {"loss": 1.25})
    display.row({**row, "split": "train", "examples_per_second": 1234.0})
    display.row({**row, "split": "validation"})
    display.close()
    train, validation = capsys.readouterr().out.splitlines()
    assert train.startswith("step 50/100 epoch 0.5 train      loss 1.2500 accuracy 0.5000 | 1,234")
    assert validation == "step 50/100 epoch 0.5 validation loss 1.2500 accuracy 0.5000"


def test_the_remaining_time_counts_evaluations(monkeypatch: pytest.MonkeyPatch):
    """4 epochs of 10 steps, each 10 s long, each followed by an evaluation of 30 s."""
    now = [1000.0]
    monkeypatch.setattr(training_log.time, "monotonic", lambda: now[0])
    eta = Eta(total_steps=50, first_step=10)
    now[0] += 4.0
    assert eta.after(14) == "0:36"  # no evaluation is known of yet
    now[0] += 36.0
    assert eta.after(20) == "2:00"
    now[0] += 40.0
    assert eta.after(30) == "1:20"
    assert eta.after(50) == "0:00"


def test_both_displays_show_the_metrics_there_are(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COLUMNS", "120")
    place = {"step": 50, "epoch": 0.5, "split": "validation"}
    row = {**place, "mean_iou": float("nan"), "loss": 1.25}
    train = {**row, "split": "train", "learning_rate": 0.1, "gradient_norm": 2.0}
    for display in (PlainDisplay(100, 40, print), TerminalDisplay(100, 40)):
        display.advance(50, 0.5, {"loss": 1.25})
        display.row({**train, "examples_per_second": 1234.0})
        display.row(row)
        display.close()
    output = capsys.readouterr().out
    assert output.count("step 50/100 epoch 0.5 validation loss 1.2500 mean_iou nan") == 2
    assert "step 50/100 epoch 0.5 train      loss 1.2500 mean_iou nan | 1,234" in output
    assert "eta 0:00" in output
    assert "gradient_norm" not in output
