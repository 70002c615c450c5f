"""A dry run leaves every folder as it was."""

import logging
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import flax.linen as nn
import jax
import numpy as np
import pytest
from PIL import Image

from cnn_lab.cli import runtime
from cnn_lab.cli.dry_run import learning_lines
from cnn_lab.cli.main import main
from cnn_lab.config import (
    AugmentConfig,
    AverageConfig,
    DataConfig,
    ExperimentConfig,
    OptimConfig,
    ScheduleConfig,
    TaskConfig,
)
from cnn_lab.models.registry import MODELS, ModelEntry
from cnn_lab.tasks.classification import classification

EXPERIMENT = """
from cnn_lab.config import *

def get_config():
    return ExperimentConfig(
        data=DataConfig(name="digits", image_size=(9, 9)),
        model=ModelConfig(name="linear"),
        train=TrainConfig(num_epochs=1, batch_size=64),
    )
"""


@pytest.fixture
def command(tmp_path: Path):
    """Runs `cnn-lab` as somebody who has nothing but an experiment file."""
    (tmp_path / "here").mkdir()
    (tmp_path / "here/experiment.py").write_text(EXPERIMENT)
    (tmp_path / "tmp").mkdir()
    env = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    env |= {"HOME": str(tmp_path / "home"), "CNN_LAB_DATA_DIR": str(tmp_path / "data")}

    def run(*arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-m", "cnn_lab.cli.main", *arguments],
            cwd=tmp_path / "here",
            env={**env, "TMPDIR": str(tmp_path / "tmp")},
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
        )

    return run


@pytest.fixture
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture):
    """The same in this process, for what is written elsewhere is not looked at."""
    (tmp_path / "here").mkdir()
    (tmp_path / "here/experiment.py").write_text(EXPERIMENT)
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("CNN_LAB_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setattr(runtime, "start", lambda _: None)

    def run(*arguments: str) -> tuple[int, str, str]:
        capfd.readouterr()
        status = main(arguments)
        return (status, *capfd.readouterr())

    return run


def everything(folder: Path) -> dict[str, int]:
    """Every file and folder with its time of change, which making a file changes."""
    return {
        str(path): path.stat().st_mtime_ns
        for path in folder.rglob("*")
        if path != folder / "tmp"  # files come and go there
    }


DRY_RUN = ("train", "--config=experiment.py", "--workdir=run", "--dry_run")


def test_nothing_is_written_before_and_after_the_data_are_prepared(command, tmp_path: Path):
    before = everything(tmp_path)
    refused = command(*DRY_RUN)
    assert refused.returncode == 2
    assert "digits is not prepared yet" in refused.stderr
    assert "`cnn-lab data prepare digits`" in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert everything(tmp_path) == before

    assert command("data", "prepare", "digits").returncode == 0
    prepared = everything(tmp_path)
    described = command(*DRY_RUN)
    assert described.returncode == 0, described.stderr
    assert "linear: 820 parameters" in described.stdout
    assert "loss        cross_entropy\n" in described.stdout
    assert everything(tmp_path) == prepared


def test_what_takes_long_is_done_only_on_request(inside, caplog: pytest.LogCaptureFixture):
    def programs(*arguments: str) -> tuple[str, set[str]]:
        caplog.clear()
        jax.config.update("jax_log_compiles", True)  # in all threads
        try:
            with caplog.at_level(logging.WARNING):
                status, output, errors = inside(*DRY_RUN, *arguments)
        finally:
            jax.config.update("jax_log_compiles", False)
        assert status == 0, errors
        found = re.findall(r"XLA compilation of (\S+)", caplog.text)
        return output, {"jit(train)", "jit(evaluate)"}.intersection(found)

    assert inside("data", "prepare", "digits")[0] == 0
    output, compiled = programs()
    assert output.startswith("linear on digits is traced, and not trained.\n")
    assert compiled == set()
    assert "MiB scratch" not in output
    assert "left out    scratch memory" in output
    output, compiled = programs("--compile")
    assert compiled == {"jit(train)", "jit(evaluate)"}
    assert "MiB scratch" in output
    assert "left out" not in output
    train = [argument for argument in DRY_RUN if argument != "--dry_run"]
    assert inside(*train, "--compile")[0] == 2


def test_a_mistake_in_training_alone_shows(inside, monkeypatch: pytest.MonkeyPatch):
    def only_evaluates(num_classes: int) -> nn.Module:
        return OnlyEvaluates(num_classes)

    entry = ModelEntry(cast(Any, only_evaluates), "a test's", "none", (8, 8, 1), 0)
    monkeypatch.setitem(MODELS, "linear", entry)
    assert inside("data", "prepare", "digits")[0] == 0
    with pytest.raises(ZeroDivisionError):
        inside(*DRY_RUN)


class OnlyEvaluates(nn.Module):
    num_classes: int

    @nn.compact
    def __call__(self, images, *, train: bool):
        if train:
            raise ZeroDivisionError
        return nn.Dense(self.num_classes)(images.reshape(len(images), -1))


def test_what_is_learned_by_which_means_is_said():
    config = ExperimentConfig(
        data=DataConfig(augment=AugmentConfig(strength="light", options={"mixup": 0.2})),
        task=TaskConfig(loss_options={"label_smoothing": 0.1}, class_weights="balanced"),
        optim=OptimConfig(
            name="adamw",
            learning_rate=2e-3,
            options={"weight_decay": 0.1},
            schedule=ScheduleConfig(name="cosine", warmup_steps=20),
            clip_norm=1.0,
        ),
        average=AverageConfig(kind="ema"),
    )
    assert learning_lines(config, classification()) == [
        "loss        cross_entropy (label_smoothing=0.1, class_weights=balanced)",
        "optimizer   adamw (weight_decay=0.1, clip_norm=1.0), rate 0.002, cosine (warmup_steps=20)",
        "augment     light, the usual recipe of the data, (mixup=0.2)",
        "average     ema",
    ]


def test_a_folder_that_is_not_prepared_is_not_copied(command, tmp_path: Path):
    for index in range(4):
        path = tmp_path / f"photos/{'ab'[index % 2]}/{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((9, 9), index, np.uint8)).save(path)
    before = everything(tmp_path)
    refused = command(*DRY_RUN, "--config.data.name=folder:../photos")
    assert refused.returncode == 2
    assert f"`cnn-lab data prepare folder:{tmp_path / 'photos'}`" in refused.stderr
    assert everything(tmp_path) == before


def test_more_memory_than_there_is_is_warned_of(inside, tmp_path: Path):
    assert inside("data", "prepare", "digits")[0] == 0
    assert "WARNING" not in inside(*DRY_RUN)[1]
    in_memory = ("--config.data.loader=in_memory", "--config.data.image_size=100000,100000")
    for overrides in (
        ("--config.model.name=mlp", "--config.model.options.hidden=1000000,1000000"),
        in_memory,
    ):
        status, output, errors = inside(*DRY_RUN, *overrides)
        assert status == 0, errors
        warning = output.splitlines()[-1]
        assert warning.startswith("WARNING     it needs about ")
        assert " TB of memory, but this machine has " in warning
        assert "config.train.batch_size" in warning
    train = (argument for argument in DRY_RUN if argument != "--dry_run")
    status, _, errors = inside(*train, *in_memory)
    assert status == 2
    assert "set config.data.loader=streaming" in errors
    assert not (tmp_path / "here/run").exists()
    assert not list(tmp_path.rglob("images-*")), "pixels were read"
