"""Every experiment in experiments/ runs, shrunk to two steps."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnn_lab.config import (
    CheckpointConfig,
    DataConfig,
    EarlyStoppingConfig,
    EvaluateConfig,
    ExperimentConfig,
    LogConfig,
    TrainConfig,
)
from cnn_lab.config.load import load_config
from cnn_lab.config.node import from_dict, to_dict
from cnn_lab.runs.train import run_training

ROOT = Path(__file__).parents[1]
STUDIES = ROOT / "experiments" / "studies"
FILES = [p for p in sorted((ROOT / "experiments").glob("**/*.py")) if p.parent != STUDIES]


def table_of_images(folder: Path) -> str:
    """A table of 40 images with a number each."""
    lines = ["path,number"]
    for index in range(40):
        Image.fromarray(np.full((8, 8), 6 * index, np.uint8)).save(folder / f"{index}.png")
        lines.append(f"{index}.png,{index / 4}")
    (folder / "numbers.csv").write_text("\n".join(lines))
    return f"table:{folder / 'numbers.csv'}"


def shrunk(config: ExperimentConfig, folder: Path) -> ExperimentConfig:
    """The same experiment shrunk to two steps on a few small images."""
    small = from_dict(ExperimentConfig, to_dict(config))
    small.data = DataConfig(
        name=table_of_images(folder) if config.task.name == "regression" else "digits",
        data_dir=str(folder / "data"),
        image_size=config.data.image_size or (32, 32),
        pad=config.data.pad,
        channels=config.data.channels,
        num_train=16,
        num_validation=16,
    )
    small.data.augment, small.data.sampling = config.data.augment, config.data.sampling
    small.optim.schedule.warmup_steps = min(1, config.optim.schedule.warmup_steps)
    small.optim.schedule.warmup_epochs = min(0.5, config.optim.schedule.warmup_epochs)
    small.optim.schedule.options.pop("milestones_epochs", None)  # beyond so short a run
    if small.average is not None:
        small.average.start_epoch, small.average.every_epochs = 0, 1
    small.train = TrainConfig(
        num_epochs=1,
        batch_size=8,
        num_micro_batches=min(2, config.train.num_micro_batches),
        rematerialise=config.train.rematerialise,
    )
    if small.optim.schedule.name == "plateau":  # with evaluations enough to lower the rate
        small.train.num_epochs, small.optim.schedule.options["patience"] = 3, 1
    small.evaluate = EvaluateConfig(batch_size=8)
    if config.early_stopping is not None:
        small.early_stopping = EarlyStoppingConfig()
    small.checkpoint = CheckpointConfig()
    small.log = LogConfig(tensorboard=False)
    return small


def test_there_are_experiments():
    assert len(FILES) >= 3


def named(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


SLOW = {"cifar10/densenet", "cifar10/vgg11"}  # to compile


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=named(path), marks=[pytest.mark.slow] if named(path) in SLOW else [])
        for path in FILES
    ],
)
def test_experiment_runs_two_steps(path: Path, tmp_path: Path):
    result = run_training(
        shrunk(load_config(str(path)), tmp_path), tmp_path / "run", lambda _: None
    )
    assert result.status == "finished"
    assert result.progress.step == 2
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["split"] for row in rows] == ["train", "validation"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_experiment_file_is_short_and_says_how_to_run_it(path: Path):
    text = path.read_text()
    assert len(text.splitlines()) <= 60
    command = f"cnn-lab train --config={path.relative_to(ROOT)}"
    assert command in text.split('"""')[1]
