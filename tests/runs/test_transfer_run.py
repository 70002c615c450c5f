"""Runs that begin with the weights of another one, from end to end."""

import json
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from refusals import refused
from run_folders import SignalAt, state_digests, without_rates
from staged import config, train, tuned
from strict import leftovers

from cnn_lab.config import (
    AverageConfig,
    DataConfig,
    EvaluateConfig,
    ExperimentConfig,
    ModelConfig,
    OptimConfig,
    TrainConfig,
    TransferConfig,
)
from cnn_lab.core import trees
from cnn_lab.core.errors import CheckpointError, ConfigError, WorkdirError
from cnn_lab.data.datasets.catalog import open_dataset
from cnn_lab.experiment.build import build_experiment
from cnn_lab.experiment.initialization import complete_config, digest_of
from cnn_lab.experiment.restore import restore_run
from cnn_lab.runs.soup import average_runs
from cnn_lab.runs.train import run_training
from cnn_lab.study.seeds import train_seeds

pytestmark = pytest.mark.usefixtures("staged_model")


def stage_of(path: str) -> str:
    return path.split("/")[2].partition("_")[0] if "/backbone/" in path else "head"


@pytest.mark.parametrize(
    ("strategy", "moved"),
    [
        ("head", {"head"}),
        ("last_stages:1", {"stage2", "head"}),
        ("all", {"stem", "stage1", "stage2", "head"}),
    ],
)
def test_what_is_trained_moves_and_all_else_is_the_source(source, strategy, moved, tmp_path):
    train(tuned(source, strategy), tmp_path / "run")
    begun = trees.digests(restore_run(source, "best").variables)
    ended = trees.digests(restore_run(tmp_path / "run", "latest").variables)
    assert begun.keys() == ended.keys()
    changed = {path for path in begun if begun[path] != ended[path]}
    assert {stage_of(path) for path in changed} == moved
    assert changed == {path for path in begun if stage_of(path) in moved}


def test_size_padding_channels_and_normalisation_are_the_sources(source, tmp_path):
    there = restore_run(source, "best").network
    data = complete_config(tuned(source)).data
    assert (data.image_size, data.pad, data.channels) == ((10, 10), 1, 1)
    assert (data.mean, data.std) == (there.preprocess.mean, there.preprocess.std)
    own = DataConfig(image_size=(8, 8), channels=3)
    data = complete_config(tuned(source, data=own)).data
    assert (data.image_size, data.pad, data.channels) == ((8, 8), 0, 3)
    assert data.mean == there.preprocess.mean * 3


def test_the_user_is_told_what_is_trained_before_it_is(source, tmp_path):
    said = train(tuned(source, "auto"), tmp_path / "run")
    step = restore_run(source, "best").step
    digest = digest_of(restore_run(source, "best").variables)
    assert said[0] == f"Weights of {source}, step {step}, {digest[:12]}."
    assert said[1].startswith("Strategy head: 64 training images are very few")
    assert [line.split() for line in said[2:7]] == [
        ["group", "parameters", "trained", "learning", "rate"],
        ["stem", "44", "no"],
        ["stage1", "304", "no"],
        ["stage2", "592", "no"],
        ["head", "90", "yes", "0.001"],
    ]
    assert said[7].startswith("Recipe: adam at a rate of 0.001, constant, 2 epochs")
    assert said[10].startswith("Training staged (1,030 parameters)")


def gradual(source: Path, **changes: Any) -> ExperimentConfig:
    return tuned(
        source,
        "gradual",
        train=TrainConfig(num_epochs=4, batch_size=32, log_every_steps=1),
        **changes,
    )


AVERAGES: dict[str, dict[str, Any]] = {
    "none": {},
    "ema": {"average": AverageConfig(kind="ema", decay=0.7)},
    "swa": {"average": AverageConfig(kind="swa", start_epoch=2)},
    "schedule free": {"optim": OptimConfig(name="schedule_free_sgd", learning_rate=0.05)},
}


RARE = {
    kind: pytest.param(kind, marks=pytest.mark.slow) for kind in ("none", "swa", "schedule free")
}


@pytest.mark.parametrize("kind", [RARE.get(kind, kind) for kind in AVERAGES])
def test_stages_are_thawed_one_after_the_other(source, kind, whole):
    _, folder, said = whole(kind)
    numbers = [line.split()[3] for line in said if line.startswith("From step ")]
    assert numbers == ["682", "986", "1,030"]
    begun = trees.digests(restore_run(source, "best").variables)
    ended = trees.digests(restore_run(folder, "latest").variables)
    assert [path for path in begun if begun[path] == ended[path]] == []


@pytest.mark.parametrize(  # a phase is an epoch, of two steps
    ("kind", "step"),
    [
        ("none", 1),
        ("none", 2),
        ("none", 7),
        ("ema", 3),
        pytest.param("swa", 4, marks=pytest.mark.slow),
        pytest.param("schedule free", 5, marks=pytest.mark.slow),
    ],
)
def test_a_run_cut_in_any_phase_goes_on_bit_for_bit(source, kind, step, tmp_path, whole):
    experiment, expected, _ = whole(kind)
    folder = tmp_path / "run"
    said: list[str] = []
    cut = run_training(experiment, folder, said.append, [SignalAt(step, "train")])
    assert cut.status == "interrupted"
    ended = (step - 1) // 2  # parts that were over before; that of this step ends with it at most
    assert len([line for line in said if line.startswith("From step ")]) == ended
    train(experiment, folder)
    assert state_digests(folder) == state_digests(expected)
    assert without_rates(folder) == without_rates(expected)


@pytest.fixture(scope="module")
def whole(source, tmp_path_factory: pytest.TempPathFactory):
    """Undisturbed runs, one of each kind."""
    runs: dict[str, tuple[ExperimentConfig, Path, list[str]]] = {}

    def run(kind: str) -> tuple[ExperimentConfig, Path, list[str]]:
        if kind not in runs:
            experiment = gradual(source, **AVERAGES[kind])
            folder = tmp_path_factory.mktemp("whole") / "run"
            runs[kind] = experiment, folder, train(experiment, folder)
        return runs[kind]

    return run


def test_a_run_goes_on_without_its_source(source, tmp_path):
    there = tmp_path / "source"
    source.rename(there)
    try:
        experiment = complete_config(gradual(there, transfer={"l2_sp": 0.1}))
        folder = tmp_path / "run"
        run_training(experiment, folder, lambda _: None, [SignalAt(3, "train")])
    finally:
        there.rename(source)
    train(experiment, folder)
    record = json.loads((folder / "run.json").read_text())
    assert record["transfer"]["source"] == str(there)


def test_the_record_says_where_the_weights_are_from(source, tmp_path):
    train(tuned(source), tmp_path / "first")
    train(tuned(tmp_path / "first", "all"), tmp_path / "second")
    record = json.loads((tmp_path / "second" / "run.json").read_text())["transfer"]
    assert record["source"] == str(tmp_path / "first")
    assert record["digest"] == digest_of(restore_run(tmp_path / "first", "best").variables)
    assert record["plan"]["strategy"] == "all"
    assert record["before"]["source"] == str(source)
    assert record["before"]["before"] is None


def test_the_pull_towards_the_source_holds_the_weights_there(source, tmp_path):
    def distance(weight: float) -> float:
        folder = tmp_path / str(weight)
        optim = OptimConfig(name="sgd", learning_rate=0.05)
        train(tuned(source, "all", optim=optim, transfer={"l2_sp": weight}), folder)
        before = trees.flatten(restore_run(source, "best").variables["params"])
        after = trees.flatten(restore_run(folder, "latest").variables["params"])
        kernels = [path for path in before if path.endswith("kernel")]
        return sum(float(np.square(after[p] - before[p]).sum()) for p in kernels)

    assert distance(10.0) < 0.5 * distance(0.0)


def test_rates_by_rule_and_by_stage_reach_the_weights(source, tmp_path):
    rates = {"^backbone/(stem|stage1)": 0, "^backbone/stage2": 1e-6, "^head": 1}
    train(tuned(source, "auto", transfer={"rates": rates}), tmp_path / "run")
    before = trees.flatten(restore_run(source, "best").variables["params"])
    after = trees.flatten(restore_run(tmp_path / "run", "latest").variables["params"])
    moved = {p: float(abs(after[p] - before[p]).max()) for p in before}
    # Adam moves every weight by about its rate; four steps of 1e-3.
    assert 1e-3 < moved["head/output/kernel"] < 5e-3
    assert 0 < moved["backbone/stage2_conv/kernel"] < 1e-7
    assert moved["backbone/stage1_conv/kernel"] == 0


def test_optimizer_memory_is_that_of_what_is_trained(source):
    def size(strategy: str) -> int:
        return trees.num_bytes(
            build_experiment(complete_config(tuned(source, strategy))).state_shapes().opt_state
        )

    assert size("head") == 2 * 4 * 90 + 8  # two moments of each, and two counts
    assert size("all") == 2 * 4 * 1030 + 8


def test_a_soup_keeps_the_statistics_of_what_was_frozen(source, tmp_path):
    folders = [tmp_path / str(seed) for seed in (0, 1)]
    for seed, folder in enumerate(folders):
        train(tuned(source, "last_stages:1", seed=seed), folder)
    members = [restore_run(folder, "latest") for folder in folders]
    soup = average_runs(members, list(map(str, folders)), [None, None], open_dataset)
    found, before = (
        trees.flatten(v) for v in (soup.variables, restore_run(source, "best").variables)
    )
    for path, leaf in found.items():
        frozen = stage_of(path) in ("stem", "stage1")
        assert np.array_equal(leaf, before[path]) == frozen, path


def test_bad_sources_are_told_before_anything_is_written(source, tmp_path):
    run = tmp_path / "run"
    (tmp_path / "no_run").mkdir()
    with refused(WorkdirError, where=str(tmp_path / "no_run")):
        train(tuned(tmp_path / "no_run"), run)
    with refused(ConfigError, where="config.transfer.source", found=""):
        train(config(transfer=TransferConfig()), run)
    other = ModelConfig(name="other")
    with refused(ConfigError, where="config.model.name", found="other", allowed="staged"):
        train(tuned(source, model=other), run)
    wider = ModelConfig(name="staged", options={"width": 8})
    with refused(CheckpointError, where="config.transfer.source"):
        train(tuned(source, model=wider), run)
    with refused(ConfigError, where="config.optim.name", found="sam"):
        train(gradual(source, optim=OptimConfig(name="sam")), run)
    assert not run.exists()


def test_what_is_learned_does_not_depend_on_the_devices(source, tmp_path):
    found = []
    for number in (1, 2):
        folder = tmp_path / str(number)
        experiment = gradual(source)
        experiment.mesh.num_devices = number
        train(experiment, folder)
        found.append(restore_run(folder, "latest").variables)
    for one, other in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("there", "here"),
    [(1, 2), *(pytest.param(*pair, marks=pytest.mark.slow) for pair in ((2, 1), (4, 2)))],
)
def test_the_source_may_come_from_another_number_of_devices(there, here, tmp_path):
    before = config()
    before.mesh.num_devices = there
    train(before, tmp_path / "source")
    experiment = tuned(tmp_path / "source")
    experiment.mesh.num_devices = here
    train(experiment, tmp_path / "run")
    begun, ended = (
        trees.flatten(restore_run(tmp_path / name, "best").variables) for name in ("source", "run")
    )
    for path, leaf in begun.items():
        if stage_of(path) != "head":
            assert np.array_equal(leaf, ended[path]), path


@leftovers
@pytest.mark.parametrize("what", ["everything", "arrays"])
def test_a_damaged_source_is_told_and_nothing_is_written(source, what, tmp_path):
    shutil.copytree(source, tmp_path / "source")
    for file in (tmp_path / "source" / "checkpoints").rglob("*"):
        chosen = what == "everything" or file.parent.name == "d"
        if file.is_file() and chosen and file.stat().st_size > 200:
            file.write_bytes(file.read_bytes()[:100])
    with refused(CheckpointError, where="config.transfer.checkpoint"):
        train(tuned(tmp_path / "source"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_nothing_stays_random_and_frozen(source, tmp_path):
    lost = "backbone/stage2_bn/bias"
    with refused(ConfigError, where="config.transfer.strategy", found=lost):
        build_experiment(
            complete_config(tuned(source, "head", transfer={"fresh": "backbone/stage2"}))
        )
    rates = {"^backbone": 1, "^head": 0}
    experiment = tuned(source, "auto", transfer={"rates": rates, "classes": "fresh"})
    with refused(ConfigError, where="config.transfer.rates", found="head/output/bias"):
        build_experiment(complete_config(experiment))


def test_padding_that_the_user_gives_stays(source):
    assert complete_config(tuned(source, data=DataConfig(pad=3))).data.pad == 3


def test_a_pull_that_reaches_nothing_is_refused(source):
    experiment = tuned(source, "head", transfer={"l2_sp": 0.1, "classes": "fresh"})
    with refused(ConfigError, where="config.transfer.l2_sp", found=0.1):
        build_experiment(complete_config(experiment))


def test_mistakes_are_told_before_the_data_are_opened(source):
    def open_data(*_: Any) -> Any:
        raise AssertionError

    for field, changes in (("fresh", {"fresh": "("}), ("rates", {"rates": {"(": 1}})):
        with refused(ConfigError, where=f"config.transfer.{field}", found="("):
            build_experiment(complete_config(tuned(source, "auto", transfer=changes)), open_data)
    with refused(ConfigError, where="config.transfer.strategy", nearest=("head",)):
        build_experiment(complete_config(tuned(source, "haed")), open_data)


def test_a_run_goes_on_from_the_same_weights_alone(source, tmp_path):
    experiment, run = complete_config(tuned(source)), tmp_path / "run"
    assert experiment.transfer is not None
    run_training(experiment, run, lambda _: None, [SignalAt(1, "train")])
    shutil.copytree(source, tmp_path / "copy")
    experiment.transfer.source = str(tmp_path / "copy")  # the same weights, elsewhere
    run_training(experiment, run, lambda _: None, [SignalAt(2, "train")])
    train(config(seed=1), tmp_path / "other")
    experiment.transfer.source = str(tmp_path / "other")
    other = str(tmp_path / "other")
    with refused(WorkdirError, where="config.transfer.source", found=other):
        train(experiment, run)
    experiment.transfer.source = str(source)
    train(experiment, run)


def test_seeds_share_the_source_and_differ_in_the_head(source, tmp_path):
    assert train_seeds(complete_config(tuned(source)), tmp_path / "runs", 2, print) is None
    one, other = (
        trees.flatten(restore_run(tmp_path / "runs" / f"seed{seed}", "latest").variables)
        for seed in (0, 1)
    )
    same = {path for path in one if np.array_equal(one[path], other[path])}
    assert {stage_of(path) for path in same} == {"stem", "stage1", "stage2"}
    assert len(same) == len(one) - 2  # kernel and bias of the output layer


def test_a_run_cut_where_a_part_ends_unseen_goes_on_bit_for_bit(source, tmp_path):
    def experiment() -> ExperimentConfig:
        return gradual(source, evaluate=EvaluateConfig(every_epochs=4))

    train(experiment(), tmp_path / "whole")
    folder = tmp_path / "cut"
    cut = run_training(experiment(), folder, lambda _: None, [SignalAt(2, "train")])
    assert (cut.status, cut.progress.step) == ("interrupted", 2)
    train(experiment(), folder)
    assert state_digests(folder) == state_digests(tmp_path / "whole")
    assert without_rates(folder) == without_rates(tmp_path / "whole")
