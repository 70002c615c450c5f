"""Settings of learning that cannot be: refused before anything is trained or written."""

from pathlib import Path
from typing import Any

import pytest
from refusals import refused

from cnn_lab.cli import runtime
from cnn_lab.cli.main import main
from cnn_lab.config.load import load_config
from cnn_lab.config.node import freeze
from cnn_lab.core.errors import ConfigError
from cnn_lab.runs.train import run_training

EXPERIMENT = Path(__file__).parents[2] / "experiments" / "digits" / "lenet5.py"
SHORT = "train.num_epochs=2 train.batch_size=64"


def at(field: str, *found: Any) -> dict[str, Any]:
    """The fields of an error at a field of the config, with what was found there if given."""
    fields = {"where": f"config.{field}"}
    return {**fields, "found": found[0]} if found else fields


# Overrides, and the fields of the error.
WRONG = {
    "rate negative": ("optim.learning_rate=-0.1", at("optim.learning_rate", "-0.1")),
    "rate zero": ("optim.learning_rate=0", at("optim.learning_rate", "0")),
    "rate nan": ("optim.learning_rate=nan", at("optim.learning_rate", "nan")),
    "rate infinite": ("optim.learning_rate=1e999", at("optim.learning_rate", "1e999")),
    "decay of none": (
        "optim.name=momentum optim.options={} optim.options.weight_decay=0.1",
        at("optim.options.weight_decay", 0.1),
    ),
    "decay negative": (
        "optim.name=adamw optim.options={} optim.options.weight_decay=-1",
        at("optim.options.weight_decay", -1),
    ),
    "decay of vectors without any": (
        "optim.name=nadam optim.options={} optim.options.decay_vectors=true",
        at("optim.options.decay_vectors", True),
    ),
    "penalty on vectors without any": ("optim.l2_vectors=true", at("optim.l2_vectors", True)),
    "optimizer": ("optim.name=adm", {"found": "adm"}),
    "option": (
        "optim.name=momentum optim.options={} optim.options.nestrov=true",
        {**at("optim.options", "nestrov"), "nearest": ("nesterov",)},
    ),
    "l1 negative": ("optim.l1=-1", at("optim.l1", "-1")),
    "l1 method": ("optim.l1_method=prox", at("optim.l1_method", "prox")),
    "clip zero": ("optim.clip_norm=0", at("optim.clip_norm", "0")),
    "max norm nan": ("optim.max_norm=nan", at("optim.max_norm", "nan")),
    "schedule": ("optim.schedule.name=cosin", {"found": "cosin", "nearest": ("cosine",)}),
    "warm-up too long": (
        "optim.schedule.warmup_steps=999",
        at("optim.schedule.warmup_steps", 999),
    ),
    "warm-up epochs too long": (
        "optim.schedule.warmup_epochs=2 optim.schedule.warmup_steps=0",
        at("optim.schedule.warmup_epochs", 2),
    ),
    "warm-up in a part of an epoch, before a cycle": (
        "optim.schedule.name=one_cycle optim.schedule.options={} optim.schedule.warmup_steps=0 "
        "optim.schedule.warmup_epochs=0.5",
        at("optim.schedule.warmup_epochs"),
    ),
    "both warm-ups": (
        "optim.schedule.warmup_epochs=1 optim.schedule.warmup_steps=5",
        at("optim.schedule"),
    ),
    "milestones too late": (
        "optim.schedule.name=step optim.schedule.options={} optim.schedule.warmup_steps=0 "
        "optim.schedule.options.milestones_epochs=1,5",
        at("optim.schedule.options.milestones_epochs", 5),
    ),
    "milestone in the warm-up": (
        "optim.schedule.name=step optim.schedule.options={} optim.schedule.warmup_steps=20 "
        "optim.schedule.options.milestones_epochs=1,1.5",
        at("optim.schedule.options.milestones_epochs", 1),
    ),
    "plateau without validation": (
        "optim.schedule.name=plateau optim.schedule.options={} data.validation_fraction=0",
        at("optim.schedule.name", "plateau"),
    ),
    "plateau that never acts": (
        "optim.schedule.name=plateau optim.schedule.options={}",
        at("optim.schedule.options.patience", 5),
    ),
    "plateau factor": (
        "optim.schedule.name=plateau optim.schedule.options={} optim.schedule.options.factor=1.5",
        at("optim.schedule.options.factor", 1.5),
    ),
    "schedule-free and plateau": (
        "optim.name=schedule_free_sgd optim.options={} optim.schedule.name=plateau "
        "train.num_epochs=9",
        at("optim.name"),
    ),
    "schedule-free and average": (
        "optim.name=schedule_free_sgd optim.options={} average.kind=ema",
        at("average", "ema"),
    ),
    "average kind": ("average.kind=mean", at("average.kind", "mean")),
    "average decay": ("average.decay=1", at("average.decay", "1")),
    "average of another kind": (
        "average.kind=ema average.start_epoch=1",
        at("average.start_epoch", 1),
    ),
    "decay of a plain mean": ("average.kind=swa average.decay=0.5", at("average.decay", 0.5)),
    "average too late": ("average.kind=swa average.start_epoch=3", at("average.start_epoch", 3)),
    "micro-batches": ("train.num_micro_batches=5", at("train.num_micro_batches", 5)),
    "micro-batches and devices": (
        "train.num_micro_batches=32 mesh.num_devices=4",
        at("train.batch_size", 64),
    ),
    "loss": ("task.loss=cross_entrpy", {"found": "cross_entrpy", "nearest": ("cross_entropy",)}),
    "smoothing": (
        "task.loss_options.label_smoothing=1",
        at("task.loss_options.label_smoothing", 1),
    ),
    "smoothing of hinge": (
        "task.loss=hinge task.loss_options.label_smoothing=0.1",
        at("task.loss_options", "label_smoothing"),
    ),
    "too few class weights": ("task.class_weights=1,2,3", at("task.class_weights", (1, 2, 3))),
    "class weights of nothing": (
        "task.class_weights=0,0,0,0,0,0,0,0,0,0",
        at("task.class_weights", (0,) * 10),
    ),
    "balanced twice": (
        "task.class_weights=balanced data.sampling=balanced",
        at("data.sampling", "balanced"),
    ),
    "class weights word": ("task.class_weights=equal", at("task.class_weights", "equal")),
    "mixup with hinge": (
        "task.loss=hinge data.augment.options.mixup=0.2",
        at("task.loss", "hinge"),
    ),
    "strength": ("data.augment.strength=havy", at("data.augment.strength", "havy")),
    "recipe": ("data.augment.recipe=photo", {"found": "photo", "nearest": ("photos",)}),
    "probability above 1": (
        "data.augment.options.flip=1.5",
        at("data.augment.options.flip", 1.5),
    ),
    "probability below 0": (
        "data.augment.options.erasing=-0.1",
        at("data.augment.options.erasing", -0.1),
    ),
    "shift beyond the image": (
        "data.augment.options.shift=32",
        at("data.augment.options.shift", 32),
    ),
    "crop upside down": (
        "data.augment.options.crop_area=1.0,0.5",
        at("data.augment.options.crop_area", (1.0, 0.5)),
    ),
    "crop above the image": (
        "data.augment.options.crop_area=0.5,1.5",
        at("data.augment.options.crop_area", (0.5, 1.5)),
    ),
    "sampling": ("data.sampling=even", at("data.sampling", "even")),
    "dropout": (
        "model.options.dropout_rates=0.1,0.1,1.0",
        at("model.options.dropout_rates", (0.1, 0.1, 1.0)),
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_it_is_refused_before_training(case, tmp_path):
    overrides, fields = WRONG[case]
    words = [word.partition("=") for word in f"{SHORT} {overrides}".split()]
    with refused(ConfigError, **fields):
        config = freeze(load_config(str(EXPERIMENT), [(field, text) for field, _, text in words]))
        run_training(config, tmp_path / "run", lambda _: None)
    assert not (tmp_path / "run").exists()


def test_the_command_ends_with_one_sentence(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(runtime, "start", lambda _: None)
    words = f"{SHORT} {WRONG['decay of none'][0]}".split()
    overrides = [f"--config.{word}" for word in words]
    workdir = tmp_path / "run"
    assert main(["train", f"--config={EXPERIMENT}", f"--workdir={workdir}", *overrides]) == 2
    error = capsys.readouterr().err
    assert error.startswith(
        "error: config.optim.options.weight_decay is set, but momentum has no weight decay; take "
        "one that has (adamw, "
    )
    assert error.count("\n") == 1
    assert not workdir.exists()
