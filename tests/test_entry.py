"""The real command line in subprocesses: train, kill, resume, evaluate, predict."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from cnn_lab.checkpoint.writer import Checkpoints
from cnn_lab.cli import runtime
from cnn_lab.cli.main import main

ROOT = Path(__file__).parents[1]
CONFIG = [
    "--config=experiments/digits/lenet5.py",
    "--config.train.num_epochs=6",
    "--config.train.log_every_steps=7",
    "--config.checkpoint.every_steps=10",
    "--config.model.options.dropout_rates=0.3,0.3,0",
    "--config.early_stopping.patience=50",
]
TOTAL_STEPS = 108


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory):
    """Starts `cnn-lab` as a user would, with a compilation cache of this module's own."""
    cache = tmp_path_factory.mktemp("xla")

    def start(*arguments: str) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "-m", "cnn_lab.cli.main", *arguments],
            cwd=ROOT,
            env={**os.environ, "JAX_COMPILATION_CACHE_DIR": str(cache), "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


@pytest.fixture
def inside(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture):
    """Runs `cnn-lab` in this process, where one of its own is not the point."""
    monkeypatch.setattr(runtime, "start", lambda _: None)
    monkeypatch.chdir(ROOT)

    def run(*arguments: str) -> tuple[str, str]:
        capfd.readouterr()
        status = main(arguments)
        output, errors = capfd.readouterr()
        assert status == 0, output + errors
        return output, errors

    return run


@pytest.fixture(scope="module")
def finished(command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody interrupted."""
    workdir = tmp_path_factory.mktemp("runs") / "undisturbed"
    output = succeed(command("train", *CONFIG, f"--workdir={workdir}"))
    for name in ("checkpoints", "metrics.jsonl", "learning_curves.png", "report.html"):
        assert str(workdir / name) in output
        assert (workdir / name).exists()
    return workdir


def succeed(process: subprocess.Popen) -> str:
    output, errors = process.communicate(timeout=240)
    assert process.returncode == 0, output + errors
    return output


def rows(workdir: Path) -> list[dict[str, Any]]:
    """Metric rows without the one value that is a measurement of time."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    parsed = [json.loads(line) for line in lines]
    return [{k: v for k, v in row.items() if k != "examples_per_second"} for row in parsed]


def record(workdir: Path) -> dict[str, Any]:
    values = Checkpoints(workdir / "checkpoints").read_record(TOTAL_STEPS)
    del values["sha256"], values["progress"]["seconds"]
    return values


def wait_for_step(process: subprocess.Popen, workdir: Path, step: int) -> None:
    """Waits until the checkpoint of that step, or a later one, has been committed."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        names = [p.name for p in (workdir / "checkpoints").glob("*")]
        if any(name.isdecimal() and int(name) >= step for name in names):
            return
        time.sleep(0.002)
    raise AssertionError(f"no checkpoint of step {step}")


def test_killed_and_resumed_equals_uninterrupted(command, finished: Path, tmp_path: Path):
    workdir = tmp_path / "killed"
    for step in (10, 40, 80):
        process = command("train", *CONFIG, f"--workdir={workdir}")
        wait_for_step(process, workdir, step)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    output = succeed(command("train", *CONFIG, f"--workdir={workdir}"))
    assert "Resuming" in output
    assert record(workdir) == record(finished)  # digests of every leaf, selection, sums
    assert rows(workdir) == rows(finished)
    sessions = json.loads((workdir / "run.json").read_text())["sessions"]
    assert [session["status"] for session in sessions] == ["cut off"] * 3 + ["finished"]
    assert [row["step"] for row in rows(finished) if row["split"] == "validation"] == [
        18 * epoch for epoch in range(1, 7)
    ]


def test_sigterm_saves_and_says_how_to_resume(command, finished: Path, tmp_path: Path):
    workdir = tmp_path / "stopped"
    process = command("train", *CONFIG, f"--workdir={workdir}")
    wait_for_step(process, workdir, 10)
    process.terminate()
    output = succeed(process)
    assert "Interrupted at step" in output
    assert f"cnn-lab train {CONFIG[0]} --workdir={workdir} {CONFIG[1]}" in output
    step = int(output.split("Interrupted at step ")[1].split(";")[0])
    assert Checkpoints(workdir / "checkpoints").steps()[-1] == step
    succeed(command("train", *CONFIG, f"--workdir={workdir}"))
    assert record(workdir) == record(finished)
    assert rows(workdir) == rows(finished)


def test_finished_run_says_so(inside, finished: Path):
    before = rows(finished)
    output, _ = inside("train", *CONFIG, f"--workdir={finished}")
    assert f"Nothing to do: this run has finished at step {TOTAL_STEPS}." in output
    assert rows(finished) == before


def test_its_config_runs_again_to_the_same_weights(command, finished: Path, tmp_path: Path):
    again = tmp_path / "again"
    succeed(command("train", f"--config={finished / 'config.json'}", f"--workdir={again}"))
    assert record(again) == record(finished)


def test_evaluate_agrees_with_training_and_counts_test(command, inside, finished: Path):
    best = max(
        (r for r in rows(finished) if r["split"] == "validation"), key=lambda r: r["accuracy"]
    )
    output = succeed(command("evaluate", f"--workdir={finished}"))
    assert f"checkpoint {best['step']}," in output
    assert f"accuracy     {best['accuracy']:.6f}" in output
    for times in (1, 2):
        output, _ = inside("evaluate", f"--workdir={finished}", "--split=test")
        assert "test split, 360 images" in output
        assert f"has now been opened {times} time" in output
    openings = json.loads((finished / "run.json").read_text())["test_openings"]
    assert len(openings) == 2
    assert openings[0]["accuracy"] == openings[1]["accuracy"] > 0.8
    assert f"report       {finished / 'report.html'}" in output
    assert f"{openings[1]['accuracy']:.4f}" in (finished / "report.html").read_text()


def test_predict_names_classes(command, finished: Path, tmp_path: Path):
    digits: Any = load_digits()
    paths = []
    for index in range(40):
        pixels = np.rint(digits.images[index] * 255 / 16).astype(np.uint8)
        paths.append(tmp_path / f"{digits.target[index]}-{index}.png")
        Image.fromarray(pixels).save(paths[-1])
    output = succeed(command("predict", f"--workdir={finished}", "--top=2", *map(str, paths)))
    lines = output.splitlines()
    assert len(lines) == len(paths)
    named = [line.split("  ")[1].split(" ")[0] for line in lines]
    assert sum(name == path.name[0] for name, path in zip(named, paths, strict=True)) >= 34
    assert all(len(line.split("  ")) == 3 for line in lines)


@pytest.mark.parametrize(
    ("flags", "image", "hint"),
    [((), "light", ""), ((), "dark", "add --invert"), (("--invert",), "light", "leave out")],
)
def test_predict_hints_at_negatives(inside, finished: Path, tmp_path: Path, flags, image, hint):
    digits: Any = load_digits()
    pixels = np.rint(digits.images[0] * 255 / 16).astype(np.uint8)
    path = tmp_path / f"{image}.png"
    Image.fromarray(pixels if image == "light" else 255 - pixels).save(path)
    output, errors = inside("predict", f"--workdir={finished}", *flags, str(path))
    assert output.startswith(f"{path}  ")
    assert errors.startswith(f"hint: {path} is about as bright" if hint else "")
    assert hint in errors
    assert errors.count("\n") == bool(hint)


def test_predict_of_inverted_negatives(inside, finished: Path, tmp_path: Path):
    digits: Any = load_digits()
    Image.fromarray(255 - np.rint(digits.images[0] * 255 / 16).astype(np.uint8)).save(
        tmp_path / "dark.png"
    )
    output, _ = inside("predict", f"--workdir={finished}", "--invert", str(tmp_path / "dark.png"))
    assert output.split("  ")[1].startswith("0 ")
