"""Nobody reads any more: a command ends quietly, a training goes on."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cnn_lab.cli import main as main_module
from cnn_lab.cli.runtime import UNREAD_STATUS

EXPERIMENT = """
from cnn_lab.config import *

def get_config():
    return ExperimentConfig(
        data=DataConfig(name="digits"),
        model=ModelConfig(name="linear"),
        train=TrainConfig(num_epochs=3, batch_size=64),
        log=LogConfig(tensorboard=False),
    )
"""


def start(*arguments: str, **pipes) -> subprocess.Popen:
    command = [sys.executable, "-m", "cnn_lab.cli.main", *arguments]
    return subprocess.Popen(command, cwd=Path(__file__).parents[2], text=True, **pipes)


@pytest.mark.parametrize("errors_too", [False, True])
def test_a_training_goes_on(errors_too: bool, tmp_path: Path):
    (tmp_path / "experiment.py").write_text(EXPERIMENT)
    command = ("train", f"--config={tmp_path}/experiment.py", f"--workdir={tmp_path}/run")
    with (tmp_path / "errors.txt").open("w") as errors:
        stderr = subprocess.STDOUT if errors_too else errors
        process = start(*command, stdout=subprocess.PIPE, stderr=stderr)
        assert process.stdout is not None
        assert process.stdout.readline()
        process.stdout.close()
        assert process.wait(timeout=120) == 0
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert record["status"] == "finished"
    told = (tmp_path / "errors.txt").read_text()
    expected = "Nobody reads the standard output any more; going on without it.\n"
    assert told == ("" if errors_too else expected)


@pytest.mark.parametrize("arguments", [("list", "models"), ("help", "config"), ("--version",)])
def test_other_commands_end_quietly(arguments):
    reader, writer = os.pipe()
    os.close(reader)
    process = start(*arguments, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == UNREAD_STATUS
    assert "Traceback" not in errors
    assert "BrokenPipe" not in errors
    assert "error" not in errors


def test_a_refusal_that_nobody_reads_keeps_its_status():
    reader, writer = os.pipe()
    os.close(reader)
    process = start("trian", stdout=writer, stderr=writer)
    os.close(writer)
    assert process.wait(timeout=120) == main_module.USAGE_STATUS


def test_another_broken_pipe_is_a_bug(monkeypatch, capfd):
    def lose(_):
        raise BrokenPipeError("a worker died")

    monkeypatch.setattr(main_module, "_main", lose)
    with pytest.raises(BrokenPipeError, match="a worker died"):
        main_module.main(["train"])
