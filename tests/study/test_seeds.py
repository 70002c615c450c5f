"""`train --seeds=N`: one run a seed, resumed where it was cut, compared at the end."""

import dataclasses
import json
import statistics
from pathlib import Path

import jax
import numpy as np
import pytest

from cnn_lab.cli import runtime
from cnn_lab.cli.main import main
from cnn_lab.experiment import build
from cnn_lab.runs import diverging
from cnn_lab.runs.train import run_training
from cnn_lab.workdir.metric_writers import read_rows
from cnn_lab.workdir.run_dir import read_config, read_record

EXPERIMENT = """
from cnn_lab.config import *

def get_config():
    return ExperimentConfig(
        seed=3,
        data=DataConfig(num_train=64, num_validation=64),
        model=ModelConfig(name="linear"),
        optim=OptimConfig(name="sgd", learning_rate=0.05),
        train=TrainConfig(num_epochs=2, batch_size=32),
        log=LogConfig(tensorboard=False),
    )
"""


@pytest.fixture
def train(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(runtime, "start", lambda _: None)
    experiment = tmp_path / "linear.py"
    experiment.write_text(EXPERIMENT)

    def run(*arguments: str, workdir: Path = tmp_path / "runs") -> tuple[int, str, str]:
        status = main(["train", f"--config={experiment}", f"--workdir={workdir}", *arguments])
        return status, *capsys.readouterr()

    return run


def test_the_runs_differ_by_their_seed_and_are_summarised(train, tmp_path):
    status, text, _ = train("--seeds=3")
    assert status == 0
    folders = [tmp_path / "runs" / f"seed{seed}" for seed in (3, 4, 5)]
    assert [read_config(folder).seed for folder in folders] == [3, 4, 5]
    rows = [read_rows(folder / "metrics.jsonl") for folder in folders]
    validation = [[row for row in found if row["split"] == "validation"] for found in rows]
    summary = json.loads((tmp_path / "runs" / "seeds.json").read_text())
    assert summary["seeds"] == [3, 4, 5]
    losses = [run[-1]["loss"] for run in validation]
    assert summary["last loss"]["runs"] == losses
    assert len(set(losses)) == 3
    assert summary["last loss"]["mean"] == pytest.approx(statistics.mean(losses))
    assert summary["last loss"]["sd"] == pytest.approx(statistics.stdev(losses))
    best = [max(row["accuracy"] for row in run) for run in validation]
    assert summary["best accuracy"]["runs"] == best
    spread = f"{statistics.mean(best):.4f} +- {statistics.stdev(best):.4f} ("
    assert f"  best accuracy    {spread}" in text
    assert (tmp_path / "runs" / "seeds.png").read_bytes().startswith(b"\x89PNG")
    assert all((folder / "report.html").exists() for folder in folders)


def test_it_goes_on_where_it_was_cut(train, tmp_path, monkeypatch):
    ran: list[str] = []

    def cut(config, workdir, log):
        ran.append(workdir.name)
        result = run_training(config, workdir, log)
        return result if len(ran) != 2 else dataclasses.replace(result, status="interrupted")

    monkeypatch.setattr(diverging, "run_training", cut)
    overrides = ("--seeds=3", "--config.train.batch_size=16")
    status, text, _ = train(*overrides, "--interrupted_status=75")
    assert status == 75
    assert ran == ["seed3", "seed4"]
    assert "--seeds=3 --config.train.batch_size=16" in text.splitlines()[-1]
    status, text, _ = train(*overrides)
    assert status == 0
    assert ran == ["seed3", "seed4", "seed3", "seed4", "seed5"]
    assert "Validation over 3 seeds" in text
    sessions = [
        len(read_record(tmp_path / "runs" / f"seed{seed}")["sessions"]) for seed in (3, 4, 5)
    ]
    assert sessions == [1, 1, 1]  # those that had ended were not trained again


@pytest.fixture
def broken_seeds(monkeypatch):
    """Lets the trainings of some seeds diverge, in their second epoch or from the start."""
    seeds_that_do: set[int] = set()
    make = build.make_train_step

    def broken(model, task, optimizer, *arguments, **options):
        step = make(model, task, optimizer, *arguments, **options)
        return lambda state, batch: step(
            state.replace(params=jax.tree.map(lambda leaf: leaf * np.nan, state.params)), batch
        )

    def chosen(config, workdir, log):
        with monkeypatch.context() as patch:
            if config.seed in seeds_that_do:
                patch.setattr(build, "make_train_step", broken)
            return run_training(config, workdir, log)

    monkeypatch.setattr(diverging, "run_training", chosen)
    return seeds_that_do


def test_a_seed_that_diverges_is_a_result(train, tmp_path, broken_seeds):
    broken_seeds |= {4}
    status, text, error = train("--seeds=3")
    assert status == 2
    assert error.startswith("error: 1 of 3 seeds diverged (4), and the figures are of the others;")
    assert "It diverged: " in text
    assert "Validation over 2 seeds" in text
    summary = json.loads((tmp_path / "runs" / "seeds.json").read_text())
    assert summary["seeds"] == [3, 5]
    assert summary["diverged"] == [4]
    assert len(summary["last loss"]["runs"]) == 2
    note = tmp_path / "runs" / "seed4" / "diverged.txt"
    assert note.read_text() in text
    assert (tmp_path / "runs" / "seed4" / "report.html").exists()
    assert not (tmp_path / "runs" / "seed3" / "diverged.txt").exists()
    again = train("--seeds=3")
    assert again[0] == 2
    assert "It has diverged before." in again[1]
    assert len(read_record(note.parent)["sessions"]) == 1
    # RestoredRun after all, on its own, it counts.
    broken_seeds.clear()
    assert train("--config.seed=4", workdir=note.parent)[0] == 0
    status, text, _ = train("--seeds=3")
    assert status == 0
    assert "Validation over 3 seeds" in text


def test_too_few_seeds_that_ended_are_not_compared(train, tmp_path, broken_seeds):
    broken_seeds |= {3, 4}
    status, text, error = train("--seeds=3")
    assert status == 2
    assert "2 of 3 seeds diverged (3, 4), and too few are left to compare;" in error
    assert "Validation over" not in text
    assert read_record(tmp_path / "runs" / "seed5")["status"] == "finished"
    assert not (tmp_path / "runs" / "seeds.json").exists()


def test_nothing_is_trained_over_other_runs(train, tmp_path):
    assert train()[0] == 0
    status, _, error = train("--seeds=2")
    assert status == 2
    assert error.endswith(
        "runs is the folder of one run; give another --workdir for those of 2 seeds.\n"
    )


def test_a_folder_of_another_config_is_told_before_any_run(train, tmp_path):
    assert train("--seeds=2")[0] == 0
    again = train("--seeds=3", "--config.optim.learning_rate=0.1")
    assert again[0] == 2
    assert "optim.learning_rate: 0.05 there, 0.1 now" in again[2]
    assert not (tmp_path / "runs" / "seed5").exists()


def test_one_seed_is_no_spread(train):
    status, _, error = train("--seeds=1")
    assert status == 2
    assert error == (
        "error: --seeds must be a whole number of at least 2; found '1' (leave it out for one run, "
        "whose seed is --config.seed).\n"
    )
