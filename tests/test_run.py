"""A run from config to record: which weights are best, where it lives, what ends it."""

import json
import os
import signal
import threading
from pathlib import Path

import pytest

from cnn_lab.build import build, default_workdir
from cnn_lab.config import (
    DataConfig,
    EvaluateConfig,
    ExperimentConfig,
    ModelSpec,
    OptimConfig,
    SelectionConfig,
    TrainConfig,
)
from cnn_lab.core.errors import CheckpointError
from cnn_lab.run import run_training
from cnn_lab.train.checkpoint import Checkpoints
from cnn_lab.train.mesh import replicated
from cnn_lab.train.storable import sharded_shapes
from cnn_lab.train.workdir import count_test_opening, read_record


def small(**changes) -> ExperimentConfig:
    fields = {
        "data": DataConfig(num_train=64, num_validation=64),
        "model": ModelSpec(name="linear"),
        "optim": OptimConfig(name="sgd", learning_rate=0.05),
        "train": TrainConfig(num_epochs=4, batch_size=32),
    }
    return ExperimentConfig(**{**fields, **changes})


def validation(workdir: Path, metric: str) -> dict[int, float]:
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return {row["step"]: row[metric] for row in rows if row["split"] == "validation"}


@pytest.mark.parametrize(("metric", "choose"), [("loss", min), ("accuracy", max)])
def test_the_best_is_best_in_the_direction_of_the_metric(metric: str, choose, tmp_path: Path):
    config = small(selection=SelectionConfig(metric=metric))
    result = run_training(config, tmp_path / "run", lambda _: None)
    values = validation(tmp_path / "run", metric)
    assert len(set(values.values())) > 1
    assert result.progress.selection.best_value == choose(values.values())
    step = result.progress.selection.best_step
    assert step in Checkpoints(tmp_path / "run" / "checkpoints").steps()


def test_places_of_runs():
    assert default_workdir(Path("experiments/mnist/lenet5.py")) == Path("runs/mnist/lenet5")
    assert default_workdir(Path("experiments/mnist/lenet5.py"), "all") == Path(
        "runs/mnist/lenet5-all"
    )
    assert default_workdir(Path("runs/a/config.json")) == Path("runs/a")


def test_an_unreadable_disk_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run_training(small(), tmp_path / "run", lambda _: None)
    checkpoints = Checkpoints(tmp_path / "run" / "checkpoints")
    steps = checkpoints.steps()
    experiment = build(small())
    target = sharded_shapes(experiment.state_shapes(), replicated(experiment.mesh))

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(checkpoints._manager, "restore", refuse)  # a disk, not the thing tested
    with pytest.raises(CheckpointError, match=r"cannot be read .*Permission denied.*nothing was"):
        checkpoints.restore_newest_good(target, tmp_path / "damaged")
    assert checkpoints.steps() == steps
    assert not (tmp_path / "damaged").exists()


def test_openings_of_test_at_once_are_all_counted(tmp_path: Path):
    (tmp_path / "run.json").write_text('{"status": "finished"}')
    openings = [
        threading.Thread(target=count_test_opening, args=(tmp_path, {"accuracy": 0.5}))
        for _ in range(20)
    ]
    for thread in openings:
        thread.start()
    for thread in openings:
        thread.join()
    assert len(read_record(tmp_path)["test_openings"]) == 20


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_a_training_with_workers_saves(number: int, tmp_path: Path):
    """The run gets the signal after its third row, while workers read ahead."""

    class Stop:
        rows = 0

        def write(self, row) -> None:
            self.rows += 1
            if self.rows == 3:
                os.kill(os.getpid(), number)

        def close(self) -> None:
            pass

    data = DataConfig(num_train=64, num_validation=64, pipeline="streaming", num_workers=1)
    config = small(data=data, evaluate=EvaluateConfig(batch_size=32))
    result = run_training(config, tmp_path / "run", lambda _: None, sinks=[Stop()])
    assert result.status == "interrupted"
    step = result.progress.step
    assert Checkpoints(tmp_path / "run" / "checkpoints").steps()[-1] == step == 4
    result = run_training(config, tmp_path / "run", lambda _: None)
    assert (result.status, result.progress.step) == ("finished", 8)
    assert list(validation(tmp_path / "run", "loss")) == [2, 4, 6, 8]
