"""A run from config to record: which weights are best, where it lives, what ends it."""

import json
import math
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from cnn_lab import run
from cnn_lab.build import Experiment, build, default_workdir
from cnn_lab.config import (
    DataConfig,
    EarlyStoppingConfig,
    EvaluateConfig,
    ExperimentConfig,
    LogConfig,
    ModelSpec,
    OptimConfig,
    SelectionConfig,
    TrainConfig,
)
from cnn_lab.core.errors import CheckpointError, CnnLabError
from cnn_lab.report.page import write_report
from cnn_lab.run import run_training
from cnn_lab.train import loop
from cnn_lab.train.checkpoint import CheckpointReader, Checkpoints
from cnn_lab.train.log import TensorBoard
from cnn_lab.train.mesh import replicated
from cnn_lab.train.signals import STOPPING
from cnn_lab.train.storable import sharded_shapes
from cnn_lab.train.workdir import LOCK_FILES, count_test_opening, read_record


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
def test_a_signal_to_a_training_with_workers_saves(number: int, tmp_path: Path, capfd):
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
    assert STOPPING in capfd.readouterr().err
    step = result.progress.step
    assert Checkpoints(tmp_path / "run" / "checkpoints").steps()[-1] == step == 4
    result = run_training(config, tmp_path / "run", lambda _: None)
    assert (result.status, result.progress.step) == ("finished", 8)
    assert list(validation(tmp_path / "run", "loss")) == [2, 4, 6, 8]


def state_digests(workdir: Path) -> dict[str, str]:
    """Digests of every leaf of the newest checkpoint."""
    with CheckpointReader(workdir / "checkpoints") as reader:
        return reader.read_record(reader.steps()[-1])["digests"]


def without_rates(workdir: Path) -> list[dict[str, Any]]:
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [
        {name: value for name, value in json.loads(line).items() if name != "examples_per_second"}
        for line in lines
    ]


def test_where_calls_are_cut_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    config = small(train=TrainConfig(num_epochs=2, batch_size=4))
    config.model = ModelSpec(name="mlp", options={"hidden": (8,), "dropout_rate": 0.3})
    run_training(config, tmp_path / "as it comes", lambda _: None)
    monkeypatch.setattr(loop, "SECONDS_PER_CALL", 1e-9)
    run_training(config, tmp_path / "one by one", lambda _: None)
    monkeypatch.setattr(loop, "SECONDS_PER_CALL", 1e9)
    monkeypatch.setattr(loop, "GROWTH", 1000)
    run_training(config, tmp_path / "as many as fit", lambda _: None)
    folders = sorted(tmp_path.iterdir())
    assert len(folders) == 3
    for folder in folders[1:]:
        assert state_digests(folder) == state_digests(folders[0])
        assert without_rates(folder) == without_rates(folders[0])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("place", ["build", "compile_train"])
def test_a_signal_before_the_loop_leaves_nothing_behind(
    number: int, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(run, place, lambda *_: signal.raise_signal(number))
    with pytest.raises(KeyboardInterrupt):
        run_training(small(), tmp_path / "runs" / "a", lambda _: None)
    assert not list(tmp_path.iterdir())
    (tmp_path / "b").mkdir()
    with pytest.raises(KeyboardInterrupt):
        run_training(small(), tmp_path / "b", lambda _: None)
    assert {path.name for path in (tmp_path / "b").iterdir()} <= LOCK_FILES
    monkeypatch.undo()
    assert run_training(small(), tmp_path / "b", lambda _: None).status == "finished"


def test_a_start_that_fails_leaves_nothing_behind(tmp_path: Path):
    missing = small(data=DataConfig(name=f"folder:{tmp_path}/nowhere"))
    with pytest.raises(CnnLabError, match="nowhere"):
        run_training(missing, tmp_path / "runs" / "a", lambda _: None)
    assert not list(tmp_path.iterdir())


class NaNs:
    """An evaluation whose metrics are not finite from the second on."""

    count = 0
    compile_seconds = 0.0

    def compile(self, _):
        return self

    def __call__(self, _) -> dict[str, float]:
        self.count += 1
        return {"loss": 1.0 if self.count == 1 else math.nan, "accuracy": math.nan}


def test_an_evaluation_that_is_not_finite_is_recorded_and_never_the_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(Experiment, "evaluator", lambda _: NaNs())
    config = small(selection=SelectionConfig(metric="loss"))
    config.early_stopping = EarlyStoppingConfig(patience=2)
    result = run_training(config, tmp_path / "run", lambda _: None)
    assert (result.status, result.progress.step) == ("stopped early", 6)
    selection = result.progress.selection
    assert (selection.best_value, selection.best_step, selection.stale_checks) == (1.0, 2, 2)
    for name in ("metrics.jsonl", "run.json"):
        assert "NaN" not in (tmp_path / "run" / name).read_text()
    assert validation(tmp_path / "run", "loss") == {2: 1.0, 4: None, 6: None}
    page = write_report(tmp_path / "run").page.read_text()
    assert page.count("not finite") == 5


def test_a_moved_folder_keeps_its_identity_and_the_next_one_gets_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked = []

    class Spy(TensorBoard):
        def __init__(self, workdir, project, identity, config):
            asked.append(identity)
            super().__init__(workdir, 0)

    monkeypatch.setattr(run, "WeightsAndBiases", Spy)
    monkeypatch.setattr(run, "require_wandb", lambda: None)
    config = small(log=LogConfig(tensorboard=False, wandb_project="project"))
    config.train.num_epochs = 1
    run_training(config, tmp_path / "a", lambda _: None)
    record = read_record(tmp_path / "a")
    assert record["wandb_id"] == asked[0]
    (tmp_path / "a" / "run.json").write_text(json.dumps({**record, "status": "interrupted"}))
    (tmp_path / "a").rename(tmp_path / "b")
    run_training(config, tmp_path / "b", lambda _: None)
    run_training(config, tmp_path / "a", lambda _: None)
    assert asked[1] == asked[0]
    assert asked[2] != asked[0]
    assert all(len(identity) == 16 for identity in asked)
