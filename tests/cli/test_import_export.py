"""Weights from elsewhere by the command line: a run that predicts, and the same weights back."""

import hashlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

from cnn_lab.cli import runtime
from cnn_lab.cli.main import main
from cnn_lab.config import ExperimentConfig, ModelConfig
from cnn_lab.core import trees
from cnn_lab.data.normalize import Preprocess
from cnn_lab.experiment.network import Network
from cnn_lab.experiment.restore import restore_run
from cnn_lab.models.registry import MODELS
from cnn_lab.runs.import_weights import write_run
from cnn_lab.tasks.classification import classification
from cnn_lab.transfer import convert
from cnn_lab.transfer.naming import NAMINGS

SMALL = ["--model=resnet20", "--option=width=4", "--num_classes=3"]


@pytest.fixture(scope="module")
def tensors():
    """Weights of a small resnet20 for three classes, as torch would name them."""
    module = MODELS["resnet20"].make(3, width=4)
    images = jnp.zeros((1, 32, 32, 3))
    shapes = jax.eval_shape(lambda key: module.init(key, images, train=False), jax.random.key(0))
    table = convert.make_table(module, shapes, NAMINGS["resnet20"]["torchvision"])
    draw = np.random.default_rng(0)
    return {
        leaf.torch_name: np.abs(draw.normal(size=leaf.torch_shape)).astype(np.float32)
        for leaf in table
    }


@pytest.fixture
def file(tmp_path, tensors):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(safetensors.numpy.save(tensors))
    return path


@pytest.fixture
def refused(monkeypatch, capsys):
    """Runs a command in this process, whose devices are set already, and returns its sentence."""
    monkeypatch.setattr(runtime, "start", lambda _: None)

    def run(*arguments) -> str:
        assert main([*map(str, arguments)]) == 2
        return capsys.readouterr().err

    return run


@pytest.fixture
def succeed(monkeypatch, capsys):
    """Runs a command in this process, and returns its lines."""
    monkeypatch.setattr(runtime, "start", lambda _: None)

    def run(*arguments) -> str:
        capsys.readouterr()
        status = main([*map(str, arguments)])
        output, errors = capsys.readouterr()
        assert status == 0, errors
        return output

    return run


def test_a_run_is_written_whatever_its_schedule(tmp_path):
    """Such as that of a soup, whose members' schedule fits no training of one step."""
    config = ExperimentConfig(model=ModelConfig(name="linear"))
    config.optim.schedule.name, config.optim.schedule.warmup_steps = "step", 20
    config.optim.schedule.options = {"milestones_epochs": (2.0, 3.0)}
    model = MODELS["linear"].make(10)
    variables = model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)), train=False)
    network = Network(
        model=model,
        task=classification(class_names=tuple("0123456789")),
        image_shape=(8, 8, 1),
        preprocess=Preprocess(mean=(0.5,), std=(0.25,)),
    )
    write_run(tmp_path / "soup", config, network, variables, "averaged")
    found = restore_run(tmp_path / "soup", "latest").variables["params"]
    assert trees.digests(found) == trees.digests(variables["params"])


def test_an_import_predicts_and_its_export_is_the_file(tmp_path, file, tensors, refused, succeed):
    out, back, image = (tmp_path / name for name in ("run", "back.safetensors", "image.png"))
    (tmp_path / "names.txt").write_text("cat\ndog\n\nfox\n", encoding="utf-8")
    flags = ["--mean=0.5,0.4,0.3", "--std=0.2,0.2,0.1", f"--class_names={tmp_path / 'names.txt'}"]
    said = succeed("import-weights", *SMALL, f"--from={file}", f"--out={out}", *flags)
    assert f"cnn-lab predict --workdir={out} IMAGE" in said
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    Image.fromarray(pixels).save(image)
    path, *said = succeed("predict", f"--workdir={out}", image).split()
    assert path == str(image)
    assert sorted(said[::2]) == ["cat", "dog", "fox"]
    assert sum(map(float, said[1::2])) == pytest.approx(1.0, abs=2e-4)
    said = succeed("export-weights", f"--workdir={out}", f"--out={back}")
    needed = (
        "--model=resnet20 --option=width=4 --input=32x32x3 --mean=0.5,0.4,0.3 --std=0.2,0.2,0.1"
    )
    assert f"  {needed} and, a line each in a file for --class_names: cat, dog, fox\n" in said
    found = safetensors.numpy.load_file(back)
    assert found.keys() == tensors.keys()
    assert all(found[name].tobytes() == tensors[name].tobytes() for name in tensors)
    record = json.loads((out / "run.json").read_text())
    assert record["status"] == "imported"
    assert record["imported"]["file"] == "weights.safetensors"
    assert record["imported"]["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    lineage = succeed("lineage", f"--workdir={out}")
    assert lineage.splitlines()[0] == f"{out}: resnet20, imported"
    assert lineage.splitlines()[1] == f"  imported from weights.safetensors, SHA-256 {digest}"
    config = json.loads((out / "config.json").read_text())
    assert config["model"] == {"name": "resnet20", "options": {"width": 4}}
    assert config["data"]["mean"] == [0.5, 0.4, 0.3]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    assert "no data set belongs to them; classify images by" in refused(
        "evaluate", f"--workdir={out}"
    )
    assert "to which no data set belongs" in refused("train", f"--config={out / 'config.json'}")


def test_other_names_and_another_head_are_taken_on_request(tmp_path, tensors, succeed):
    other = {f"net.{name}".replace(".fc.", ".linear."): t for name, t in tensors.items()}
    path, out = tmp_path / "other.safetensors", tmp_path / "run"
    path.write_bytes(safetensors.numpy.save(other))
    arguments = ["import-weights", "--model=resnet20", "--option=width=4", f"--from={path}"]
    said = succeed(
        *arguments, f"--out={out}", r"--rename=^net\.=>", "--rename=linear=>fc", "--new_head"
    )
    assert "Left at initial values, and to be trained: head/output." in said
    record = json.loads((out / "run.json").read_text())
    assert record["target"]["names"][-1] == "class_9"
    assert record["imported"]["renames"] == [r"^net\.=>", "linear=>fc"]


def test_of_many_classes_the_first_are_named_and_where_all_are(tmp_path, file, succeed):
    arguments = ("--model=resnet20", "--option=width=4", "--num_classes=1000", "--new_head")
    succeed("import-weights", *arguments, f"--from={file}", f"--out={tmp_path / 'run'}")
    said = succeed(
        "export-weights", f"--workdir={tmp_path / 'run'}", f"--out={tmp_path}/b.safetensors"
    )
    hint = said.partition("--class_names: ")[2]
    assert hint.startswith("class_0, class_1, ")
    assert "class_9, ... (1,000 names, target.names in " in hint
    assert "class_10," not in hint
    assert len(json.loads((tmp_path / "run/run.json").read_text())["target"]["names"]) == 1000


def test_the_file_of_names_is_blamed_for_its_length(tmp_path, file, refused):
    (tmp_path / "names.txt").write_text("cat\ndog\n", encoding="utf-8")
    said = refused(
        *("import-weights", "--model=resnet20", "--option=width=4", f"--from={file}"),
        *(f"--class_names={tmp_path / 'names.txt'}", f"--out={tmp_path / 'run'}"),
    )
    assert (
        f"--class_names={tmp_path / 'names.txt'} holds 2 names, but the weights are of 3 " in said
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--model=resnet20"], "--from is missing: give a file of weights"),
        (["--model=resnet21"], "There is no model named 'resnet21'; did you mean"),
        (["--model=lenet5"], "lenet5 has no counterpart in torchvision or timm"),
        ([*SMALL, "--naming=keras"], "--naming=keras does not fit; known: timm, torchvision."),
        ([*SMALL, "--mean=0.5"], "--mean must have 3 value(s), one a channel; found 1: 0.5."),
        ([*SMALL, "--std=1,0,1"], "--std"),
        ([*SMALL, "--input=32x32x2"], "--input must have 1 or 3 channels; found '32x32x2'."),
        ([*SMALL, "--rename=a"], "--rename must be REGEX=>REPLACEMENT"),
        ([*SMALL, "--class_names=none.txt"], "--class_names=none.txt cannot be read (No such file"),
        (["--model=resnet20", "--num_classes=0"], "--num_classes must be a whole number of at"),
        (["--model=resnet18"], "The weights do not fit the model:\n  missing in the file: "),
    ],
)
def test_wrong_imports_are_refused_and_leave_nothing(tmp_path, file, refused, arguments, text):
    given = [] if "--from is" in text else [f"--from={file}"]
    said = refused("import-weights", *arguments, *given, f"--out={tmp_path / 'run'}")
    assert text in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["weights.safetensors"]


def test_a_folder_with_something_in_it_is_left_alone(tmp_path, file, refused):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine").write_text("")
    said = refused("import-weights", *SMALL, f"--from={file}", f"--out={tmp_path / 'run'}")
    assert "is not empty; give a new folder" in said
    said = refused("import-weights", *SMALL, f"--from={file}", f"--out={file}")
    assert "is a file; give a new folder" in said
    said = refused("import-weights", *SMALL, f"--from={file}", "--out=.")
    assert "--out=. has no name of its own; give a new folder" in said


def test_wrong_exports_are_refused(tmp_path, refused):
    run = f"--workdir={tmp_path / 'run'}"
    (tmp_path / "there.safetensors").write_text("")
    for out, text in (
        ("weights.pt", "must be a file that ends in .safetensors; found"),
        ("there.safetensors", "exists; give another name, or remove it"),
        ("no/weights.safetensors", "there is no folder"),
        ("new.safetensors", "holds no run"),
    ):
        assert text in refused("export-weights", run, f"--out={tmp_path / out}")
    assert "--workdir is missing" in refused("export-weights")
