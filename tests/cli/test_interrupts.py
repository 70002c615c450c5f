"""Ctrl-C and SIGTERM while the program starts: one sentence, status 130, nothing left."""

import signal
import subprocess
import sys
import time

import pytest


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("delay", [0.3, 0.6, 1.0])
def test_an_early_signal_is_answered_with_one_sentence(tmp_path, number, delay):
    command = [sys.executable, "-m", "cnn_lab.cli.main", "train", f"--workdir={tmp_path / 'run'}"]
    process = subprocess.Popen(
        [*command, "--config=experiments/digits/lenet5.py", "--config.train.num_epochs=100000"],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    time.sleep(delay)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.strip().startswith("interrupted; ")
    assert len(said.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()
