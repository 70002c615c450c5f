"""Studies whose trainings begin with the weights of other ones of theirs."""

import dataclasses
import json
import math
from pathlib import Path

import pytest
from refusals import refused
from staged import config
from test_run_study import study

from cnn_lab.config import DataConfig, OptimConfig, Study, TransferConfig, Variant
from cnn_lab.core.errors import ConfigError
from cnn_lab.data.datasets.catalog import open_dataset
from cnn_lab.experiment.restore import restore_run
from cnn_lab.study.run import make_trials, run_study
from cnn_lab.workdir.run_dir import read_record

pytestmark = pytest.mark.usefixtures("staged_model")
MEASURE = "unseen accuracy"


def transferring(*variants: Variant) -> Study:
    return study(variants=variants, measures=(MEASURE,), over_seeds=(), panels=(), claims=())


def source() -> Variant:
    data = DataConfig(classes=("0", "1", "2"), num_train=60, num_validation=20, pad=1)
    return Variant(series="source", config=config(data=data))


def target(way: str, **changes) -> Variant:
    data = DataConfig(classes=("7", "8"), num_train=40, num_validation=20)
    own = config(data=data, transfer=TransferConfig(strategy=way))
    return Variant(**{"series": way, "config": own, "source": ("source", None), **changes})


def test_each_seed_begins_with_its_own_source(tmp_path):
    todo = transferring(source(), target("head"), target("logistic"))
    folder, said = tmp_path / "study", []
    open_dataset("digits")  # which may say that it is prepared first
    found = run_study(todo, folder, 2, said.append)
    assert found is not None
    assert len(said) == 6
    for seed in (0, 1):
        begun = folder / "runs" / "source" / f"seed{seed}"
        for way in ("head", "logistic"):
            workdir = folder / "runs" / way / f"seed{seed}"
            assert read_record(workdir)["transfer"]["source"] == str(begun.resolve())
            network = restore_run(workdir, "latest").network
            assert network.class_names == ("7", "8")
            assert network.input_shape == (10, 10, 1)  # the padding is the source's
    values = {(r.series, r.seed): r.value for r in found.records}
    assert len(values) == 6
    # The best strength was chosen on validation images, and is what is measured.
    best = restore_run(folder / "runs" / "logistic" / "seed0", "best").step
    cached = json.loads((folder / "runs" / "logistic" / "seed0" / "measured.json").read_text())
    assert cached[MEASURE] == [[None, values["logistic", 0]]]
    assert best in range(1, 8)

    elsewhere = tmp_path / "moved"
    folder.rename(elsewhere)
    said.clear()
    again = run_study(todo, elsewhere, 2, said.append)
    assert again is not None
    assert [r.value for r in again.records] == [r.value for r in found.records]
    assert "left" not in " ".join(said)  # as is said after a training


@pytest.mark.slow
def test_what_begins_with_a_source_that_diverged_has_diverged_too(tmp_path):
    lost = source()
    lost = dataclasses.replace(
        lost,
        config=config(data=lost.config.data, optim=OptimConfig(name="sgd", learning_rate=1e30)),
    )
    own = Variant(series="own", config=config(data=DataConfig(num_train=40, num_validation=20)))
    said: list[str] = []
    found = run_study(transferring(lost, target("head"), own), tmp_path, 1, said.append)
    assert found is not None
    values = {r.series: r.value for r in found.records}
    assert math.isnan(values["source"])
    assert math.isnan(values["head"])
    assert 0 <= values["own"] <= 1
    assert not (tmp_path / "runs" / "head").exists()


@pytest.mark.parametrize(
    ("variants", "where", "found"),
    [
        ((target("head"), source()), "source", ("source", None)),
        ((source(), target("head", source=("sauce", None))), "source", ("sauce", None)),
        ((source(), target("head", config=config())), "config.transfer", ("head", None)),
    ],
)
def test_sources_that_are_not_there_are_told_before_any_training(
    variants, where, found, tmp_path: Path
):
    with refused(ConfigError, where=where, found=found):
        make_trials(transferring(*variants), tmp_path, 1)
    assert not any(tmp_path.iterdir())
