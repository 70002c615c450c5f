"""What measures say of trainings, against other ways to the same numbers."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_lab.config import (
    DataConfig,
    EarlyStoppingConfig,
    EvaluateConfig,
    ExperimentConfig,
    ModelConfig,
    OptimConfig,
    TrainConfig,
    Variant,
)
from cnn_lab.config.node import freeze, from_dict, to_dict
from cnn_lab.data.datasets.catalog import open_dataset
from cnn_lab.data.subsets import choose_examples
from cnn_lab.runs.train import run_training
from cnn_lab.study import measures
from cnn_lab.study.measures import (
    Trial,
    dead_units,
    ensembles,
    training_accuracy,
    training_loss,
    training_loss_by_epoch,
    unseen_accuracy,
    unseen_positions,
)
from cnn_lab.workdir.metric_writers import METRICS_FILE, read_rows
from cnn_lab.workdir.run_dir import read_record

HIDDEN = 16


def config(seed: int = 0, **changes) -> ExperimentConfig:
    fields = {
        "seed": seed,
        "data": DataConfig(num_train=200, num_validation=100),
        "model": ModelConfig(name="mlp", options={"hidden": (HIDDEN,)}),
        "optim": OptimConfig(name="sgd", learning_rate=0.5),
        "train": TrainConfig(num_epochs=4, batch_size=50),
        "evaluate": EvaluateConfig(every_epochs=1),
    }
    return ExperimentConfig(**{**fields, **changes})


def train(folder: Path, found: ExperimentConfig) -> Trial:
    run_training(freeze(found), folder, lambda _: None)
    return Trial(Variant(series="a", config=found), found.seed, found, folder)


@pytest.fixture(scope="module")
def runs(tmp_path_factory, data_dir) -> list[Trial]:
    """Three short trainings on the same images."""
    folder = tmp_path_factory.mktemp("runs")
    return [train(folder / str(seed), config(seed)) for seed in range(3)]


def copy_of(run: Trial) -> Trial:
    return dataclasses.replace(run)  # which forgets the weights that were opened


def probabilities(run: Trial, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """By hand, in float64: pixels, dense, ReLU, dense, softmax; and the labels."""
    batch = open_dataset("digits").split("train").read(positions)
    preprocess = run.restored.network.preprocess
    x = (batch["image"].reshape(len(positions), -1) / 255 - preprocess.mean[0]) / preprocess.std[0]
    params = jax.tree.map(
        lambda leaf: np.asarray(leaf, np.float64), run.restored.variables["params"]
    )
    first, last = params["backbone"]["dense1"], next(iter(params["head"].values()))
    hidden = np.maximum(x @ first["kernel"] + first["bias"], 0)
    logits = hidden @ last["kernel"] + last["bias"]
    weights = np.exp(logits - logits.max(1, keepdims=True))
    return weights / weights.sum(1, keepdims=True), batch["label"]


def accuracy(found: tuple[np.ndarray, np.ndarray]) -> float:
    return float((found[0].argmax(1) == found[1]).mean())


@pytest.mark.parametrize("num_validation", [0, 100])
def test_unseen_examples_are_neither_trained_nor_validated_on(num_validation, monkeypatch):
    dataset = open_dataset("digits")
    total = dataset.info.split_sizes["train"]
    for most in (10_000, 300):
        monkeypatch.setattr(measures, "MAX_UNSEEN", most)
        data = DataConfig(num_train=200, num_validation=num_validation, split_seed=3)
        used = np.concatenate([part.indices for part in choose_examples(dataset, data)])
        unseen = unseen_positions(dataset, data)
        assert not set(unseen) & set(used)
        assert len(set(unseen)) == len(unseen) == min(most, total - 200 - num_validation)


def test_training_sets_of_all_sizes_are_judged_on_the_same_examples(monkeypatch):
    monkeypatch.setattr(measures, "MAX_UNSEEN", 300)
    dataset = open_dataset("digits")
    sets = {
        (size, seed): frozenset(
            unseen_positions(
                dataset, DataConfig(num_train=size, num_validation=100, split_seed=seed)
            ).tolist()
        )
        for size in (20, 300, 1000)
        for seed in (0, 1)
    }
    for seed in (0, 1):
        assert len({sets[size, seed] for size in (20, 300, 1000)}) == 1
    assert sets[20, 0] != sets[20, 1]


def test_accuracies_are_those_of_a_computation_by_hand(runs):
    run, dataset = runs[0], open_dataset("digits")
    train, _ = choose_examples(dataset, run.config.data)
    on_training = accuracy(probabilities(run, train.indices))
    on_unseen = accuracy(probabilities(run, unseen_positions(dataset, run.config.data)))
    assert training_accuracy(run) == {None: pytest.approx(on_training)}
    assert unseen_accuracy(run) == {None: pytest.approx(on_unseen)}
    assert on_training > on_unseen + 0.01


def test_ensembles_average_probabilities_of_disjoint_members(runs):
    unseen = unseen_positions(open_dataset("digits"), runs[0].config.data)
    each, labels = zip(*(probabilities(run, unseen) for run in runs), strict=True)
    found = ensembles(runs)
    expected = {
        1: np.mean([accuracy((each[i], labels[0])) for i in range(3)]),
        2: accuracy((each[0] + each[1], labels[0])),  # the third has no partner
        3: accuracy((each[0] + each[1] + each[2], labels[0])),
    }
    assert dict(found) == {size: pytest.approx(value) for size, value in expected.items()}
    assert len(set(expected.values())) == 3


def test_dead_units_are_counted(runs):
    run = copy_of(runs[0])
    params = run.restored.variables["params"]
    bias = np.full(HIDDEN, 1.0, np.float32)
    bias[:5] = [-1.0, -2.0, -0.1, 0.0, -9.0]  # ReLU gives 0 whatever the image
    layer = {"kernel": jnp.zeros_like(params["backbone"]["dense1"]["kernel"]), "bias": bias}
    variables = {"params": {**params, "backbone": {"dense1": layer}}}
    run.__dict__["restored"] = dataclasses.replace(run.restored, variables=variables)
    assert dead_units(run) == {None: 5 / HIDDEN}


def test_the_best_weights_are_judged_where_a_rule_chose_them(runs, tmp_path):
    # Stopped at the first look that is not better, so that the last weights are not the best.
    found = config(
        early_stopping=EarlyStoppingConfig(patience=1),
        train=TrainConfig(num_epochs=40, batch_size=50),
    )
    stopped = train(tmp_path / "run", found)
    record = read_record(stopped.workdir)
    assert record["status"] == "stopped early"
    assert stopped.restored.step == record["progress"]["selection"]["best_step"]
    assert stopped.restored.step == record["progress"]["step"] - 4
    assert runs[0].restored.step == 16  # without a rule, the last


def test_a_loss_of_zero_is_a_number(tmp_path):
    rows = [
        {"step": 4 * epoch, "epoch": float(epoch), "split": "train", "loss": loss}
        for epoch, loss in ((1, 0.5), (2, None), (3, 0.0))
    ]
    (tmp_path / METRICS_FILE).write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = Trial(Variant(series="a", config=config()), 0, config(), tmp_path)
    assert training_loss(run) == {None: 0.0}
    by_epoch = training_loss_by_epoch(run)
    assert (by_epoch[1], by_epoch[3]) == (0.5, 0.0)
    assert np.isnan(by_epoch[2])


def test_levels_are_known_beforehand(runs):
    run = runs[0]
    rows = [row for row in read_rows(run.workdir / METRICS_FILE) if row["split"] == "train"]
    assert measures.epochs(run.config) == tuple(row["epoch"] for row in rows) == (1, 2, 3, 4)
    by_steps = from_dict(ExperimentConfig, to_dict(run.config))
    by_steps.train.log_every_steps = 3
    assert measures.epochs(by_steps) == ()
