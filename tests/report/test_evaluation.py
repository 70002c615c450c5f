"""The files of an evaluation: strict JSON, and a page that stands alone."""

import dataclasses
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cnn_lab.analysis.evaluation import (
    ClassifierEvaluation,
    EvaluationResults,
    NetworkResult,
    evaluate_classifier,
)
from cnn_lab.core.targets import TargetSpec
from cnn_lab.report import evaluation
from cnn_lab.report.evaluation import evaluation_page, write_evaluation

K, N = 6, 240


def results(
    num_networks: int = 1,
    *,
    names: tuple[str, ...] = tuple("abcdef"),
    ensemble: bool = False,
    perfect: bool = False,
    held_out: Any = "same",
    num_resamples: int = 100,
) -> EvaluationResults:
    """Those of classifiers of the same examples."""
    random, networks, first = np.random.default_rng(0), [], None
    labels = random.integers(0, K, N).astype(np.int32)
    for number in range(num_networks):
        logits = random.normal(size=(N, K)).astype(np.float32)
        logits[np.arange(N), labels] += 99 if perfect else 2
        found = evaluate_classifier(
            logits,
            labels,
            means={"loss": 0.5, "accuracy": 0.25},
            held_out=held_out,
            num_resamples=num_resamples,
        )
        first = first or found
        networks.append(NetworkResult(f"seed{number}", f"runs/seed{number}", 7, N, 1.0, {}, found))
    whole, target = first if ensemble else None, TargetSpec("class", names)
    return EvaluationResults(
        "validation", "pets", "f0", target, "none", num_resamples, tuple(networks), True, "", whole
    )


def rows(page: str, title: str) -> list[list[str]]:
    """The cells of the table under a title."""
    table = page.split(f"<h2>{title}")[1].split("</table>")[0]
    parts = [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", part, re.S) for part in table.split("<tr")]
    return [found for found in parts if found]


def pictures(page: str) -> int:
    return page.count("data:image/png;base64,iVBOR")


def test_a_run_has_its_figures_with_intervals(tmp_path: Path):
    found = results()
    written = write_evaluation(tmp_path / "new", found)
    page, network = written.page.read_text(), found.networks[0]
    assert written.page.name == "evaluation_validation.html"
    table = {row[0]: row[1:] for row in rows(page, "Figures")}
    interval = network.metrics["accuracy"], found.networks[0].evaluation
    assert interval[1] is not None
    bounds = interval[1].intervals["accuracy"]
    assert table["accuracy"][0] == f"{interval[0]:.4f}"
    assert table["accuracy"][1] == f"{bounds.low:.4f} to {bounds.high:.4f}"
    assert table["loss"][1] == ""
    assert "the task&#39;s loss" in table["loss"][2]
    assert pictures(page) == 2
    assert "each half of them at the temperature of the other" in page
    values = json.loads(written.beside.read_text())
    assert values["data"] == {"name": "pets", "fingerprint": "f0"}
    assert values["networks"][0]["metrics"]["macro_f1"] == network.metrics["macro_f1"]
    assert [row["name"] for row in values["networks"][0]["classes"]] == list("abcdef")
    assert "over_runs" not in values


def test_classes_stand_worst_first_and_mistakes_most_frequent_first():
    page = evaluation_page(results(), Path("run"))
    scores = [float(row[1]) for row in rows(page, "Classes")[3:]]
    assert len(scores) == K
    assert scores == sorted(scores)
    counts = [int(row[2]) for row in rows(page, "Mistakes")[1:]]
    assert counts == sorted(counts, reverse=True)
    assert len(counts) == 20
    assert "the 20 most frequent of" in page


def test_several_runs_have_a_row_each_and_their_spread():
    found = results(3, ensemble=True)
    page = evaluation_page(found, Path("runs"))
    table = rows(page, "Figures")
    assert [row[0] for row in table] == [
        *("run", "seed0", "seed1", "seed2", "mean", "sd", "95% from", "95% to", "min", "max"),
        *("ensemble", "ensemble minus mean"),
    ]
    column = table[0].index("macro_f1")
    values = [network.metrics["macro_f1"] for network in found.networks]
    assert table[4][column] == f"{np.mean(values):.4f}"
    assert "one over 3 runs, by Student's t" in page
    assert table[5][column] == f"{np.std(values, ddof=1):.4f}"
    assert table[-1][column] == f"{values[0] - np.mean(values):+.4f}"
    for row, told in ((1, found.networks[0].evaluation), (-2, found.ensemble)):
        assert told is not None
        bounds = told.intervals["macro_f1"]
        value = f"{told.metrics['macro_f1']:.4f}"
        assert table[row][column].startswith(value)
        assert f">{bounds.low:.4f} to {bounds.high:.4f}<" in table[row][column]
    assert "The interval under a figure is of 100 resamples" in page
    assert "Mistakes of the ensemble" in page
    assert "Mistakes of all 3 together" in evaluation_page(results(3), Path("runs"))


def test_what_is_no_sample_of_one_experiment_has_rows_alone():
    found = dataclasses.replace(results(2, num_resamples=0), no_spread="they are <twins>")
    page = evaluation_page(found, Path("runs"))
    assert [row[0] for row in rows(page, "Figures")] == ["run", "seed0", "seed1"]
    assert "No mean or interval over runs: they are &lt;twins&gt;." in page
    assert "Student" not in page
    assert "The interval under a figure" not in page


def test_a_temperature_without_a_mistake_to_fit_it_on_is_none():
    page = evaluation_page(results(perfect=True), Path("run"))
    assert "No temperature: there is no mistake among the images to fit it on." in page
    assert "<th>Temperature</th>" not in page
    assert "0.010" not in page
    assert "log_loss_scaled" not in page
    assert "<th>log_loss_scaled</th>" in evaluation_page(results(), Path("run"))
    several = evaluation_page(results(2, perfect=True), Path("runs"))
    assert "No temperature: there is no mistake among the images to fit it on, of one" in several


def test_what_there_is_not_is_not_shown():
    page = evaluation_page(results(perfect=True, held_out=None), Path("run"))
    assert "<p>None.</p>" in page
    assert "had no mistake among the images to draw, and says nothing" in page
    assert "No temperature" in page
    assert pictures(page) == 1
    assert (
        "interval" not in rows(evaluation_page(results(num_resamples=0), Path("run")), "Figures")[1]
    )
    assert "percentile" not in evaluation_page(results(num_resamples=0), Path("run"))


def test_another_task_has_its_means_only(tmp_path: Path):
    means = {"mean_iou": 0.5, "loss": math.inf}
    networks = tuple(NetworkResult(f"seed{i}", "runs", 7, N, 1.0, means, None) for i in range(2))
    target = TargetSpec("class", ("a",))
    for count in (1, 2):
        found = EvaluationResults(
            "test",
            "pets",
            "f",
            target,
            "none",
            0,
            networks[:count],
            True,
            "",
            None,
        )
        written = write_evaluation(tmp_path, found)
        page = written.page.read_text()
        assert "mean_iou" in page
        assert pictures(page) == 0
        assert "<h2>Classes" not in page
        values = json.loads(written.beside.read_text())["networks"][0]
        assert values["metrics"] == {"mean_iou": 0.5, "loss": None}


def test_everything_is_escaped(tmp_path: Path):
    bad = "<script>alert(1)</script>"
    found = results(2, names=(bad, "$\\frac", "a$b$c", "%", "\u8774\u8776", ""))
    network = found.networks[0]
    odd = NetworkResult(bad, bad, 7, N, 1.0, {}, network.evaluation)
    found = EvaluationResults(bad, bad, bad, found.target, bad, 100, (odd, network), True, "", None)
    page = evaluation_page(found, tmp_path / "<b>")
    assert "<script" not in page
    assert "<b>" not in page
    assert page.count("&lt;script&gt;") >= 5


def test_the_title_says_of_which_run_or_runs():
    assert "<title>runs/seed0, validation split</title>" in evaluation_page(results(), Path("out"))
    assert "<title>out, validation split</title>" in evaluation_page(results(2), Path("out"))


def test_checkpoints_of_one_run_have_files_of_their_own(tmp_path: Path):
    of_run = results(2)
    checkpoints = dataclasses.replace(of_run, are_runs=False, no_spread="one training")
    written = [write_evaluation(tmp_path, given).page.name for given in (of_run, checkpoints)]
    assert written == ["evaluation_validation.html", "evaluation_validation_checkpoints.html"]
    flipped = dataclasses.replace(checkpoints, tta="flip")
    page, beside = write_evaluation(tmp_path, flipped)
    assert page.name == "evaluation_validation_checkpoints_flip.html"
    assert beside.name == "evaluation_validation_checkpoints_flip.json"


def test_the_page_needs_no_other_file():
    page = evaluation_page(results(2), Path("runs"))
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert sources
    assert all(source.startswith("data:image/png;base64,") for source in sources)


@pytest.mark.parametrize(("num_classes", "numbers", "names"), [(10, True, True), (40, False, True)])
def test_few_classes_are_numbered_and_named(figures, num_classes, numbers, names):
    confusion = np.diag(np.full(num_classes, 9))
    confusion[1, 2] = 4
    assert (
        evaluation.confusion_chart(confusion, [f"c{k}" for k in range(num_classes)])[1:4] == b"PNG"
    )
    axis = figures[0].axes[0]
    texts = [text.get_text() for text in axis.texts]
    assert texts == (["9"] * 2 + ["4"] + ["9"] * 8 if numbers else [])
    assert ([label.get_text() for label in axis.get_yticklabels()][:2] == ["c0", "c1"]) == names


def test_many_classes_keep_the_picture_in_bounds(figures):
    confusion = np.ones((120, 120), np.int64)
    evaluation.confusion_chart(confusion, ["name"] * 120)
    assert max(figures[0].get_size_inches()) < 12
    assert "name" not in [label.get_text() for label in figures[0].axes[0].get_yticklabels()]


def test_of_very_many_classes_the_pairs_are_listed_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(evaluation, "MAX_DRAWN", K - 1)
    page = evaluation_page(results(), Path("run"))
    assert pictures(page) == 1  # the calibration
    assert len(rows(page, "Mistakes")) == 21


def test_bins_are_drawn_where_there_are_predictions(figures):
    found = results().networks[0].evaluation
    assert isinstance(found, ClassifierEvaluation)
    evaluation.reliability_chart([("as trained", found.before), ("scaled", found.before)])
    above, _, below, _ = figures[0].axes
    num_bins = int((found.before.counts > 0).sum())
    assert len(above.patches) == 2 * num_bins
    heights = [patch.get_height() for patch in below.patches]
    assert heights == found.before.counts[found.before.counts > 0].tolist()
    assert f"ECE {found.before.error:.4f}" in above.get_title()
    assert all(axis.get_legend() is None for axis in figures[0].axes)  # it would cover bars
    (legend,) = figures[0].legends
    assert legend.get_texts()[0].get_text() == "share right"
