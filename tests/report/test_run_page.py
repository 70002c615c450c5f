"""The page of a run, from what its folder holds."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from cnn_lab.config import NO_DATA, AugmentConfig, AverageConfig, DataConfig, ExperimentConfig
from cnn_lab.config.node import to_dict
from cnn_lab.report.run import write_report
from cnn_lab.workdir.metric_writers import METRICS_FILE, JsonLines
from cnn_lab.workdir.run_dir import CONFIG_FILE, RECORD_FILE, count_test_opening

SESSION = {
    "started": "2026-01-01T00:00:00",
    "first_step": 0,
    "last_step": 4,
    "status": "finished",
    "devices": "1 x cpu",
    "packages": {"jax": "0.10"},
    "git": None,
}
RECORD = {
    "status": "finished",
    "sessions": [SESSION],
    "target": {"kind": "class", "names": ["cat", "dog"]},
    "selection_metric": "accuracy",
    "num_parameters": 1234,
    "compile_seconds": 1.5,
    "progress": {
        "step": 4,
        "seconds": 2.5,
        "selection": {"best_value": 0.75, "best_step": 2},
    },
}
RATES = {"learning_rate": 0.1, "gradient_norm": 2.0, "examples_per_second": 99.0}


def row(step: int, split: str, **values: float) -> dict[str, Any]:
    extra = RATES if split == "train" else {}
    return {"step": step, "epoch": step / 2, "split": split, **values, **extra}


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    (tmp_path / CONFIG_FILE).write_text(json.dumps(to_dict(ExperimentConfig())))
    (tmp_path / RECORD_FILE).write_text(json.dumps(RECORD))
    sink = JsonLines(tmp_path, resume_step=0)
    for step in (2, 4):
        sink.write(row(step, "train", accuracy=0.5, loss=1.0))
        sink.write(row(step, "validation", accuracy=0.25 + step / 4, loss=float("nan")))
    sink.close()
    return tmp_path


def heads(page: str, title: str) -> list[str]:
    """The head of the table under a title."""
    table = page.split(f"<h2>{title}</h2>")[1].split("</tr>")[0]
    return re.findall(r"<th[^>]*>(.*?)</th>", table)


def cells(page: str, title: str) -> list[list[str]]:
    """The rows of the table under a title."""
    table = page.split(f"<h2>{title}</h2>")[1].split("</table>")[0]
    rows = [re.findall(r"<td[^>]*>(.*?)</td>", part) for part in table.split("<tr")]
    return [found for found in rows if found]


def test_evaluations_are_shown_with_the_metrics_there_are(workdir: Path):
    report = write_report(workdir)
    assert report.beside.read_bytes().startswith(b"\x89PNG")
    page = report.page.read_text()
    assert heads(page, "Evaluations") == ["step", "epoch", "loss", "accuracy"]
    assert cells(page, "Evaluations") == [
        ["2", "1", "not finite", "0.7500"],
        ["4", "2", "not finite", "1.2500"],
    ]
    assert "<h2>Test</h2>" not in page


def test_another_task_needs_no_other_page(workdir: Path):
    rows = [row(2, "train", mean_iou=0.5, loss=1.0), row(2, "validation", mean_iou=0.25, loss=2.0)]
    (workdir / METRICS_FILE).write_text("".join(json.dumps(r) + "\n" for r in rows))
    page = write_report(workdir).page.read_text()
    assert heads(page, "Evaluations") == ["step", "epoch", "loss", "mean_iou"]
    assert cells(page, "Evaluations") == [["2", "1", "2.0000", "0.2500"]]


def test_openings_of_the_test_split_are_shown(workdir: Path):
    write_report(workdir)
    count_test_opening(workdir, {"step": 2, "loss": 0.5, "accuracy": 0.875})
    values = {"loss": float("inf"), "accuracy": 0.5}
    count_test_opening(workdir, {"step": 4, "tta": "flip", **values})
    page = write_report(workdir).page.read_text()
    assert "The test split was opened 2 times." in page
    assert heads(page, "Test") == ["opened", "checkpoint", "tta", "loss", "accuracy"]
    assert [found[1:] for found in cells(page, "Test")] == [
        ["2", "none", "0.5000", "0.8750"],  # of an older version, which did not note it
        ["4", "flip", "not finite", "0.5000"],
    ]


def test_everything_is_escaped(workdir: Path):
    bad = "<script>alert(1)</script>"
    config = ExperimentConfig(data=DataConfig(name=f"folder:{bad}"))
    (workdir / CONFIG_FILE).write_text(json.dumps(to_dict(config)))
    record = {**RECORD, "status": bad, "sessions": [{**SESSION, "devices": bad, "status": bad}]}
    (workdir / RECORD_FILE).write_text(json.dumps(record))
    values = {"step": 2, "epoch": 1.0, "split": "validation", bad: 0.5}
    (workdir / METRICS_FILE).write_text(json.dumps(values) + "\n")
    count_test_opening(workdir, {"step": bad, bad: 0.5})
    renamed = workdir.rename(workdir.with_name("<b>run"))
    page = write_report(renamed).page.read_text()
    assert "<script" not in page
    assert "<b>" not in page
    assert page.count("&lt;script&gt;") >= 8


def test_a_run_of_which_little_is_known_has_a_page_too(workdir: Path):
    (workdir / RECORD_FILE).unlink()
    (workdir / METRICS_FILE).unlink()
    count_test_opening(workdir, {"step": 2, "accuracy": 0.875})
    page = write_report(workdir).page.read_text()
    assert [found[1:] for found in cells(page, "Test")] == [["2", "none", "0.8750"]]


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("cnn-lab train --config=experiments/mnist/lenet5.py --config.seed=1", "mnist/lenet5"),
        ("cnn-lab train -config=/home/me/net.py:wide", "/home/me/net:wide"),
        ("cnn-lab train --config=runs/a/config.json", "lenet5 on digits"),
        ("cnn-lab train --config='torn", "lenet5 on digits"),
    ],
)
def test_the_title_says_which_experiment_and_where(workdir: Path, command: str, name: str):
    record = {**RECORD, "sessions": [{**SESSION, "command": command}]}
    (workdir / RECORD_FILE).write_text(json.dumps(record))
    assert f"<title>{name} in {workdir}</title>" in write_report(workdir).page.read_text()


def test_the_page_names_augmentation_and_average_where_there_are_any(workdir: Path):
    plain = write_report(workdir).page.read_text()
    assert "Augmentation" not in plain
    assert "Average of the weights" not in plain
    config = ExperimentConfig()
    config.data.augment = AugmentConfig(strength="heavy", recipe="cifar", options={"flip": 0.0})
    config.average = AverageConfig(kind="swa")
    (workdir / CONFIG_FILE).write_text(json.dumps(to_dict(config)))
    page = write_report(workdir).page.read_text()
    assert "<tr><th>Augmentation</th><td>cifar, heavy flip 0.0</td></tr>" in page
    assert "<tr><th>Average of the weights</th><td>swa</td></tr>" in page


def test_a_fine_tuned_run_names_its_source_and_what_was_trained(workdir: Path):
    assert "Fine-tuned" not in write_report(workdir).page.read_text()
    groups = [
        {"name": "stage1", "paths": ["a"], "rate": 0.0, "first_epoch": 0},
        {"name": "stage2", "paths": ["b"], "rate": 0.5, "first_epoch": 2},
        {"name": "head", "paths": ["c"], "rate": 1.0, "first_epoch": 0},
    ]
    plan = {"strategy": "gradual", "reason": "", "groups": groups}
    lineage = {"source": "/runs/resnet18", "checkpoint": 40, "plan": plan}
    (workdir / RECORD_FILE).write_text(json.dumps({**RECORD, "transfer": lineage}))
    text = "/runs/resnet18, step 40; trained gradual: stage2 x0.5 from epoch 3, head x1"
    assert f"<tr><th>Fine-tuned from</th><td>{text}</td></tr>" in (
        write_report(workdir).page.read_text()
    )


def test_imported_weights_are_on_no_data(workdir: Path):
    config = ExperimentConfig(data=DataConfig(name=NO_DATA))
    (workdir / CONFIG_FILE).write_text(json.dumps(to_dict(config)))
    assert f"<title>imported weights of lenet5 in {workdir}</title>" in (
        write_report(workdir).page.read_text()
    )
