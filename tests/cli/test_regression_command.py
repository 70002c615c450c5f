"""Regression by command: a table of images and numbers, from training to predictions and a page."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from refusals import refused

from cnn_lab.cli import runtime
from cnn_lab.cli.main import main
from cnn_lab.config.load import load_config
from cnn_lab.core.errors import ConfigError
from cnn_lab.experiment.components import make_components

SIDE, NUMBER = 12, 160


def write_images(folder: Path, number: int, seed: int) -> list[tuple[str, float, float]]:
    """Images of a light square; its middle is to be predicted, in pixels."""
    random, rows = np.random.default_rng(seed), []
    folder.mkdir(parents=True)
    for index in range(number):
        top, left = random.integers(0, SIDE - 3, 2)
        image = random.integers(0, 40, (SIDE, SIDE)).astype(np.uint8)
        image[top : top + 4, left : left + 4] = 220
        Image.fromarray(image).save(folder / f"{index}.png")
        rows.append((f"{folder.name}/{index}.png", top + 1.5, left + 1.5))
    return rows


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list]:
    """The folder of a finished run, and rows of images that it has not seen."""
    place = tmp_path_factory.mktemp("regression")
    rows = write_images(place / "images", NUMBER, 0)
    with (place / "squares.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "row", "column"), *rows])
    flags = (
        f"--config=experiments/regression.py:{place / 'squares.csv'}",
        f"--workdir={place / 'run'}",
        f"--config.data.data_dir={place / 'data'}",
        "--config.data.image_size=none",
        "--config.model.name=mlp",
        "--config.model.options.hidden=64,",
        "--config.train.num_epochs=40",
        "--config.train.batch_size=16",
        "--config.optim.learning_rate=0.005",
        "--config.log.tensorboard=false",
    )
    with pytest.MonkeyPatch.context() as patch:  # another test may have begun to compute
        patch.setattr(runtime, "start", lambda _: None)
        assert main(["train", *flags]) == 0
    return place, write_images(place / "others", 20, 1)


@pytest.fixture(autouse=True)
def _process(monkeypatch):
    monkeypatch.setattr(runtime, "start", lambda _: None)


def test_it_is_trained_by_what_the_task_measures(trained):
    run = trained[0] / "run"
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        assert {"loss", "mae", "rmse", "r2"} <= row.keys()
        assert not [name for name in row if name.endswith("_0")]
    validation = [row for row in rows if row["split"] == "validation"]
    record = json.loads((run / "run.json").read_text())
    best = record["progress"]["selection"]["best_value"]
    assert best == min(row["loss"] for row in validation)
    assert validation[-1]["r2"] > 0.8
    assert record["target"] == {"kind": "numbers", "names": ["row", "column"]}
    assert "2 numbers" in (run / "report.html").read_text()


def test_evaluate_prints_errors_and_draws_predictions(trained, capsys):
    run = trained[0] / "run"
    assert main(["evaluate", f"--workdir={run}"]) == 0
    printed = capsys.readouterr().out
    values = json.loads((run / "evaluation_validation.json").read_text())["networks"][0]
    assert list(values["metrics"]) == ["loss", "mae", "rmse", "r2"]
    for name, value in values["metrics"].items():
        assert f"{name:<12} {value:.6f}" in printed
    low, high = values["intervals"]["mae"].values()
    assert low < values["metrics"]["mae"] < high
    assert values["intervals"].keys() == {"mae", "rmse"}
    numbers = values["numbers"]
    assert [number["name"] for number in numbers] == ["row", "column"]
    for name in ("mae", "rmse", "r2"):
        mean = np.mean([number[name] for number in numbers])
        assert values["metrics"][name] == pytest.approx(mean, rel=1e-4)
    page = (run / "evaluation_validation.html").read_text()
    for number in numbers:
        (line,) = (line for line in printed.splitlines() if line.startswith(f"  {number['name']} "))
        shown = [float(f"{number[name]:.6g}") for name in ("mae", "rmse", "bias", "r2")]
        assert [float(text) for text in line.split()[1:]] == shown
        assert f"<tr><td>{number['name']}</td>" in page
    assert page.count("data:image/png;base64,iVBOR") == 1
    assert "Predicted over true numbers" in page
    assert "<h2>Classes" not in page


def test_predict_prints_numbers(trained, capsys):
    place, others = trained
    files = [str(place / name) for name, *_ in others]
    assert main(["predict", f"--workdir={place / 'run'}", *files]) == 0
    found = []
    for line in capsys.readouterr().out.splitlines():
        path, row, column = line.split("  ")
        assert path == files[len(found)]
        assert (row.split()[0], column.split()[0]) == ("row", "column")
        found.append((float(row.split()[1]), float(column.split()[1])))
    errors = np.array(found) - [numbers for _, *numbers in others]
    assert np.abs(errors).mean() < 1.5


def test_what_is_for_classes_is_refused(trained):
    place, _ = trained
    config = load_config(str(place / "run" / "config.json"), [])
    config.data.augment.options = {"mixup": 0.2}
    with refused(ConfigError, where="config.task.name", found="regression"):
        make_components(config)
    config = load_config(str(place / "run" / "config.json"), [])
    config.selection.metric = "accuracy"
    fields = {"found": "accuracy", "allowed": ["loss", "mae", "r2", "rmse"]}
    with refused(ConfigError, where="config.selection.metric", **fields):
        make_components(config)
    config.selection.metric, config.task.loss = None, "cross_entropy"
    with refused(ConfigError, where="config.task.loss", found="cross_entropy"):
        make_components(config)
    config.task.loss, config.task.options = None, {"standardise": False}
    near = ("standardize",)
    with refused(ConfigError, where="config.task.options", found="standardise", nearest=near):
        make_components(config)


def test_averages_over_networks_and_views_are_for_classes(trained, capsys):
    run = trained[0] / "run"
    assert main(["evaluate", f"--workdir={run}", "--tta=flip"]) == 2
    assert "--tta is for classification" in capsys.readouterr().err
