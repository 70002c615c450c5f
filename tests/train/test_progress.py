"""What a training says while it runs."""

import time

import pytest

from cnn_lab.train.progress import PlainDisplay, Stopwatch, make_display


def test_the_input_pipeline_is_named_once_when_the_step_waits_for_it():
    stopwatch = Stopwatch()
    time.sleep(0.02)
    stopwatch.waited(0.9 * stopwatch.seconds)
    complaint = stopwatch.complaint()
    assert complaint is not None
    assert "The input pipeline is the bottleneck" in complaint
    assert "config.data.num_workers" in complaint
    assert stopwatch.complaint() is None  # once is enough


def test_a_busy_step_is_no_reason_to_complain():
    stopwatch = Stopwatch()
    time.sleep(0.02)
    stopwatch.waited(0.1 * stopwatch.seconds)
    assert stopwatch.complaint() is None
    stopwatch.restart()
    assert stopwatch.seconds < 0.02


def test_a_log_gets_plain_lines(capsys: pytest.CaptureFixture[str]):
    display = make_display(total_steps=100, first_step=40)
    assert isinstance(display, PlainDisplay)  # standard output is no terminal here
    row = {"step": 50, "epoch": 0.5, "loss": 1.25, "accuracy": 0.5}
    display.advance(50, 0.5, {"loss": 1.25})
    display.row({**row, "split": "train", "examples_per_second": 1234.0})
    display.row({**row, "split": "validation"})
    display.close()
    train, validation = capsys.readouterr().out.splitlines()
    assert train.startswith("step 50/100 epoch 0.5 train      loss 1.2500 accuracy 0.5000 | 1,234")
    assert validation == "step 50/100 epoch 0.5 validation loss 1.2500 accuracy 0.5000"
