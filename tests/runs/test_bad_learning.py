"""Settings of learning that cannot be: one sentence, before anything is trained or written."""

from pathlib import Path

import pytest

from cnn_lab.cli import runtime
from cnn_lab.cli.main import main

ROOT = Path(__file__).parents[2]
OPTIM, A, T = "--config.optim.", "--config.data.augment.", "--config.task."
MOMENTUM = f"{OPTIM}name=momentum", f"{OPTIM}options={{}}"
WRONG = {
    "rate negative": (
        [f"{OPTIM}learning_rate=-0.1"],
        "optim.learning_rate must be a finite number above 0",
    ),
    "rate zero": (
        [f"{OPTIM}learning_rate=0"],
        "optim.learning_rate must be a finite number above 0",
    ),
    "rate nan": (
        [f"{OPTIM}learning_rate=nan"],
        "optim.learning_rate must be a finite number above 0",
    ),
    "rate infinite": (
        [f"{OPTIM}learning_rate=1e999"],
        "optim.learning_rate must be a finite number",
    ),
    "decay of none": (
        [*MOMENTUM, f"{OPTIM}options.weight_decay=0.1"],
        "config.optim.options.weight_decay is set, but momentum has no weight decay; take one that "
        "has (adamw, ",
    ),
    "decay negative": (
        [f"{OPTIM}name=adamw", f"{OPTIM}options={{}}", f"{OPTIM}options.weight_decay=-1"],
        "config.optim.options.weight_decay must be a finite number of at least 0",
    ),
    "decay of vectors without any": (
        [f"{OPTIM}name=nadam", f"{OPTIM}options={{}}", f"{OPTIM}options.decay_vectors=true"],
        "config.optim.options.decay_vectors is set, but there is no decay; set config.optim.",
    ),
    "penalty on vectors without any": (
        [f"{OPTIM}l2_vectors=true"],
        "config.optim.l2_vectors is set, but there is no L2 penalty; set config.optim.l2 too.",
    ),
    "optimizer": ([f"{OPTIM}name=adm"], "There is no optimizer named 'adm'; did you mean adam"),
    "option": (
        [*MOMENTUM, f"{OPTIM}options.nestrov=true"],
        "momentum has no option 'nestrov'; did you mean nesterov",
    ),
    "l1 negative": ([f"{OPTIM}l1=-1"], "config.optim.l1 must be a finite number of at least 0"),
    "l1 method": (
        [f"{OPTIM}l1_method=prox"],
        "config.optim.l1_method must be one of subgradient, proximal",
    ),
    "clip zero": ([f"{OPTIM}clip_norm=0"], "config.optim.clip_norm must be"),
    "max norm nan": ([f"{OPTIM}max_norm=nan"], "config.optim.max_norm must be"),
    "schedule": (
        [f"{OPTIM}schedule.name=cosin"],
        "There is no schedule named 'cosin'; did you mean cosine?",
    ),
    "warm-up too long": (
        [f"{OPTIM}schedule.warmup_steps=999"],
        "warmup_steps asks for 999 steps of warm-up, but the whole run has only 36;",
    ),
    "warm-up epochs too long": (
        [f"{OPTIM}schedule.warmup_epochs=2", f"{OPTIM}schedule.warmup_steps=0"],
        "config.optim.schedule.warmup_epochs is 2, but the whole run has only 2 epochs",
    ),
    "warm-up in a part of an epoch, before a cycle": (
        [
            f"{OPTIM}schedule.name=one_cycle",
            f"{OPTIM}schedule.options={{}}",
            f"{OPTIM}schedule.warmup_steps=0",
            f"{OPTIM}schedule.warmup_epochs=0.5",
        ],
        "config.optim.schedule.warmup_epochs is set, but one_cycle warms up by itself; set it to 0",
    ),
    "both warm-ups": (
        [f"{OPTIM}schedule.warmup_epochs=1", f"{OPTIM}schedule.warmup_steps=5"],
        "config.optim.schedule has warmup_steps=5 and warmup_epochs=1; set one of them, and the",
    ),
    "milestones too late": (
        [
            f"{OPTIM}schedule.name=step",
            f"{OPTIM}schedule.options={{}}",
            f"{OPTIM}schedule.options.milestones_epochs=1,5",
        ],
        "config.optim.schedule.options.milestones_epochs",
    ),
    "plateau without validation": (
        [
            f"{OPTIM}schedule.name=plateau",
            f"{OPTIM}schedule.options={{}}",
            "--config.data.validation_fraction=0",
        ],
        "config.optim.schedule.name is 'plateau', which watches a validation metric, but nothing",
    ),
    "plateau that never acts": (
        [f"{OPTIM}schedule.name=plateau", f"{OPTIM}schedule.options={{}}"],
        "config.optim.schedule.options.patience is 5, but the run has only 2 evaluations, so the",
    ),
    "plateau factor": (
        [
            f"{OPTIM}schedule.name=plateau",
            f"{OPTIM}schedule.options={{}}",
            f"{OPTIM}schedule.options.factor=1.5",
        ],
        "config.optim.schedule.options.factor must be",
    ),
    "schedule-free and plateau": (
        [
            f"{OPTIM}name=schedule_free_sgd",
            f"{OPTIM}options={{}}",
            f"{OPTIM}schedule.name=plateau",
            "--config.train.num_epochs=9",
        ],
        "config.optim.name is a schedule-free optimizer, which cannot have",
    ),
    "schedule-free and average": (
        [f"{OPTIM}name=schedule_free_sgd", f"{OPTIM}options={{}}", "--config.average.kind=ema"],
        "config.average is set, but schedule_free_sgd keeps an average of the weights itself",
    ),
    "average kind": (["--config.average.kind=mean"], "config.average.kind must be one of ema, swa"),
    "average decay": (["--config.average.decay=1"], "config.average.decay must be"),
    "average of another kind": (
        ["--config.average.kind=ema", "--config.average.start_epoch=1"],
        "config.average.start_epoch is 1, but it belongs to 'swa' and config.average.kind is 'ema'",
    ),
    "decay of a plain mean": (
        ["--config.average.kind=swa", "--config.average.decay=0.5"],
        "config.average.decay is 0.5, but it belongs to 'ema' and config.average.kind is 'swa'",
    ),
    "average too late": (
        ["--config.average.kind=swa", "--config.average.start_epoch=3"],
        "config.average.start_epoch is 3, but the run has only 2 epochs, so there would be no",
    ),
    "micro-batches": (
        ["--config.train.num_micro_batches=5"],
        "config.train.num_micro_batches is 5, which does not divide config.train.batch_size, 64,",
    ),
    "micro-batches and devices": (
        ["--config.train.num_micro_batches=32", "--config.mesh.num_devices=4"],
        "config.train.batch_size is 64, which 4 devices cannot share evenly in 32 micro-batches",
    ),
    "loss": ([f"{T}loss=cross_entrpy"], "There is no loss named 'cross_entrpy'; did you mean"),
    "smoothing": (
        [f"{T}loss_options.label_smoothing=1"],
        "config.task.loss_options.label_smoothing must be",
    ),
    "smoothing of hinge": (
        [f"{T}loss=hinge", f"{T}loss_options.label_smoothing=0.1"],
        "config.task.loss_options: hinge has no option 'label_smoothing'",
    ),
    "too few class weights": (
        [f"{T}class_weights=1,2,3"],
        "config.task.class_weights has 3 values, but digits has 10 classes; give one value a class",
    ),
    "class weights of nothing": (
        [f"{T}class_weights=0,0,0,0,0,0,0,0,0,0"],
        "config.task.class_weights are all 0, so nothing would be learned",
    ),
    "balanced twice": (
        [f"{T}class_weights=balanced", "--config.data.sampling=balanced"],
        "config.data.sampling and config.task.class_weights are both 'balanced', which would count",
    ),
    "class weights word": ([f"{T}class_weights=equal"], "config.task.class_weights must be"),
    "mixup with hinge": (
        [f"{T}loss=hinge", f"{A}options.mixup=0.2"],
        "config.task.loss is 'hinge', which needs one class an example, but mixup or CutMix mixes",
    ),
    "strength": (
        [f"{A}strength=havy"],
        "config.data.augment.strength must be one of none, light, heavy",
    ),
    "recipe": (
        [f"{A}recipe=photo"],
        "There is no augmentation named 'photo'; did you mean photos?",
    ),
    "probability above 1": ([f"{A}options.flip=1.5"], "config.data.augment.options.flip must be"),
    "probability below 0": (
        [f"{A}options.erasing=-0.1"],
        "config.data.augment.options.erasing must be",
    ),
    "shift beyond the image": (
        [f"{A}options.shift=32"],
        "config.data.augment.options.shift must be below 32, for something to be left of 32 x 32",
    ),
    "crop upside down": (
        [f"{A}options.crop_area=1.0,0.5"],
        "config.data.augment.options.crop_area must be the smaller value, then the larger",
    ),
    "crop above the image": (
        [f"{A}options.crop_area=0.5,1.5"],
        "config.data.augment.options.crop_area must be",
    ),
    "sampling": (
        ["--config.data.sampling=even"],
        "config.data.sampling must be one of uniform, balanced",
    ),
    "dropout": (
        ["--config.model.options.dropout_rates=0.1,0.1,1.0"],
        "config.model.options.dropout_rates must be",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_it_is_told_in_one_sentence_before_training(case, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(runtime, "start", lambda _: None)
    overrides, text = WRONG[case]
    workdir = tmp_path / "run"
    usual = [f"--config={ROOT}/experiments/digits/lenet5.py", f"--workdir={workdir}"]
    usual += ["--config.train.num_epochs=2", "--config.train.batch_size=64"]
    assert main(["train", *usual, *overrides]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert text in error
    assert error.count("\n") == 1
    assert not workdir.exists()
