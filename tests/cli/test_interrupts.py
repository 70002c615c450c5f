"""Ctrl-C and SIGTERM while the program starts: one sentence, status 130, nothing left."""

import itertools
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest


def answers(pid: int, number: int) -> bool:
    """Whether a process has a handler for a signal."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = re.search(r"SigCgt:\s*(\w+)", status)
    return caught is not None and bool(int(caught[1], 16) >> (number - 1) & 1)


BOTH = (signal.SIGINT, signal.SIGTERM)
FEW = ((signal.SIGINT, 0.0), (signal.SIGTERM, 0.3), (signal.SIGINT, 0.7))
MORE = [pair for pair in itertools.product(BOTH, (0.0, 0.3, 0.7)) if pair not in FEW]


@pytest.mark.parametrize(
    ("number", "delay"), [*FEW, *(pytest.param(*pair, marks=pytest.mark.slow) for pair in MORE)]
)
def test_an_early_signal_is_answered_with_one_sentence(tmp_path, number, delay):
    command = [sys.executable, "-m", "cnn_lab.cli.main", "train", f"--workdir={tmp_path / 'run'}"]
    process = subprocess.Popen(
        [*command, "--config=experiments/digits/lenet5.py", "--config.train.num_epochs=100000"],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    # Until then it is Python itself that starts, which answers SIGINT alone.
    while not answers(process.pid, signal.SIGTERM):
        time.sleep(0.001)
    time.sleep(delay)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.strip().startswith("interrupted; ")
    assert len(said.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


SLOW = """
import sys, threading, time
import jax
original = jax.stages.Lowered.compile
def slow(lowered):
    if "@jit_evaluate" in lowered.as_text()[:200]:
        time.sleep(60)
    return original(lowered)
jax.stages.Lowered.compile = slow
from cnn_lab.cli.main import run
sys.argv[0] = "cnn-lab"
run()
"""


def test_an_interrupted_training_does_not_wait_for_a_compilation(tmp_path):
    command = [sys.executable, "-c", SLOW, "train", "--config=experiments/digits/lenet5.py"]
    process = subprocess.Popen(
        [*command, "--interrupted_status=7", f"--workdir={tmp_path / 'run'}"],
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    rows = tmp_path / "run" / "metrics.jsonl"
    while not rows.exists() or not rows.read_text():
        assert process.poll() is None
        time.sleep(0.1)
    sent = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=120) == 7
    assert time.monotonic() - sent < 30
    assert (tmp_path / "run" / "checkpoints").exists()


def test_a_signal_that_a_finaliser_swallows_comes_again():
    script = """
import os, signal, time
from cnn_lab.cli import runtime
runtime.raise_on_signal()
class Finalised:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)
try:
    made = Finalised()
    del made
    print("swallowed", flush=True)
    time.sleep(20)
except KeyboardInterrupt:
    print("heard")
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    assert (done.stdout.split(), done.stderr) == (["swallowed", "heard"], "")
