"""Heads trained on what a frozen backbone gave once."""

import errno
import json
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from refusals import refused
from run_folders import SignalAt, state_digests, without_rates
from staged import train, tuned

from cnn_lab.config import AugmentConfig, DataConfig, ExperimentConfig
from cnn_lab.core import trees
from cnn_lab.core.errors import ConfigError
from cnn_lab.experiment.build import build_experiment
from cnn_lab.experiment.initialization import complete_config
from cnn_lab.experiment.restore import restore_run
from cnn_lab.runs.train import run_training

pytestmark = pytest.mark.usefixtures("staged_model")
ALTERED = AugmentConfig(strength="light", recipe="strokes")


@pytest.fixture(autouse=True)
def _own_data(tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch):
    """Data without features of other tests."""
    shutil.copytree(data_dir, tmp_path / "data", ignore=shutil.ignore_patterns("features-*"))
    monkeypatch.setenv("CNN_LAB_DATA_DIR", str(tmp_path / "data"))


def caches(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "data").rglob("features-*"))


def with_data(source: Path, strategy: str = "head", **data: Any) -> ExperimentConfig:
    options = data.pop("transfer", {})
    fields = {"num_train": 64, "num_validation": 64, **data}
    return tuned(source, strategy, transfer=options, data=DataConfig(**fields))


@pytest.mark.parametrize("loader", ["in_memory", "streaming"])
@pytest.mark.parametrize("sampling", ["uniform", "balanced"])
def test_a_head_learns_the_same_from_features_as_from_images(source, loader, sampling, tmp_path):
    found, said = [], []
    for name, cached in (("features", True), ("images", False)):
        experiment = with_data(
            source,
            loader=loader,
            sampling=sampling,
            transfer={"cache_features": cached},
        )
        said += train(experiment, tmp_path / name)
        found.append(without_rates(tmp_path / name))
    assert len(found[0]) == len(found[1]) > 4
    for one, other in zip(*found, strict=True):
        assert one.pop("split") == other.pop("split")
        assert one == pytest.approx(other, rel=2e-5)
    assert len([line for line in said if "computed in" in line]) == 2  # training and validation
    leaves = [
        trees.flatten(restore_run(tmp_path / n, "latest").variables) for n in ("features", "images")
    ]
    for path, leaf in leaves[0].items():
        np.testing.assert_allclose(leaf, leaves[1][path], rtol=1e-4, atol=1e-5, err_msg=path)


def test_passes_over_altered_images_come_in_turn(source, tmp_path):
    experiment = complete_config(
        with_data(source, augment=ALTERED, transfer={"augmented_passes": 2})
    )
    built = build_experiment(experiment)
    state = built.init_state(0)
    said: list[str] = []
    built.load_features(state, said.append)
    loader = built.train_loader
    shown = [_epoch(loader, epoch) for epoch in range(4)]
    for one, other in ((0, 2), (1, 3)):
        np.testing.assert_array_equal(shown[one], shown[other])
    differ = np.abs(shown[0] - shown[1]).max(axis=1)
    assert (differ > 1e-3).mean() > 0.9
    # A pass shows what the backbone makes of the images, altered: close to those as they are.
    plain = build_experiment(complete_config(with_data(source)))
    plain.load_features(state, said.append)
    still = _epoch(plain.train_loader, 0)
    assert np.corrcoef(still.ravel(), shown[0].ravel())[0, 1] > 0.7


def _epoch(loader: Any, epoch: int) -> np.ndarray:
    """Features by the position of their example."""
    found = {}
    for step in range(
        epoch * loader.sampler.steps_per_epoch, (epoch + 1) * loader.sampler.steps_per_epoch
    ):
        raw_batch = jax.tree.map(lambda stack: stack[0], loader.load(step, 1))
        batch = loader.prepare(loader.device_arrays, raw_batch, jax.random.key(0))
        positions, _ = loader.sampler.batches(step, 1)
        found |= dict(zip(positions[0].tolist(), np.asarray(batch["image"]), strict=True))
    return np.stack([found[position] for position in sorted(found)]).reshape(len(found), -1)


def test_mixed_images_keep_their_mixed_labels(source, tmp_path):
    mixing = AugmentConfig(strength="light", recipe="strokes", options={"mixup": 0.4})
    experiment = with_data(source, augment=mixing, transfer={"augmented_passes": 1})
    built = build_experiment(complete_config(experiment))
    built.load_features(built.init_state(0), lambda _: None)
    labels = np.asarray(built.train_loader.device_arrays["label"])
    assert labels.shape == (64, 10)
    np.testing.assert_allclose(labels.sum(axis=1), 1, rtol=1e-5)
    assert (labels.max(axis=1) < 0.999).any()


def told(experiment: ExperimentConfig) -> str:
    """What a training says of its features before its first step."""
    built, said = build_experiment(complete_config(experiment)), []
    built.load_features(built.init_state(experiment.seed), said.append)
    return " ".join(said)


def test_features_are_found_again_and_never_those_of_something_else(source, tmp_path):
    def said(experiment: ExperimentConfig) -> tuple[int, int]:
        text = told(experiment)
        return text.count("found in"), text.count("computed in")

    for name, word in (("first", "computed in"), ("again", "found in")):
        assert " ".join(train(with_data(source), tmp_path / name)).count(word) == 2
    assert state_digests(tmp_path / "first") == state_digests(tmp_path / "again")
    other_rate = with_data(source)
    other_rate.optim.learning_rate, other_rate.seed = 1e-2, 5
    assert said(other_rate) == (2, 0)
    assert said(with_data(source, split_seed=1)) == (0, 2)
    assert said(with_data(source, num_train=48)) == (1, 1)
    assert said(with_data(source, image_size=(8, 8))) == (0, 2)
    assert said(with_data(source, mean=(0.5,), std=(0.3,))) == (0, 2)
    train(tuned(source, "all"), tmp_path / "other")
    assert said(with_data(tmp_path / "other")) == (0, 2)


def test_damaged_and_foreign_features_are_computed_anew(source, tmp_path):
    train(with_data(source), tmp_path / "first")
    expected = state_digests(tmp_path / "first")
    one, other = caches(tmp_path)
    with (one / "image.npy").open("r+b") as file:
        file.seek(200)
        file.write(b"\xff\xff\xff")
    origin = json.loads((other / "origin.json").read_text())
    (other / "origin.json").write_text(json.dumps({**origin, "weights": "0" * 64}))
    said = train(with_data(source), tmp_path / "second")
    assert any(line == f"{one} is damaged; the features are computed anew." for line in said)
    text = f"{other} holds features of other weights; they are computed anew."
    assert any(line == text for line in said)
    assert state_digests(tmp_path / "second") == expected
    assert json.loads((other / "origin.json").read_text()) == origin


def test_a_folder_that_cannot_be_written_only_costs_the_cache(source, tmp_path, monkeypatch):
    monkeypatch.setattr("cnn_lab.transfer.features.store_arrays", lambda *_: False)
    said = train(with_data(source), tmp_path / "run")
    assert any(
        line.startswith("Features of 64 training images computed in") and line.endswith(" s.")
        for line in said
    )
    assert caches(tmp_path) == []


def test_a_cache_of_another_user_is_used(source, tmp_path, monkeypatch):
    assert told(with_data(source)).count("kept in") == 2

    def refuse(*_: Any) -> None:
        raise PermissionError

    monkeypatch.setattr("os.utime", refuse)
    assert told(with_data(source)).count("found in") == 2


def test_a_disk_that_fills_up_after_the_features_only_costs_the_cache(
    source, tmp_path, monkeypatch
):
    def refuse(path: Path, text: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("cnn_lab.transfer.features.write_text", refuse)
    text = " ".join(train(with_data(source), tmp_path / "run"))
    assert text.count("computed in") == 2
    assert "kept in" not in text


def test_few_caches_are_kept(source, tmp_path, monkeypatch):
    monkeypatch.setattr("cnn_lab.transfer.features.MAX_CACHES", 3)
    for number in (32, 40, 48):
        told(with_data(source, num_train=number))
    assert len(caches(tmp_path)) == 3
    assert "computed" not in told(with_data(source, num_train=48))


def test_a_run_on_features_that_was_cut_goes_on_bit_for_bit(source, tmp_path):
    train(with_data(source), tmp_path / "whole")
    for step in (1, 3):
        folder, stop = tmp_path / str(step), [SignalAt(step, "train")]
        cut = run_training(with_data(source), folder, lambda _: None, stop)
        assert cut.status == "interrupted"
        for cache in caches(tmp_path):
            shutil.rmtree(cache)
        train(with_data(source), folder)
        assert state_digests(folder) == state_digests(tmp_path / "whole")


def test_where_the_backbone_runs_all_the_same_the_user_is_told_why(source, tmp_path):
    def notes(experiment: ExperimentConfig) -> tuple[str, ...]:
        return build_experiment(complete_config(experiment)).notes

    assert notes(with_data(source)) == ()
    assert notes(with_data(source, "all")) == ()
    assert notes(with_data(source, transfer={"cache_features": False})) == ()
    (note,) = notes(with_data(source, augment=ALTERED))
    assert note.startswith(
        "The backbone runs at every step: the images are altered anew each time;"
    )
    (note,) = notes(with_data(source, in_memory_limit_mib=0))
    assert "more than config.data.in_memory_limit_mib allows" in note


@pytest.mark.parametrize(
    ("strategy", "data", "where", "found"),
    [
        ("all", {"augment": ALTERED}, "config.transfer.augmented_passes", 2),
        ("head", {}, "config.data.augment.strength", "none"),
    ],
)
def test_passes_that_make_no_sense_are_refused(source, strategy, data, where, found):
    with refused(ConfigError, where=where, found=found):
        build_experiment(
            complete_config(with_data(source, strategy, transfer={"augmented_passes": 2}, **data))
        )
