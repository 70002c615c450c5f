"""Means of weights: of parameters exactly, with statistics that fit them."""

import dataclasses
import json
from typing import Any

import jax
import numpy as np
import pytest
from refusals import refused

from cnn_lab.cli import runtime
from cnn_lab.cli.main import main
from cnn_lab.core.errors import ConfigError
from cnn_lab.data.datasets.catalog import open_dataset
from cnn_lab.experiment.restore import RestoredRun, checkpoint_steps, restore_run
from cnn_lab.runs.soup import average_runs, mean_params
from cnn_lab.workdir.metric_writers import read_rows

EXPERIMENT = """
from cnn_lab.config import *

def get_config():
    return ExperimentConfig(
        data=DataConfig(num_train=256, num_validation=128),
        model=ModelConfig(name="wide_resnet28_10", options={"depth": 10, "width": 1}),
        optim=OptimConfig(name="momentum", learning_rate=0.05),
        train=TrainConfig(num_epochs=4, batch_size=64),
        checkpoint=CheckpointConfig(keep_latest=9),
        log=LogConfig(tensorboard=False),
    )
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory, data_dir):
    folder = tmp_path_factory.mktemp("soup")
    (folder / "small.py").write_text(EXPERIMENT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runtime, "start", lambda _: None)
        train = ["train", f"--config={folder}/small.py"]
        assert main([*train, f"--workdir={folder}/run"]) == 0
        soup = ["soup", f"--workdir={folder}/run", "--checkpoint=12,16", f"--out={folder}/soup"]
        assert main(soup) == 0
    return folder


@pytest.fixture
def run(world, monkeypatch, capsys):
    monkeypatch.setattr(runtime, "start", lambda _: None)

    def command(*arguments: str) -> tuple[int, str, str]:
        status = main([argument.format(w=world) for argument in arguments])
        return status, *capsys.readouterr()

    return command


def test_the_parameters_are_the_mean_and_the_statistics_are_not(world):
    members = [restore_run(world / "run", step).variables for step in ("12", "16")]
    found = restore_run(world / "soup", "latest").variables
    halves = jax.tree.map(
        lambda a, b: (np.asarray(a, np.float64) + np.asarray(b)) / 2,
        *(member["params"] for member in members),
    )
    for one, other in zip(jax.tree.leaves(found["params"]), jax.tree.leaves(halves), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-7)
    means = [
        jax.tree.map(lambda a, b: (a + b) / 2, *(m["batch_stats"] for m in members)),
        found["batch_stats"],
    ]
    differences = jax.tree.map(lambda a, b: float(abs(a - b).max()), *means)
    assert max(jax.tree.leaves(differences)) > 1e-2


def test_it_predicts_about_as_well_as_its_members(run, world):
    rows = [r for r in read_rows(world / "run" / "metrics.jsonl") if r["split"] == "validation"]
    status, text, _ = run("evaluate", "--workdir={w}/soup", "--bootstrap=0")
    assert status == 0
    loss = float(text.partition("loss")[2].split()[0])
    assert loss < 1.5 * max(row["loss"] for row in rows[-2:])


def test_it_says_what_it_is_made_of(run, world):
    record = json.loads((world / "soup" / "run.json").read_text())
    assert record["status"] == "averaged"
    assert record["averaged_from"] == [f"{world}/run, checkpoint {step}" for step in (12, 16)]
    status, text, _ = run("train", "--config={w}/soup/config.json")
    assert status == 0
    assert "Nothing to do: this run has averaged at step 0." in text


def test_all_checkpoints_of_a_run(run, world, tmp_path):
    status, text, _ = run("soup", "--workdir={w}/run", "--checkpoint=all", f"--out={tmp_path}/new")
    assert status == 0
    assert checkpoint_steps(world / "run") == [4, 8, 12, 16]
    assert text.startswith("The mean of 4 networks:")
    assert "Statistics measured on 4 training batches." in text


def test_a_mean_needs_two_networks_of_one_model(world):
    one = restore_run(world / "run", "latest")
    with refused(ConfigError, where="--workdir", found=["a"]):
        mean_params([one], ["a"])
    other = restore_run(world / "run", "12")
    other.config.model.options = {"width": 8}
    model = {"name": "wide_resnet28_10", "options": {"width": 8}}
    with refused(ConfigError, where="--workdir", found=model):
        mean_params([one, other], ["a", "b"])
    large = dataclasses.replace(one.network, image_shape=(16, 16, 1))
    with refused(ConfigError, where="--workdir", found=(16, 16, 1)):
        mean_params([one, dataclasses.replace(one, network=large)], ["a", "b"])


def test_no_member_learned_from_what_another_one_held_out(world):
    def members(**settings: Any) -> list[RestoredRun]:
        found = [restore_run(world / "run", step) for step in ("12", "16")]
        for name, value in settings.items():
            setattr(found[1].config.data, name, value)
        return found

    names, known = ["a", "b"], open_dataset("digits").info.fingerprint
    for settings in ({"split_seed": 1}, {"num_validation": 64}, {"num_validation": 0}):
        with refused(ConfigError, where="config.data", found="b"):
            average_runs(members(**settings), names, [known, known], open_dataset)
    with refused(ConfigError, where="--workdir", found="b"):
        average_runs(members(), names, [known, "other"], open_dataset)
    with refused(ConfigError, where="config.data.name", found="digits"):
        average_runs(members(), names, ["other", "other"], open_dataset)
    # Fewer training examples leave what is held out as it is.
    assert average_runs(members(num_train=200), names, [known, None], open_dataset).num_batches == 4


def test_one_checkpoint_under_two_names_is_one_network(run, tmp_path):
    names = "--checkpoint=latest,16"
    status, _, error = run("soup", "--workdir={w}/run", names, f"--out={tmp_path}/new")
    assert status == 2
    assert "A soup needs at least two networks; --checkpoint=latest,16 of " in error
    assert error.endswith("run is step 16 alone.\n")
    assert not (tmp_path / "new").exists()
    status, text, _ = run("soup", "--workdir={w}/run", f"{names},12", f"--out={tmp_path}/new")
    assert status == 0
    assert text.startswith("The mean of 2 networks:")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--out=x"], "--workdir is missing: give the folder of a trained run."),
        (["--workdir={w}/run"], "--out is missing"),
        (["--workdir={w}/run", "--out={w}/soup"], "soup is not empty; give a new folder"),
        (["--workdir={w}/run", "--out={w}/new"], "A soup needs at least two networks; found 1"),
        (
            ["--workdir={w}/run,{w}/soup", "--checkpoint=all", "--out={w}/new"],
            "give several of one of them only",
        ),
        (["--workdir={w}/run", "--checkpoint=12,13", "--out={w}/new"], "--checkpoint must be best"),
    ],
)
def test_mistakes(run, world, arguments, text):
    status, _, error = run("soup", *arguments)
    assert status == 2
    assert error.startswith("error: ")
    assert text in error
    assert not (world / "new").exists()
