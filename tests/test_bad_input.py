"""Bad input: one clear sentence, status 2, and nothing already saved is lost."""

import dataclasses
import fcntl
import gzip
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from absl import logging
from PIL import Image
from strict import leftovers

from cnn_lab.checkpoint.writer import Checkpoints
from cnn_lab.cli import runtime
from cnn_lab.cli.main import main

ROOT = Path(__file__).parents[1]
EXPERIMENT = """
from cnn_lab.config import *

def get_config():
    return ExperimentConfig(
        data=DataConfig(name="digits", validation_fraction=0.2),
        model=ModelConfig(name="linear"),
        optim=OptimConfig(name="momentum", learning_rate=0.1),
        train=TrainConfig(num_epochs=2, batch_size=64),
        checkpoint=CheckpointConfig(keep_latest=100),
        log=LogConfig(tensorboard=False),
    )
"""
STEPS_PER_EPOCH = 18  # ceil(1150 / 64): a fifth of the 1437 digits is held out


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, data_dir: Path):
    """A folder of everything that a user can get wrong, beside one experiment and one good run."""
    folder = tmp_path_factory.mktemp("world")
    with pytest.MonkeyPatch.context() as patch:
        _calm(patch)
        _write_experiments(folder)
        _write_data(folder)
        assert main(["train", f"--config={folder}/good.py", f"--workdir={folder}/run"]) == 0
        _write_runs(folder)
    return folder


@pytest.fixture
def refused(refuse):
    """Runs a command that must be refused in one sentence, and returns that sentence."""

    return lambda *arguments: refuse(*arguments)[0]


@pytest.fixture
def refuse(world: Path, tmp_path: Path, capfd: pytest.CaptureFixture, monkeypatch):
    """Runs a command that must be refused, and returns the one sentence and the error."""

    def run(*arguments: str) -> tuple[str, BaseException]:
        _calm(monkeypatch)
        raised: list[Any] = []

        def complain(text: str) -> None:
            raised.append(sys.exc_info()[1])
            sys.stderr.write(text)

        monkeypatch.setattr(runtime, "complain", complain)
        capfd.readouterr()
        status = main([a.format(w=world, new=tmp_path / "new") for a in arguments])
        printed, errors = capfd.readouterr()
        assert status == 2, printed + errors
        return one_sentence(errors), raised[0]

    return run


def _calm(patch: pytest.MonkeyPatch) -> None:
    """Leaves this process's devices and caches as they are; log lines go where pytest sees them."""
    patch.setattr(runtime, "start", lambda _: runtime.start_logging())
    patch.setattr(logging.get_absl_handler().python_handler, "stream", sys.stderr)


def one_sentence(errors: str, warnings: int = 0) -> str:
    """The error of a command's standard error, which must hold nothing else but warnings."""
    lines = errors.splitlines()
    kept = [line for line in lines if not line.startswith("WARNING: ")]
    assert len(lines) - len(kept) == warnings, errors
    assert kept, "nothing was said"
    assert kept[0].startswith("error: "), errors
    assert sum(line.startswith("error: ") for line in kept) == 1, errors
    assert "Traceback" not in errors
    assert kept[-1][-1] in ".?)", errors
    return "\n".join(kept)


def _write_experiments(folder: Path) -> None:
    texts = {
        "good.py": EXPERIMENT,
        "no_function.py": EXPERIMENT.replace("get_config", "make_config"),
        "needs_argument.py": EXPERIMENT.replace("get_config()", "get_config(size)"),
        "syntax.py": EXPERIMENT.replace("return Exp", "return = Exp"),
        "typo.py": EXPERIMENT.replace("batch_size", "batchsize"),
        # By assignment, which no constructor sees.
        "wrong_type.py": EXPERIMENT.replace("return Exp", "config = Exp")
        + "    config.train.num_epochs = 'two'\n",
        "out_of_range.py": EXPERIMENT.replace("learning_rate=0.1", "learning_rate=-0.1"),
        "raises.py": EXPERIMENT.replace("return Exp", "return 1 / 0, Exp"),
        "returns_none.py": EXPERIMENT.replace("return Exp", "Exp"),
        "exits.py": "raise SystemExit('bye')\n",
        "cut.json": '{"seed": 1, "mod',
        "typo.json": '{"seed": 1, "modle": {}}',
        "list.json": "[1, 2]",
        "nan.json": '{"optim": {"learning_rate": NaN}}',
        "bytes.json": "",
        "notes.txt": "not an experiment",
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
    (folder / "bytes.json").write_bytes(b"\xff\xfe\x00\x80")


def _write_data(folder: Path) -> None:
    def image(name: str, size: int = 8) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(len(name)).integers(0, 255, (size, size), np.uint8)
        Image.fromarray(pixels).save(path)

    for kind in ("various", "text", "empty", "tiny"):
        for label in ("cat", "dog"):
            for index in range(8):
                image(f"{kind}/{label}/{index}.png", 8 + (index if kind == "various" else 0))
    (folder / "text/cat/9.png").write_text("this is no image")
    (folder / "text/dog/notes.txt").write_text("nor is this")
    (folder / "empty/bird").mkdir()
    image("loose/1.png")
    (folder / "bare").mkdir()
    image("five.png")
    (folder / "five.jpg").write_bytes((folder / "five.png").read_bytes()[:90])
    Image.open(folder / "five.png").save(folder / "five.gif")
    (folder / "fake.png").write_text("this is no image")
    (folder / "none.png").write_bytes(b"")

    idx = {"train-images": 47040016, "train-labels": 60008, "t10k-images": 7840016}
    idx |= {"t10k-labels": 10008}
    for name in ("mnist_wrong", "mnist_cut", "fashion_77"):
        (folder / name).mkdir()
        for part, size in idx.items():
            dims = 3 if "images" in part else 1
            shape = (size // 784, 28, 28) if dims == 3 else (size - 8,)
            header = bytes([0, 0, 8, dims]) + np.asarray(shape, ">u4").tobytes()
            path = folder / name / f"{part}-idx{dims}-ubyte"
            path.write_bytes(header)
            os.truncate(path, size)  # sparse: zeros that take no room
    with (folder / "fashion_77/train-labels-idx1-ubyte").open("r+b") as file:
        file.seek(1000)
        file.write(bytes([77]))
    packed = gzip.compress(bytes(range(256)) * 4000)
    for path in sorted((folder / "mnist_cut").iterdir()):
        path.with_name(f"{path.name}.gz").write_bytes(packed[: len(packed) // 2])
        path.unlink()
    (folder / "cifar_cut").mkdir()
    (folder / "cifar_cut/cifar-10-binary.tar.gz").write_bytes(packed)


def _write_runs(folder: Path) -> None:
    run = folder / "run"

    def copy(name: str) -> Path:
        return Path(shutil.copytree(run, folder / name))

    (folder / "no_run").mkdir()
    shutil.rmtree(copy("no_checkpoint") / "checkpoints")
    (copy("config_cut") / "config.json").write_text("{nonsense")
    edited = json.loads((run / "config.json").read_text())
    edited["model"]["name"] = "resnet51"
    (copy("config_model") / "config.json").write_text(json.dumps(edited))
    edited["model"]["name"] = "mlp"
    (copy("config_other") / "config.json").write_text(json.dumps(edited))
    edited["train"]["num_epochs"] = "many"
    (copy("config_type") / "config.json").write_text(json.dumps(edited))
    shutil.rmtree(copy("never_saved") / "checkpoints")
    (folder / "never_saved/run.json").write_text('{"status": "failed"}')
    (folder / "astray").symlink_to(folder / "nowhere")
    damaged = copy("damaged")
    for step in (damaged / "checkpoints").iterdir():
        damage(step, "flip")
    unfinish(damaged)


def damage(step: Path, how: str) -> None:
    """Harms the files of a checkpoint that hold its weights."""
    files = [path for path in step.glob("state/**/d/*") if path.stat().st_size > 1000]
    assert files
    for file in files:
        content = bytearray(file.read_bytes())
        if how == "flip":
            for place in range(len(content) // 8, len(content), len(content) // 8):
                content[place] ^= 0x10
            file.write_bytes(content)
        elif how == "truncate":
            file.write_bytes(content[: len(content) // 8])  # whichever leaves lie first
        else:
            file.unlink()


def unfinish(run: Path) -> None:
    """Makes a run look as if it had been killed after its last checkpoint."""
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**record, "status": "running"}))


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder but the lock, which only says who looked last."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path): path.read_bytes() for path in files}


TRAIN = ("train", "--config={w}/good.py", "--workdir={new}")
EVALUATE = ("evaluate", "--workdir={w}/run")
PREDICT = ("predict", "--workdir={w}/run")


def training(*overrides: str) -> tuple[str, ...]:
    return (*TRAIN, *(f"--config.{override}" for override in overrides))


@dataclasses.dataclass(frozen=True)
class Mistake:
    """Fields of an error; those of no matter are left out."""

    where: str | None = None
    found: Any = None
    allowed: str | None = None
    nearest: str | None = None

    def check(self, error: Any) -> None:
        assert self.where in (None, error.where)
        assert self.found in (None, error.found)
        assert self.allowed in (None, error.allowed)
        assert self.nearest in (None, *error.nearest[:1])
        assert bool(error.nearest) == (self.nearest is not None)


def typo(where: str | None, found: str, nearest: str) -> Mistake:
    return Mistake(where, found, nearest=nearest)


ABOVE_0, PART = "a finite number above 0", "a finite number of at least 0 and below 1"
NATURAL, COUNT = "a whole number of at least 0", "a whole number of at least 1"
MODEL, OPTIM = "config.model.options", "config.optim.options"
RATE, SCHEDULE = f"{MODEL}.dropout_rate", "config.optim.schedule.options"
COMMAND_LINES = {
    # Commands and flags.
    ("trian",): typo(None, "trian", "train"),
    ("help", "trian"): typo(None, "trian", "train"),
    ("help", "config", "optm"): typo("config", "optm", "optim"),
    ("help", "config", "train.batch_sze"): typo("config", "train.batch_sze", "train.batch_size"),
    ("train", "--confg=x"): typo(None, "--confg", "--config"),
    ("train", "--workdir"): ("Missing value for flag --workdir", "cnn-lab help train"),
    ("train",): ("--config is missing", "experiments/digits/lenet5.py", "cnn-lab list"),
    ("--versoin",): typo(None, "--versoin", "--version"),
    ("--workdir=x", "train"): ("no flag '--workdir=x' before a command", "known: --help"),
    ("train", "--config="): Mistake("--config", ""),
    ("train", "--config={w}/good.py", "--workdir="): Mistake("--workdir", ""),
    ("data", "prepare", "mnist", "--from_dir="): Mistake("--from_dir", ""),
    ("evaluate", "--workdir="): Mistake("--workdir", ""),
    ("train", "{w}/good.py"): ("flags only", "did you mean --config=", "/good.py?"),
    ("train", "{w}/good.py:large"): ("flags only", "good.py:large?"),
    (*TRAIN, "now"): ("flags only", "'now'"),
    (*TRAIN, "--dry_run=perhaps"): Mistake("--dry_run", "perhaps", "true or false"),
    (*TRAIN, "--config.seed"): Mistake("--config.seed"),
    (*TRAIN, "--workdir=runs/other"): Mistake("--workdir"),
    (*TRAIN, "--dry_run", "--nodry_run"): Mistake("--dry_run"),
    (*TRAIN, "--config.mesh.fspd"): typo("config.mesh", "fspd", "fsdp"),
    (*EVALUATE, "now"): ("flags only", "'now'"),
    (*EVALUATE, "--config.seed=1"): Mistake("--config.seed"),
    ("list", "model"): typo(None, "model", "models"),
    ("list", "models", "a", "b"): ("at most one pattern",),
    ("list", "models", "zzz*"): ("No models match 'zzz*'", "known: ", "lenet5"),
    ("list", "models", "lenet6"): typo(None, "lenet6", "lenet5"),
    ("list", "--all"): ("list has no flag --all", "--imports"),
    ("data",): ("prepare", "check", "NAME"),
    ("data", "prepare"): ("prepare", "NAME"),
    ("data", "prepair", "digits"): typo(None, "prepair", "prepare"),
    ("data", "check", "digts"): ("no data set named 'digts'", "did you mean digits", "folder:"),
    # The config: file, fields, types, ranges.
    ("train", "--config={w}/godo.py"): ("no config file", "godo.py"),
    ("train", "--config={w}/run"): ("run is the folder of a run", "run/config.json"),
    ("train", "--config={w}/notes.txt"): ("notes.txt is no Python file", ".py or .json"),
    ("train", "--config={w}/good.py:argument"): (
        "good.py: get_config() takes no argument",
        "leave :argument out",
    ),
    ("train", "--config={w}/needs_argument.py"): ("needs an argument", "needs_argument.py:"),
    ("train", "--config={w}/no_function.py"): ("no_function.py: it defines no get_config()",),
    ("train", "--config={w}/syntax.py"): ("syntax.py, line 5", "SyntaxError"),
    ("train", "--config={w}/raises.py"): ("raises.py, line 5", "ZeroDivisionError"),
    ("train", "--config={w}/exits.py"): ("exits.py, line 1", "SystemExit"),
    ("train", "--config={w}/returns_none.py"): ("must return an ExperimentConfig", "None"),
    ("train", "--config={w}/typo.py"): typo("TrainConfig", "batchsize", "batch_size"),
    ("train", "--config={w}/wrong_type.py"): Mistake("TrainConfig.num_epochs", "two", COUNT),
    ("train", "--config={w}/out_of_range.py"): ("line 8", "learning_rate", ABOVE_0, "-0.1"),
    ("train", "--config={w}/cut.json"): ("cut.json is not readable JSON",),
    ("train", "--config={w}/bytes.json"): ("bytes.json is not readable JSON",),
    ("train", "--config={w}/typo.json"): typo("config", "modle", "model"),
    ("train", "--config={w}/list.json"): Mistake("config", [1, 2], "a table of fields"),
    ("train", "--config={w}/nan.json"): ("nan.json", "learning_rate", ABOVE_0, "nan"),
    training("modle.name=mlp"): typo("config", "modle", "model"),
    training("train.batch_sze=3"): typo("config.train", "batch_sze", "batch_size"),
    training("model.name.x=3"): Mistake("config.model.name", "x"),
    training("model=mlp"): Mistake("config.model", "mlp"),
    training("train.num_epochs=2.5"): Mistake("config.train.num_epochs", "2.5", COUNT),
    training("train.num_epochs=ten"): Mistake("config.train.num_epochs", "ten", COUNT),
    training("train.num_epochs=0"): Mistake("config.train.num_epochs", "0", COUNT),
    training("train.batch_size=-5"): Mistake("config.train.batch_size", "-5", COUNT),
    training("train.num_epochs=true"): Mistake("config.train.num_epochs", "true", COUNT),
    training("log.tensorboard=maybe"): Mistake("config.log.tensorboard", "maybe", "true or false"),
    training("seed=-1"): Mistake("config.seed", "-1", f"{NATURAL} and below 4294967296"),
    training("seed=5000000000"): Mistake("config.seed", "5000000000"),
    training("data.split_seed=-1"): Mistake("config.data.split_seed", "-1"),
    training("data.image_size=28"): ("a tuple of 2", "or none, written like 32,32; found '28'"),
    training("data.data_dir="): Mistake("--config.data.data_dir", ""),
    training("data.num_train=1151"): Mistake(
        "config.data.num_train",
        1151,
        "at most 1,150, the training examples of digits without the 287 held out for validation",
    ),
    training("data.image_size=28,x"): Mistake("config.data.image_size", "28,x"),
    training("data.image_size=28,28,1"): Mistake("config.data.image_size", "28,28,1"),
    training("data.image_size=0,28"): Mistake("config.data.image_size", "0,28"),
    training("data.channels=2"): Mistake("config.data.channels", "2", "one of 1, 3, or none"),
    training("data.channels=true"): Mistake("config.data.channels", "true"),
    training("data.pad=-1"): Mistake("config.data.pad", "-1", NATURAL),
    training("data.mean=0.5"): Mistake("config.data"),
    training("data.mean=127", "data.std=60"): Mistake("config.data.mean", "127"),
    training("data.mean=0.5", "data.std=0"): Mistake("config.data.std", "0"),
    training("data.mean=0.5,0.5,0.5", "data.std=1,1,1"): Mistake(
        "config.data.mean", (0.5, 0.5, 0.5), "1 value, one per channel, or none to measure it"
    ),
    training("data.mean=0.5", "data.std=1,1"): Mistake("config.data.std", (1.0, 1.0)),
    training("data.loader=fast"): Mistake(
        "config.data.loader", "fast", "one of auto, in_memory, sharded, streaming"
    ),
    training("data.validation_fraction=1"): Mistake("config.data.validation_fraction", "1", PART),
    training("data.num_validation=1437"): Mistake("config.data.num_validation", 1437),
    training("model.options=3"): Mistake("config.model.options", "3", "a table of named options"),
    # Names and options of models, optimizers, schedules, losses.
    training("model.name=lenet"): typo(None, "lenet", "lenet5"),
    training("model.name=mlp", "model.options.hiden=(9,)"): typo(MODEL, "hiden", "hidden"),
    training("model.name=mlp", "model.options.num_classes=3"): Mistake(MODEL, "num_classes"),
    training("model.options.hidden=(9,)"): Mistake(MODEL, "hidden"),
    training("model.name=mlp", "model.options.pooling=max"): (
        *("mlp has no option 'pooling'", "if config.model.name was changed"),
        "--config.model.options={} clears them",
    ),
    training("optim.name=sgd", "optim.options.momentum=0.9"): (
        "--config.optim.options={} clears them",
    ),
    training("model.name=mlp", "model.options.hidden=9"): (
        *("options.hidden", "a tuple", "written like 32,32 (one alone: 32,); found 9"),
    ),
    training("model.name=mlp", "model.options.hidden=(0,)"): Mistake(f"{MODEL}.hidden", (0,)),
    training("model.name=mlp", "model.options.hidden=(2.5,)"): Mistake(f"{MODEL}.hidden", (2.5,)),
    training("model.name=mlp", "model.options.dropout_rate=1"): Mistake(RATE, 1, PART),
    training("model.name=mlp", "model.options.dropout_rate=-0.1"): Mistake(RATE, -0.1, PART),
    training("model.name=mlp", "model.options.dropout_rate=nan"): Mistake(RATE, "nan", PART),
    training("model.name=mlp", "model.options.activation=rellu"): ("activation", "relu"),
    training("model.name=mlp", "model.options.activation=1"): (
        Mistake(f"{MODEL}.activation", 1, "a text")
    ),
    training("model.name=lenet5", "model.options.pooling=mean"): (
        Mistake(f"{MODEL}.pooling", "mean", "one of average, max, trainable")
    ),
    training("model.name=lenet5", "model.options.dropout_rates=0,0,2"): (PART, "2"),
    training("model.name=lenet5"): ("lenet5 takes images", "16x16", "8x8", "image_size"),
    training("task.name=classify"): typo(None, "classify", "classification"),
    training("task.loss=cross_entrpy"): ("no loss named", "did you mean cross_entropy"),
    training("selection.metric=acuracy"): ("config.selection.metric", "did you mean accuracy"),
    training("optim.name=adm"): ("no optimizer named 'adm'", "adam"),
    training("optim.options.momentun=0.9"): typo(OPTIM, "momentun", "momentum"),
    training("optim.options.learning_rate=1"): Mistake(OPTIM, "learning_rate"),
    training("optim.options.momentum=1"): Mistake(f"{OPTIM}.momentum", 1, PART),
    training("optim.options.momentum=high"): Mistake(f"{OPTIM}.momentum", "high", PART),
    training("optim.options.nesterov=1"): Mistake(f"{OPTIM}.nesterov", 1, "true or false"),
    training("optim.name=adamw", "optim.options.weight_decay=-1"): ("weight_decay", "-1"),
    training("optim.name=adamw", "optim.options.weight_decay=1e999"): ("weight_decay", "inf"),
    training("optim.name=adamw", "optim.options.eps=0"): ("options.eps", ABOVE_0),
    training("optim.name=adam", "optim.options.b1=1"): ("options.b1", PART),
    training("optim.name=adam", "optim.options.b2=-1"): ("options.b2", PART),
    training("optim.l2=-1"): Mistake("config.optim.l2", "-1", "a finite number of at least 0"),
    training("optim.l2=nan"): Mistake("config.optim.l2", "nan"),
    **{
        training(f"optim.learning_rate={text}"): Mistake(
            "config.optim.learning_rate", text, ABOVE_0
        )
        for text in ("0", "-0.1", "nan", "inf", "1e999", "fast", "none")
    },
    training("optim.schedule.name=cosin"): typo(None, "cosin", "cosine"),
    training("optim.schedule.options.final_fraction=1"): Mistake(SCHEDULE, "final_fraction"),
    training("optim.schedule.name=cosine", "optim.schedule.options.final_fraction=2"): (
        Mistake(f"{SCHEDULE}.final_fraction", 2, "a finite number of at least 0 and at most 1")
    ),
    training("optim.schedule.name=cosine", "optim.schedule.options.peak=2"): (
        Mistake(SCHEDULE, "peak")
    ),
    training("optim.schedule.warmup_steps=-1"): (
        Mistake("config.optim.schedule.warmup_steps", "-1", NATURAL)
    ),
    training("optim.schedule.warmup_steps=36"): ("warmup_steps asks for 36 steps", "only 36;"),
    # Combinations.
    training("train.batch_size=1151"): ("batch_size is 1151", "only 1,150", "at most"),
    training("train.batch_size=65", "mesh.num_devices=2"): ("65", "use 64 or 66"),
    training("mesh.num_devices=9"): ("num_devices is 9", "4 cpu devices"),
    training("mesh.num_devices=0"): Mistake("config.mesh.num_devices", "0", f"{COUNT} or none"),
    training("early_stopping.patience=0"): Mistake("config.early_stopping.patience", "0", COUNT),
    training("early_stopping.patience=2", "data.validation_fraction=0"): (
        *("early_stopping needs a validation split", "validation_fraction"),
    ),
    training("early_stopping.patience=2", "data.num_validation=0"): (
        Mistake("config.early_stopping")
    ),
    training("early_stopping.every_epochs=1", "evaluate.every_epochs=2"): (
        Mistake("config.early_stopping.every_epochs", 1)
    ),
    training("early_stopping.every_epochs=3"): Mistake("config.early_stopping.every_epochs", 3),
    # Data.
    training("data.name=minst"): ("no data set named 'minst'", "did you mean mnist"),
    training("data.name="): ("--config.data.name= is empty",),
    training("data.name=folder:"): ("'folder:' lacks what follows the colon", "folder:PATH"),
    training("data.name=tfds:"): ("'tfds:' lacks what follows the colon", "tfds:PATH"),
    training("data.name=folder:{w}/nowhere"): ("no folder", "nowhere"),
    training("data.name=folder:{w}/bare"): ("bare holds no class folders",),
    training("data.name=folder:{w}/loose"): ("1.png lies outside any class folder",),
    training("data.name=folder:{w}/empty"): ("bird is empty", "add images or remove it"),
    training("data.name=folder:{w}/text"): (
        *("2 of 18 files", "cat/9.png (not a JPEG or PNG image)", "dog/notes.txt"),
        "--skip_bad_files",
    ),
    training("data.name=folder:{w}/various", "train.batch_size=4"): (
        *("differ in size", "--config.data.image_size=224,224"),
    ),
    training("data.name=folder:{w}/various", "train.batch_size=4", "data.num_workers=-1"): (
        "config.data.num_workers",
    ),
    training("data.name=tfds:nothing"): ("tfds:nothing is not prepared", "array_record"),
    training("data.name=tfds:{w}/run"): ("holds no dataset_info.json",),
    training("data.data_dir={w}/notes.txt"): ("notes.txt",),
    ("data", "prepare", "digits", "--from_dir={w}/bare"): (
        *(
            "--from_dir=",
            "bare was given, but digits is not made from published files",
        ),
    ),
    ("data", "check", "folder:{w}/tiny", "--from_dir={w}/bare"): ("leave it out",),
    ("data", "prepare", "digits", "--skip_bad_files"): ("--skip_bad_files is for folder:PATH",),
    ("data", "prepare", "mnist", "--from_dir={w}/nowhere"): ("nowhere is not a folder",),
    ("data", "prepare", "mnist", "--from_dir={w}/bare"): ("lacks train-images-idx3-ubyte.gz",),
    ("data", "prepare", "cifar10", "--from_dir={w}/bare"): ("lacks cifar-10-binary.tar.gz",),
    ("data", "prepare", "mnist", "--from_dir={w}/mnist_wrong"): ("has sha256", "get it again"),
    ("data", "prepare", "mnist", "--from_dir={w}/mnist_cut"): ("cut short", "get it again"),
    ("data", "prepare", "fashion_mnist", "--from_dir={w}/fashion_77"): (
        *("'train' of fashion_mnist hold the label 77", "expected 0 to 9"),
    ),
    ("data", "prepare", "cifar10", "--from_dir={w}/cifar_cut"): ("sha256", "download it again"),
    # Working directories.
    ("train", "--config={w}/good.py", "--workdir={w}/notes.txt"): (
        "notes.txt is a file",
        "--workdir",
    ),
    ("train", "--config={w}/good.py", "--workdir={w}/notes.txt/a"): (
        *("notes.txt/a cannot be made: ", "notes.txt is a file", "--workdir"),
    ),
    ("train", "--config={w}/good.py", "--workdir={w}/" + "x" * 300): (
        *("--workdir is too long", "characters", "shorter"),
    ),
    ("evaluate", "--workdir={w}/" + "x" * 300): ("cannot be read (File name too long)",),
    ("train", "--config={w}/good.py", "--workdir={w}/astray"): ("astray is a link that leads",),
    ("train", "--config={w}/good.py", "--workdir={w}/tiny"): (
        *("tiny is not empty, and no run: it holds cat, but no config.json", "new or empty"),
    ),
    ("train", "--config={w}/good.py", "--workdir={w}/no_checkpoint"): (
        *("no_checkpoint was finished at step 36, but its checkpoints are gone", "bring them back"),
        "no_checkpoint/config.json --workdir=NEW",
    ),
    ("train", "--config={w}/good.py", "--workdir=/proc/a/b"): ("/proc/a/b cannot be written",),
    ("train", "--config={w}/good.py", "--workdir={w}/config_cut"): ("config.json", "restore it"),
    ("train", "--config={w}/good.py", "--workdir={w}/config_type"): ("config.json", "'many'"),
    ("train", "--config={w}/good.py", "--workdir={w}/config_model"): ("model.name", "'resnet51'"),
    # A typo is named as such in the folder of a run too.
    **{
        ("train", "--config={w}/good.py", "--workdir={w}/run", f"--config.{override}"): fragments
        for override, fragments in {
            "data.name=digts": typo(None, "digts", "digits"),
            "data.name=folder:{w}/nowhere": ("There is no folder", "nowhere;"),
            "model.name=lenet": ("no model named 'lenet'",),
            "model.options.hiden=(9,)": ("no option 'hiden'",),
            "optim.name=adm": ("no optimizer named 'adm'",),
            "optim.options.momentun=0.9": ("no option 'momentun'",),
            "optim.schedule.name=cosin": ("no schedule named 'cosin'",),
            "optim.schedule.options.peak=1": ("no option 'peak'",),
            "task.loss=cross_entrpy": ("no loss named 'cross_entrpy'",),
            "selection.metric=acuracy": ("did you mean accuracy",),
        }.items()
    },
    # RestoredRun runs.
    ("evaluate",): Mistake("--workdir"),
    ("evaluate", "--workdir={w}/nowhere"): ("nowhere holds no run", "--workdir of a training"),
    ("evaluate", "--workdir={w}/no_run"): ("no_run holds no run",),
    ("evaluate", "--workdir={w}/notes.txt"): ("notes.txt holds no run",),
    ("evaluate", "--workdir={w}/no_checkpoint"): (
        *("no_checkpoint was finished at step 36, but its checkpoints are gone", "bring them back"),
        "no_checkpoint/config.json --workdir=NEW",
    ),
    ("evaluate", "--workdir={w}/never_saved"): (
        *("never_saved has no checkpoint yet", "cnn-lab train --config=", "saved/config.json."),
    ),
    ("evaluate", "--workdir={w}/config_cut"): ("config.json", "restore it", "another --workdir"),
    (*EVALUATE, "--batch_size=0"): ("--batch_size must be at least 1", "0"),
    ("evaluate", "--workdir={w}/config_type"): ("config.json", "num_epochs", "'many'"),
    ("evaluate", "--workdir={w}/config_model"): ("no model named 'resnet51'",),
    ("evaluate", "--workdir={w}/config_other"): ("belongs to another model", "dense1"),
    (*EVALUATE, "--split=tset"): ("train, validation or test", "'tset'"),
    (*EVALUATE, "--checkpoint=7"): ("best, latest or one of the steps [18, 36]", "'7'"),
    (*EVALUATE, "--checkpoint=beste"): ("best, latest or one of the steps", "'beste'"),
    ("predict",): Mistake("--workdir"),
    PREDICT: ("predict needs image files",),
    (*PREDICT, "--top=0", "{w}/five.png"): Mistake("--top", "0", COUNT),
    (*PREDICT, "--top=two", "{w}/five.png"): Mistake("--top", "two", COUNT),
    (*PREDICT, "{w}/six.png"): ("no image file", "six.png"),
    (*PREDICT, "{w}"): ("world", "is a folder; give image files", "*.png"),
    (*PREDICT, "{w}/fake.png"): ("fake.png is no image", "PNG or JPEG"),
    (*PREDICT, "{w}/five.jpg"): ("five.jpg cannot be read as an image",),
    (*PREDICT, "{w}/none.png"): ("none.png is no image", "PNG or JPEG"),
    (*PREDICT, "{w}/five.gif"): ("five.gif looks like a GIF file", "only PNG and JPEG"),
    (*PREDICT, "{w}/five.png", "{w}/notes.txt"): ("notes.txt",),
    ("predict", "--workdir={w}/no_run", "{w}/five.png"): ("no_run holds no run",),
}


@pytest.mark.parametrize(
    ("arguments", "fragments"), COMMAND_LINES.items(), ids=[" ".join(a) for a in COMMAND_LINES]
)
def test_refused(refuse, world: Path, tmp_path: Path, arguments, fragments):
    sentence, error = refuse(*arguments)
    if isinstance(fragments, Mistake):
        fragments.check(error)
    else:
        assert all(fragment in sentence for fragment in fragments), sentence
    assert "\n" not in sentence or "belongs to" in sentence or "made by" in sentence
    assert not list(tmp_path.iterdir()), "a refused run left something"


@pytest.fixture
def run(world: Path, tmp_path: Path) -> Path:
    """A copy of the good run, to be spoiled; its checkpoints are of steps 18 and 36."""
    return Path(shutil.copytree(world / "run", tmp_path / "run"))


@pytest.fixture
def accepted(world: Path, capfd: pytest.CaptureFixture, monkeypatch):
    """Runs a command that must succeed, and returns what it printed and warned of."""

    def run(*arguments: str) -> tuple[str, str]:
        _calm(monkeypatch)
        capfd.readouterr()
        assert main([argument.format(w=world) for argument in arguments]) == 0
        return capfd.readouterr()

    return run


def test_folder_of_another_config_is_left_alone(refused, accepted, run: Path):
    command = ("train", "--config={w}/good.py", f"--workdir={run}")
    before = contents(run)
    sentence = refused(*command, "--config.optim.learning_rate=0.2", "--config.seed=3")
    assert "was made by another config:\n" in sentence
    assert "  optim.learning_rate: 0.1 there, 0.2 now\n  seed: 0 there, 3 now\n" in sentence
    assert "another --workdir" in sentence
    assert f"--config={run}/config.json" in sentence
    assert contents(run) == before
    output, _ = accepted("train", f"--config={run}/config.json", f"--workdir={run}")
    assert "Nothing to do" in output


def test_corrected_config_may_use_the_folder_of_the_wrong_one(refused, accepted, tmp_path: Path):
    command = ("train", "--config={w}/good.py", f"--workdir={tmp_path}")
    refused(*command, "--config.model.name=lenet5")
    output, _ = accepted(*command)
    assert "Run finished at step 36" in output


def test_a_run_that_failed_before_it_saved_gives_way_to_a_corrected_config(
    refused, accepted, tmp_path: Path
):
    folder = tmp_path / "run"
    command = ("train", "--config={w}/good.py", f"--workdir={folder}")
    overrides = ("--config.model.name=mlp", "--config.optim.learning_rate=1e30")
    sentence = refused(*command, *overrides)
    assert "no checkpoint had been saved before" in sentence
    assert "intact" not in sentence
    record = json.loads((folder / "run.json").read_text())
    assert (record["status"], [s["status"] for s in record["sessions"]]) == ("failed", ["failed"])
    assert f"error: {record['error']}" == sentence
    output, _ = accepted(*command)
    assert "Run finished at step 36" in output
    record = json.loads((folder / "run.json").read_text())
    assert (record["status"], record["error"]) == ("finished", None)
    assert [session["status"] for session in record["sessions"]] == ["finished"]
    assert json.loads((folder / "config.json").read_text())["model"]["name"] == "linear"


def test_a_best_checkpoint_that_is_gone_is_told(accepted, run: Path):
    with Checkpoints(run / "checkpoints") as checkpoints:
        progress = checkpoints.read_record(36)["progress"]
        progress["selection"]["best_step"] = 9
        checkpoints.amend(36, {"progress": progress}, best_step=36)
    output, warned = accepted("evaluate", f"--workdir={run}", "--batch_size=7")
    assert "checkpoint 36," in output
    assert warned.startswith("WARNING: The best checkpoint, of step 9, is gone from")
    assert warned.endswith("; using that of step 36.\n")
    _, warned = accepted("evaluate", f"--workdir={run}", "--checkpoint=latest")
    assert not warned


def test_an_evaluation_after_the_last_epoch_is_that_of_the_last(accepted, tmp_path: Path):
    command = ("train", "--config={w}/good.py", f"--workdir={tmp_path}/run")
    output, _ = accepted(*command, "--config.evaluate.every_epochs=3")
    assert output.count("validation loss") == 1
    assert "step 36/36 epoch 2 validation" in output
    assert "2 epochs of 18 steps, in_memory, on 4 cpu devices" in output


def test_too_little_memory_is_told_in_one_sentence(refused):
    sentence = refused(*training("model.name=mlp", "model.options.hidden=1000000,1000000"))
    assert "The memory does not suffice (" in sentence
    for remedy in ("train.batch_size", "evaluate.batch_size", "data.loader=streaming"):
        assert f"config.{remedy}" in sentence


def test_the_hint_at_a_negative_names_it(accepted, run: Path, tmp_path: Path):
    for name, value in (("dark", 0), ("bright", 255), ("white", 255)):
        Image.fromarray(np.full((8, 8), value, np.uint8)).save(tmp_path / f"{name}.png")
    files = [f"{tmp_path}/{name}.png" for name in ("dark", "bright", "white")]
    _, told = accepted("predict", f"--workdir={run}", *files[:2])
    assert told.startswith(f"hint: {files[1]} is about as bright as negatives")
    _, told = accepted("predict", f"--workdir={run}", *files)
    names = f"{files[1]}, {files[2]}"
    assert told.startswith(f"hint: 2 of 3 images are about as bright ({names}) as negatives")


def test_folder_in_use(refused, run: Path):
    with (run / ".lock").open("w") as lock:
        lock.write("1234")
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = contents(run)
        sentence = refused("train", "--config={w}/good.py", f"--workdir={run}")
        assert "in use by another run (process 1234)" in sentence
        assert "another --workdir" in sentence
        assert contents(run) == before


def test_split_that_the_data_lack(refused, accepted, tmp_path: Path):
    command = ("train", "--config={w}/good.py", f"--workdir={tmp_path}/tiny")
    overrides = ("--config.data.name=folder:{w}/tiny", "--config.train.batch_size=4")
    accepted(*command, *overrides)
    sentence = refused("evaluate", f"--workdir={tmp_path}/tiny", "--split=test")
    assert "has no split 'test'; it has train." in sentence


def test_no_validation_to_evaluate(refused, accepted, tmp_path: Path):
    command = ("train", "--config={w}/good.py", f"--workdir={tmp_path}/all")
    accepted(*command, "--config.data.validation_fraction=0")
    sentence = refused("evaluate", f"--workdir={tmp_path}/all")
    assert "held out no validation examples" in sentence
    assert "--split=train or --split=test." in sentence
    accepted(
        *("train", "--config={w}/good.py", f"--workdir={tmp_path}/tiny"),
        *("--config.data.name=folder:{w}/tiny", "--config.train.batch_size=4"),
        "--config.data.validation_fraction=0",
    )
    sentence = refused("evaluate", f"--workdir={tmp_path}/tiny")
    assert sentence.endswith("evaluate --split=train.")


@leftovers
@pytest.mark.parametrize("how", ["flip", "truncate", "delete"])
def test_damaged_newest_checkpoint_is_replaced(accepted, world: Path, run: Path, how: str):
    damage(run / "checkpoints/36", how)
    unfinish(run)
    output, warned = accepted("evaluate", f"--workdir={run}", "--checkpoint=latest")
    assert "checkpoint 18," in output
    assert warned.count("WARNING: Checkpoint 36 in") == warned.count("\n") == 1
    output, warned = accepted("train", "--config={w}/good.py", f"--workdir={run}")
    assert "from step 18" in output
    assert warned.count("WARNING: Checkpoint 36 in") == warned.count("\n") == 1
    assert "was moved to" in warned
    assert "Run finished at step 36" in output
    digests = [
        Checkpoints(r / "checkpoints").read_record(36)["digests"] for r in (world / "run", run)
    ]
    assert digests[0] == digests[1]


@leftovers
def test_all_checkpoints_damaged(refused, run: Path, capfd, monkeypatch):
    for step in (run / "checkpoints").iterdir():
        damage(step, "flip")
    unfinish(run)
    _calm(monkeypatch)
    capfd.readouterr()
    assert main(["evaluate", f"--workdir={run}"]) == 2
    assert "Checkpoint 18" in one_sentence(capfd.readouterr().err, warnings=1)
    assert main(["train", f"--config={run}/config.json", f"--workdir={run}"]) == 2
    sentence = one_sentence(capfd.readouterr().err)
    assert "All 2 checkpoints" in sentence
    assert "another --workdir" in sentence
    assert {p.name for p in (run / "checkpoints").iterdir()} == {"18", "36"}


@pytest.mark.parametrize(
    ("overrides", "place"),
    [
        (("model.name=mlp", "optim.learning_rate=1e20"), "in the output of head/output;"),
        (
            ("task.loss=squared_error", "optim.learning_rate=30"),
            "in the loss of the examples, after finite outputs;",
        ),
    ],
)
def test_loss_that_is_not_finite(refused, accepted, tmp_path: Path, overrides, place: str):
    sentence = refused(*training("checkpoint.every_steps=1", *overrides))
    steps = Checkpoints(tmp_path / "new/checkpoints").steps()
    assert steps, "the steps before were saved"
    assert f"Step {steps[-1] + 1} is not finite" in sentence
    assert f"the first non-finite value is {place}" in sentence
    assert re.search(r"examples \d+, .* have a non-finite loss", sentence)
    assert "config.optim.learning_rate" in sentence
    output, warned = accepted("evaluate", f"--workdir={tmp_path}/new")
    assert not warned
    assert f"checkpoint {steps[-1]}," in output or "checkpoint 1," in output


@pytest.fixture
def small_disk(tmp_path: Path):
    """(folder, beginning of a command that gets little room there, how to make room).

    A file system of its own where that may be mounted; else no file may become large.
    """
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        yield folder, ["bash", "-c", 'ulimit -S -f 24; exec "$@"', "limited"], lambda: None
        return
    more = ["mount", "-o", "remount,size=60m", str(folder)]
    yield folder, [], lambda: subprocess.run(more, check=True)
    subprocess.run(["umount", str(folder)], check=True)


def test_full_disk_loses_nothing(small_disk, world: Path):
    folder, in_little_room, make_room = small_disk
    arguments = ["train", f"--config={world}/good.py", f"--workdir={folder}/run"]
    arguments += ["--config.train.num_epochs=12", "--config.train.log_every_steps=1"]
    arguments += ["--config.log.tensorboard=true"]

    def train(*beginning: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [*beginning, sys.executable, "-m", "cnn_lab.cli.main", *arguments],
            cwd=ROOT,
            env={**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "false"},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    full = train(*in_little_room)
    assert full.returncode == 2, full.stdout + full.stderr
    sentence = one_sentence(full.stderr)
    assert str(folder / "run") in sentence
    assert "No space left" in sentence or "File too large" in sentence
    assert "intact" in sentence
    assert "again" in sentence
    saved = Checkpoints(folder / "run/checkpoints").steps()
    assert saved, "some checkpoints were saved before the disk was full"
    assert saved[-1] < 12 * STEPS_PER_EPOCH
    make_room()
    resumed = train()
    assert resumed.returncode == 0, resumed.stderr
    assert f"from step {saved[-1]}." in resumed.stdout
    assert f"Run finished at step {12 * STEPS_PER_EPOCH}" in resumed.stdout
    rows = [json.loads(row) for row in (folder / "run/metrics.jsonl").read_text().splitlines()]
    trained = [row["step"] for row in rows if row["split"] == "train"]
    assert trained == list(range(1, 12 * STEPS_PER_EPOCH + 1))
