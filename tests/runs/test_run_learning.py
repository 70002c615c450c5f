"""Runs with averages, plateaus and constraints: resumed bit for bit, and used as judged."""

import json
import math
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import refused
from run_folders import SignalAt, state_digests, validation, without_rates

from cnn_lab.config import (
    AverageConfig,
    DataConfig,
    ExperimentConfig,
    ModelConfig,
    OptimConfig,
    ScheduleConfig,
    TrainConfig,
)
from cnn_lab.core import trees
from cnn_lab.core.errors import WorkdirError
from cnn_lab.data.datasets.catalog import open_dataset
from cnn_lab.data.loaders.factory import LoaderFactory
from cnn_lab.data.subsets import choose_examples
from cnn_lab.distributed.mesh import make_mesh
from cnn_lab.experiment.build import build_experiment
from cnn_lab.experiment.restore import restore_run
from cnn_lab.layers.normalization import BatchNorm
from cnn_lab.models.heads import Classifier, PooledHead
from cnn_lab.models.registry import MODELS, ModelEntry
from cnn_lab.runs.train import run_training
from cnn_lab.training.evaluate import Evaluator


class _Normalised(nn.Module):
    """A convolution and a batch normalisation."""

    @nn.compact
    def __call__(self, images, *, train: bool):
        x = nn.Conv(4, (3, 3), name="conv")(images)
        return {"maps": nn.relu(BatchNorm(train=train, name="norm")(x))}


@pytest.fixture(autouse=True)
def _model(monkeypatch: pytest.MonkeyPatch):
    make = lambda num_classes: Classifier(_Normalised(), PooledHead(num_classes))  # noqa: E731
    monkeypatch.setitem(MODELS, "normalised", ModelEntry(make, "a test's", "none", (8, 8, 1), 0))


def small(**changes) -> ExperimentConfig:
    fields: dict[str, Any] = {
        "data": DataConfig(num_train=64, num_validation=64),
        "model": ModelConfig(name="normalised"),
        "optim": OptimConfig(name="momentum", learning_rate=0.05),
        "train": TrainConfig(num_epochs=4, batch_size=16, log_every_steps=1),
    }
    return ExperimentConfig(**{**fields, **changes})


def optim(name="momentum", **others) -> dict[str, Any]:
    return {"optim": OptimConfig(name=name, **{"learning_rate": 0.05, **others})}


PLATEAU = ScheduleConfig(name="plateau", options={"patience": 1, "min_delta": 10.0, "factor": 0.5})
KINDS: dict[str, dict[str, Any]] = {
    "ema": {"average": AverageConfig(kind="ema", decay=0.7)},
    "swa": {"average": AverageConfig(kind="swa", start_epoch=2)},
    "schedule_free": optim("schedule_free_sgd"),
    "sam": optim("sam"),
    "plateau": optim(schedule=PLATEAU),
    "constrained": optim(l1=0.5, l1_method="proximal", max_norm=0.5, clip_norm=1.0),
    "balanced": {"data": DataConfig(num_train=64, num_validation=64, sampling="balanced")},
}


RARE = {kind: pytest.param(kind, marks=pytest.mark.slow) for kind in ("sam", "constrained")}


@pytest.mark.parametrize("kind", [RARE.get(kind, kind) for kind in KINDS])
def test_it_resumes_bit_for_bit_and_is_used_as_it_was_judged(kind: str, tmp_path: Path):
    config = small(**KINDS[kind])
    run_training(config, tmp_path / "whole", lambda _: None)
    for step in (3, 8):  # in the middle of an epoch, and at the end of one
        metric_writers = [SignalAt(step, "train")]
        result = run_training(
            config, tmp_path / "cut", lambda _: None, metric_writers=metric_writers
        )
        assert (result.status, result.progress.step) == ("interrupted", step)
    assert run_training(config, tmp_path / "cut", lambda _: None).status == "finished"
    assert state_digests(tmp_path / "cut") == state_digests(tmp_path / "whole")
    assert without_rates(tmp_path / "cut") == without_rates(tmp_path / "whole")
    rows = validation(tmp_path / "cut", "loss")
    mesh = make_mesh(1)
    for which, step in (("latest", 16), ("12", 12)):
        trained = restore_run(tmp_path / "cut", which, mesh.replicated)
        _, held_out = choose_examples(open_dataset("digits"), config.data)
        loaders = LoaderFactory(config.data, trained.network.preprocess, mesh)
        loader = loaders.evaluation(held_out, config.evaluate.batch_size, mesh.num_devices)
        found = Evaluator(trained.network.model.apply, trained.network.task, loader, mesh)(
            trained.variables
        )
        assert found["loss"] == pytest.approx(rows[step], rel=1e-5)  # summed on other devices


def latest(workdir: Path) -> dict[str, Any]:
    return restore_run(workdir, "latest").variables


def test_statistics_of_averaged_weights_are_measured_and_matter(tmp_path: Path):
    config = small(**KINDS["swa"])
    run_training(config, tmp_path / "run", lambda _: None)
    variables, experiment = latest(tmp_path / "run"), build_experiment(config)
    loader = experiment.recalibration_loader
    assert loader is not None
    images = []
    for step in range(loader.sampler.steps_per_epoch):
        raw_batch = jax.tree.map(lambda stack: jnp.asarray(stack[0]), loader.load(step, 1))
        images.append(loader.prepare(loader.device_arrays, raw_batch, jax.random.key(0))["image"])
    conv = variables["params"]["backbone"]["conv"]
    layer: Any = nn.Conv(4, (3, 3))
    maps = [np.asarray(layer.apply({"params": conv}, image)) for image in images]
    found = variables["batch_stats"]["backbone"]["norm"]
    wanted = {
        "mean": np.mean([np.mean(m, axis=(0, 1, 2)) for m in maps], axis=0),
        "var": np.mean([np.var(m, axis=(0, 1, 2)) for m in maps], axis=0),
    }
    for name, values in wanted.items():
        np.testing.assert_allclose(found[name], values, rtol=2e-5, atol=1e-6)


def test_every_checkpoint_has_statistics_of_its_average(tmp_path: Path):
    """Also those between evaluations, and that of a run that was interrupted."""
    often, seldom = small(**KINDS["swa"]), small(**KINDS["swa"])
    seldom.evaluate.every_epochs, seldom.checkpoint.every_steps = 4, 12
    run_training(often, tmp_path / "often", lambda _: None)
    wanted = restore_run(tmp_path / "often", "12").variables["batch_stats"]
    run_training(seldom, tmp_path / "saved", lambda _: None)
    run_training(seldom, tmp_path / "cut", lambda _: None, metric_writers=[SignalAt(12, "train")])
    for workdir in ("saved", "cut"):
        found = restore_run(tmp_path / workdir, "12").variables["batch_stats"]
        assert trees.digests(found) == trees.digests(wanted)


def test_the_mean_of_the_weights_at_the_ends_of_epochs(tmp_path: Path):
    """The weights that are trained do not depend on the average."""
    run_training(small(**KINDS["swa"]), tmp_path / "averaged", lambda _: None)
    plain = small()
    plain.checkpoint.keep_latest = 9
    run_training(plain, tmp_path / "plain", lambda _: None)
    kernels = [
        restore_run(tmp_path / "plain", str(step)).variables["params"]["head"]["output"]["kernel"]
        for step in (8, 12, 16)
    ]
    found = latest(tmp_path / "averaged")["params"]["head"]["output"]["kernel"]
    np.testing.assert_allclose(found, np.mean(kernels, axis=0), rtol=0, atol=1e-6)
    one, other = state_digests(tmp_path / "averaged"), state_digests(tmp_path / "plain")
    path = "params/head/output/kernel"
    assert one[path] == other[path] != one[f"averaged/{path}"]


def test_a_plateau_lowers_the_rate_that_is_used_and_shown(tmp_path: Path):
    # No loss improves by 10, so after the first evaluation every one halves the rate.
    run_training(small(**KINDS["plateau"]), tmp_path / "run", lambda _: None)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    rates = [row["learning_rate"] for row in map(json.loads, lines) if row["split"] == "train"]
    assert rates == pytest.approx([0.05] * 8 + [0.025] * 4 + [0.0125] * 4)
    without = small(**optim(schedule=ScheduleConfig(name="constant")))
    run_training(without, tmp_path / "constant", lambda _: None)
    one, other = without_rates(tmp_path / "run"), without_rates(tmp_path / "constant")
    losses = [[row["loss"] for row in rows if row["split"] == "train"] for rows in (one, other)]
    assert losses[0][:9] == losses[1][:9]  # the tenth is the first after a smaller step
    assert losses[0][10] != losses[1][10]


def test_proximal_steps_leave_exact_zeros_and_the_norm_holds(tmp_path: Path):
    config = small(**KINDS["constrained"])
    config.evaluate.weight_complexity = True
    run_training(config, tmp_path / "run", lambda _: None)
    kernels = [p for p in jax.tree.leaves(latest(tmp_path / "run")["params"]) if p.ndim > 1]
    zeros = sum(int((kernel == 0).sum()) for kernel in kernels)
    total = trees.count(kernels)
    assert 0 < zeros < total
    row = validation(tmp_path / "run", "weights_l0")
    assert row[16] == total - zeros
    for kernel in kernels:
        norms = np.sqrt((np.asarray(kernel) ** 2).sum(axis=tuple(range(kernel.ndim - 1))))
        assert norms.max() <= 0.5 * (1 + 1e-5)


def test_micro_batches_train_as_the_whole_batch_does(tmp_path: Path):
    for number in (1, 4):
        config = small(model=ModelConfig(name="mlp", options={"hidden": (8,)}))
        config.train.num_micro_batches = number
        run_training(config, tmp_path / f"{number}", lambda _: None)
    whole, parts = (trees.flatten(latest(tmp_path / name)) for name in ("1", "4"))
    for path, leaf in whole.items():
        np.testing.assert_allclose(parts[path], leaf, rtol=0, atol=1e-5, err_msg=path)
    wanted = validation(tmp_path / "1", "loss")
    assert validation(tmp_path / "4", "loss") == pytest.approx(wanted, rel=1e-4)
    assert wanted[16] < wanted[4]


def test_balanced_class_weights_follow_the_training_examples(tmp_path: Path):
    config = small()
    config.task.class_weights = "balanced"
    experiment = build_experiment(config)
    loader = experiment.train_loader
    labels = open_dataset("digits").split("train").labels[loader.sampler.indices]
    weights = experiment.network.class_weights
    assert weights is not None
    counts = np.bincount(labels, minlength=10)
    assert weights == pytest.approx((64 / (10 * counts)).tolist())
    assert sum(weights[label] for label in labels) == pytest.approx(64)
    run_training(config, tmp_path / "run", lambda _: None)
    network = restore_run(tmp_path / "run", "latest").network
    assert network.class_weights == weights
    loss = network.task.losses(jnp.zeros((1, 10)), {"label": jnp.array([3], jnp.int32)})
    assert float(loss[0]) == pytest.approx(weights[3] * math.log(10), rel=1e-6)


def test_a_run_with_random_crops_goes_on_with_the_pipeline_it_began_with(tmp_path: Path):
    config = small()
    config.data.augment.options = {"crop_area": (0.5, 1.0)}
    result = run_training(config, tmp_path, lambda _: None, metric_writers=[SignalAt(3, "train")])
    assert result.status == "interrupted"
    config.data.loader = "streaming"
    with refused(WorkdirError, where="config.data.loader", found="streaming", allowed="in_memory"):
        run_training(config, tmp_path, lambda _: None)
    config.data.augment.options = {}
    config.data.loader = "in_memory"
    run_training(config, tmp_path / "plain", lambda _: None, metric_writers=[SignalAt(3, "train")])
    config.data.loader = "streaming"
    assert run_training(config, tmp_path / "plain", lambda _: None).status == "finished"
