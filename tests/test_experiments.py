"""Every experiment in experiments/ runs, shrunk to two steps."""

import json
from pathlib import Path

import pytest

from cnn_lab.config.load import load_config
from cnn_lab.config.rules import smoke
from cnn_lab.runs.run import run_training

ROOT = Path(__file__).parents[1]
STUDIES = ROOT / "experiments" / "studies"
FILES = [p for p in sorted((ROOT / "experiments").glob("**/*.py")) if p.parent != STUDIES]


def test_there_are_experiments():
    assert len(FILES) >= 3


def named(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


SLOW = {"cifar10/densenet"}  # to compile, a minute


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=named(path), marks=[pytest.mark.slow] if named(path) in SLOW else [])
        for path in FILES
    ],
)
def test_experiment_runs_two_steps(path: Path, tmp_path: Path):
    result = run_training(smoke(load_config(str(path), [])), tmp_path / "run", lambda _: None)
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
