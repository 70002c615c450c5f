"""Output layers fitted by scikit-learn."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from refusals import refused
from run_folders import SignalAt, state_digests, without_rates
from sklearn.linear_model import LogisticRegression
from staged import config, train, tuned

from cnn_lab.config import (
    AugmentConfig,
    AverageConfig,
    DataConfig,
    EarlyStoppingConfig,
    ModelConfig,
)
from cnn_lab.core import trees
from cnn_lab.core.errors import ConfigError, DivergedError
from cnn_lab.data.datasets.catalog import open_dataset
from cnn_lab.experiment.build import build_experiment
from cnn_lab.experiment.initialization import complete_config
from cnn_lab.experiment.restore import restore_run
from cnn_lab.runs.import_weights import write_run
from cnn_lab.runs.lr_finder import find_rate
from cnn_lab.runs.train import run_training
from cnn_lab.transfer.logistic import ABSENT_CLASS_LOGIT, STRENGTHS, fit_output
from cnn_lab.workdir.run_dir import read_record

pytestmark = pytest.mark.usefixtures("staged_model")


def blobs(num_classes: int, dimensions: int = 3) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    labels = np.arange(120) % num_classes
    scales = np.array([1.0, 100.0, 0.01])[:dimensions]
    centres = random.normal(size=(num_classes, dimensions))
    values = (centres[labels] + 0.7 * random.normal(size=(120, dimensions))) * scales + 5 * scales
    return values.astype(np.float32), labels


def loss_of(kernel, bias, values, labels, strength: float) -> float:
    """What is minimised, summed: cross-entropy, and the penalty on standardised features."""
    logits = values @ kernel + bias
    logits = logits - logits.max(axis=1, keepdims=True)
    picked = logits[np.arange(len(labels)), labels]
    entropy = (np.log(np.exp(logits).sum(axis=1)) - picked).sum()
    return float(entropy + (np.square(kernel * values.std(axis=0)[:, None]).sum() / (2 * strength)))


@pytest.mark.parametrize("num_classes", [3, 5])
@pytest.mark.parametrize("strength", [0.01, 1.0])
def test_no_layer_nearby_is_better(num_classes, strength):
    values, labels = blobs(num_classes)
    found = fit_output(values, labels, num_classes, strength)
    assert found.converged
    best = loss_of(found.kernel, found.bias, values, labels, strength)
    random = np.random.default_rng(1)
    for _ in range(200):
        kernel = found.kernel + 0.03 / values.std(axis=0)[:, None] * random.normal(
            size=found.kernel.shape
        )
        bias = found.bias + 0.03 * random.normal(size=num_classes)
        assert loss_of(kernel, bias, values, labels, strength) > best


def test_two_classes_share_the_one_row_of_scikit_learn():
    values, labels = blobs(2)
    found = fit_output(values, labels, 2, 1.0)
    assert found.kernel.shape == (3, 2)
    np.testing.assert_allclose(found.kernel[:, 0], -found.kernel[:, 1], rtol=1e-5)
    standard = (values - values.mean(axis=0)) / values.std(axis=0)
    expected = LogisticRegression().fit(standard, labels).predict_log_proba(standard)
    logits = values @ found.kernel + found.bias
    np.testing.assert_allclose(
        logits[:, 1] - logits[:, 0], expected[:, 1] - expected[:, 0], rtol=1e-3, atol=1e-3
    )


def test_a_class_without_examples_is_never_found():
    values, labels = blobs(3)
    found = fit_output(values, np.where(labels == 1, 3, labels), 4, 1.0)
    assert found.bias[1] == ABSENT_CLASS_LOGIT
    assert not found.kernel[:, 1].any()
    assert not ((values @ found.kernel + found.bias).argmax(axis=1) == 1).any()


def test_weights_of_classes_count_as_copies_of_their_examples():
    values, labels = blobs(3)
    weighted = fit_output(values, labels, 3, 0.5, (2.0, 1.0, 1.0))
    copied = np.concatenate([values, values[labels == 0]])
    copies = np.concatenate([labels, labels[labels == 0]])
    plain, again = (
        (values @ f.kernel + f.bias).argmax(axis=1)
        for f in (weighted, fit_output(copied, copies, 3, 0.5))
    )
    assert (plain == again).mean() > 0.95
    unweighted = fit_output(values, labels, 3, 0.5)
    assert not np.allclose(weighted.bias, unweighted.bias, atol=1e-3)


@pytest.fixture(scope="module")
def fitted(source, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A run that nobody disturbed, and what it said."""
    run = tmp_path_factory.mktemp("fitted") / "run"
    return run, train(tuned(source, "logistic"), run)


def test_a_run_fits_the_output_layer_and_leaves_all_else(source, fitted):
    run, said = fitted
    assert any(line.split() == ["output", "90", "fitted"] for line in said)
    begun = trees.digests(restore_run(source, "best").variables)
    ended = trees.digests(restore_run(run, "best").variables)
    changed = {path for path in begun if begun[path] != ended[path]}
    assert changed == {"params/head/output/kernel", "params/head/output/bias"}
    rows = [row for row in without_rates(run) if row["split"] == "train"]
    assert [row["inverse_l2"] for row in rows] == list(STRENGTHS)
    losses = [row["loss"] for row in rows]
    assert losses == sorted(losses, reverse=True)  # the weaker the penalty, the lower
    record = json.loads((run / "run.json").read_text())
    looks = {
        row["step"]: row["accuracy"] for row in without_rates(run) if row["split"] == "validation"
    }
    selection = record["progress"]["selection"]
    assert looks[selection["best_step"]] == max(looks.values())
    assert restore_run(run, "best").step == selection["best_step"]


def test_the_fit_is_at_least_as_good_as_the_head_trained_in_steps(source, fitted, tmp_path):
    train(tuned(source, "head"), tmp_path / "trained")
    losses = [row["loss"] for row in without_rates(fitted[0]) if row["split"] == "train"]
    trained = [
        row["loss"] for row in without_rates(tmp_path / "trained") if row["split"] == "train"
    ]
    assert min(losses) < 0.5 * min(trained)


@pytest.mark.parametrize("step", [1, 4])
def test_a_fit_that_was_cut_goes_on_bit_for_bit(source, fitted, step, tmp_path):
    experiment = tuned(source, "logistic")
    cut = run_training(experiment, tmp_path / "cut", lambda _: None, [SignalAt(step, "train")])
    assert cut.status == "interrupted"
    train(experiment, tmp_path / "cut")
    assert state_digests(tmp_path / "cut") == state_digests(fitted[0])
    assert without_rates(tmp_path / "cut") == without_rates(fitted[0])


@pytest.mark.parametrize(
    ("factor", "text"),
    [
        (1e38, "inputs of the output layer are not finite for 64 examples of 64"),
        (4e-38, r"output layer that was fitted at C=[\d.e-]+ is not finite"),
    ],
)
def test_a_fit_that_is_not_finite_is_one_sentence(source, factor, text, tmp_path):
    found = restore_run(source, "best")
    params = trees.flatten(found.variables["params"])
    for name in ("scale", "bias"):
        params[f"backbone/stage2_bn/{name}"] *= np.float32(factor)  # and all features with them
    variables = {**found.variables, "params": trees.unflatten(params)}
    write_run(tmp_path / "scaled", found.config, found.network, variables, "imported")
    with pytest.raises(DivergedError, match=text) as raised:
        train(tuned(tmp_path / "scaled", "logistic"), tmp_path / "run")
    assert raised.value.where == "config.transfer.source"
    assert read_record(tmp_path / "run")["status"] == "failed"


@pytest.mark.parametrize(
    ("data", "where"),
    [
        ({"num_validation": 0}, "config.data.num_validation"),
        ({"augment": AugmentConfig(strength="light")}, "config.transfer.strategy"),
        ({"in_memory_limit_mib": 0}, "config.transfer.strategy"),
    ],
)
def test_data_that_cannot_be_fitted_are_refused(source, data, where):
    fields = {"num_train": 64, "num_validation": 64, **data}
    with refused(ConfigError, where=where):
        build_experiment(complete_config(tuned(source, "logistic", data=DataConfig(**fields))))


def test_outputs_that_are_no_logits_are_refused(tmp_path):
    perceptron = config(model=ModelConfig(name="perceptron"))
    train(perceptron, tmp_path / "source")
    experiment = tuned(tmp_path / "source", "logistic", model=perceptron.model)
    with refused(ConfigError, where="config.model.name"):
        build_experiment(complete_config(experiment))


def test_a_feature_that_is_constant_up_to_rounding_counts_for_nothing():
    values, labels = blobs(3)
    constant = np.full((len(values), 1), 0.9999999, np.float32)
    constant[7] = np.nextafter(constant[7], 2)
    found = fit_output(np.concatenate([values, constant], axis=1), labels, 3, 100.0)
    assert not found.kernel[3].any()
    np.testing.assert_allclose(found.kernel[:3], fit_output(values, labels, 3, 100.0).kernel)


def test_mixed_labels_and_averages_are_refused(source, tmp_path):
    mixed = AugmentConfig(strength="light", recipe="strokes", options={"cutmix": 1.0})
    data = DataConfig(num_train=64, num_validation=64, augment=mixed)
    experiment = tuned(source, "logistic", data=data, transfer={"augmented_passes": 1})
    with refused(ConfigError, where="config.data.augment.options"):
        train(experiment, tmp_path / "run")
    with refused(ConfigError, where="config.average"):
        train(tuned(source, "logistic", average=AverageConfig(kind="ema")), tmp_path / "run")
    with refused(ConfigError, where="config.early_stopping"):
        train(tuned(source, "logistic", early_stopping=EarlyStoppingConfig()), tmp_path / "run")
    with refused(ConfigError, where="config.transfer.strategy", found="logistic"):
        find_rate(tuned(source, "logistic"), open_dataset, lambda _: None)


def test_altered_passes_are_more_examples(source, tmp_path):
    altered = AugmentConfig(strength="light", recipe="strokes")
    data = DataConfig(num_train=64, num_validation=64, augment=altered)
    experiment = tuned(source, "logistic", data=data, transfer={"augmented_passes": 3})
    built = build_experiment(complete_config(experiment))
    assert built.train_loader.device_arrays["image"].shape[0] == 3 * 64
    assert dataclasses.asdict(built.intervals)["num_epochs"] == len(STRENGTHS)
    train(experiment, tmp_path / "run")
