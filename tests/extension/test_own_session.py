"""What the cells of a session register: trained with there, and named where it is missing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from refusals import refused

import cnn_lab
from cnn_lab.cli import runtime
from cnn_lab.cli.main import main
from cnn_lab.core.errors import ConfigError
from cnn_lab.tasks.losses import LOSSES

ROOT = Path(__file__).parents[2]
LOSS = """
import jax.numpy as jnp, numpy as np
import cnn_lab
from cnn_lab.tasks.losses import LOSSES

@LOSSES.register()
def session_loss(logits, targets):
    return jnp.square(logits[:, 0] - targets)
"""
TRAINING = """
config = cnn_lab.ExperimentConfig()
config.model.name, config.task.loss = "linear", "session_loss"
config.train.batch_size, config.train.num_epochs, config.log.tensorboard = 8, 1, False
data = cnn_lab.from_arrays(np.zeros((40, 8, 8), np.uint8), [0, 1] * 20)
run = cnn_lab.train(config, data, "run", progress=True)
print(cnn_lab.load_run("run").status, len(run.predict(np.zeros((2, 8, 8))).rows()))
"""


def python(folder: Path, *words: str) -> subprocess.CompletedProcess:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *words], cwd=folder, env=env, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def session(tmp_path_factory) -> tuple[Path, str]:
    """The folder of a session that trained a run with a loss of its own, and its output."""
    folder = tmp_path_factory.mktemp("session")
    done = python(folder, "-c", LOSS + TRAINING)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def test_a_session_trains_with_what_it_registered_and_says_so(session):
    folder, output = session
    assert output.splitlines()[-1] == "finished 2"
    warning = (
        "Warning: registered in this session: loss 'session_loss'; other sessions and commands "
        "cannot open the run until it is put in a module."
    )
    assert output.splitlines().count(warning) == 1
    assert json.loads((folder / "run/run.json").read_text())["imports"] == {"__main__": None}


def test_another_session_is_told_what_is_missing(session, capsys, monkeypatch):
    folder, _ = session
    fields = {"where": "config.task.loss", "found": "session_loss"}
    with refused(ConfigError, **fields):
        cnn_lab.load_run(folder / "run")
    monkeypatch.setattr(runtime, "start", lambda _: None)
    for command in (
        ("predict", f"--workdir={folder}/run", "image.png"),
        ("evaluate", f"--workdir={folder}/run"),
        ("train", f"--config={folder}/run/config.json"),
        ("finetune", f"--from={folder}/run", "--data=digits", f"--workdir={folder}/tuned"),
    ):
        assert main(list(command)) == 2
        errors = capsys.readouterr().err
        assert "a loss that was registered in the session that trained" in errors
    try:
        LOSSES.register(name="session_loss")(lambda logits, _: logits[:, 0])
        assert cnn_lab.load_run(folder / "run").status == "finished"
    finally:
        del LOSSES["session_loss"]


def test_a_script_puts_it_in_a_module(tmp_path: Path):
    (tmp_path / "script.py").write_text(LOSS + TRAINING)
    done = python(tmp_path, "script.py")
    assert done.returncode == 1
    assert "script.py itself, so that no later command would know it" in done.stderr
    assert not (tmp_path / "run").exists()
