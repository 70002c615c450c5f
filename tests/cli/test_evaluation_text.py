"""What `cnn-lab evaluate` prints, from results made by hand."""

from typing import Any

import numpy as np

from cnn_lab.analysis.evaluation import EvaluationResults, NetworkResult, evaluate_classifier
from cnn_lab.cli.evaluation_text import evaluation_text
from cnn_lab.core.targets import TargetSpec

N, K = 60, 3


def results(*right: bool, num_resamples: int = 0) -> EvaluationResults:
    """A network for each value: without a mistake, or with some."""
    random, networks = np.random.default_rng(0), []
    labels = random.integers(0, K, N).astype(np.int32)
    for number, all_right in enumerate(right):
        logits = random.normal(size=(N, K)).astype(np.float32)
        logits[np.arange(N), labels] += 99 if all_right else 1
        values: dict[str, Any] = {"held_out": "same", "num_resamples": num_resamples}
        found = evaluate_classifier(logits, labels, means={"loss": 0.5}, **values)
        networks.append(NetworkResult(f"seed{number}", f"runs/seed{number}", 7, N, 1.0, {}, found))
    target = TargetSpec("class", tuple("abc"))
    return EvaluationResults(
        "validation", "d", "f", target, "none", num_resamples, tuple(networks), True, "", None
    )


def test_a_temperature_at_the_end_of_its_range_is_none():
    why = "no temperature: there is no mistake among the images to fit it on"
    assert f"({why})" in evaluation_text(results(True))
    assert "at temperature" not in evaluation_text(results(True))
    both = evaluation_text(results(False, True))
    assert f"  no temperature for seed1: {why.partition(': ')[2]}" in both.splitlines()
    assert "no temperature for seed0" not in both
    assert "no temperature" not in evaluation_text(results(False, False))


def test_an_interval_without_width_says_nothing():
    nothing = "without a mistake to draw, this says nothing"
    assert nothing not in evaluation_text(results(False, num_resamples=100))
    alone = evaluation_text(results(True, num_resamples=100))
    (line,) = [text for text in alone.splitlines() if text.startswith("  macro_f1")]
    assert line.endswith(nothing)
    both = evaluation_text(results(False, True, num_resamples=100))
    assert f"{nothing} of accuracy, macro_f1" in both.splitlines()[-1]
    assert nothing not in both.splitlines()[-2]


def test_without_resamples_there_is_no_table_of_intervals():
    assert "intervals of each" in evaluation_text(results(False, False, num_resamples=100))
    assert "intervals of each" not in evaluation_text(results(False, False))
