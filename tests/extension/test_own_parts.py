"""A module outside the package registers one of each part, and every command knows them."""

import builtins
import importlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from refusals import refused
from run_folders import SignalAt, state_digests, validation

from cnn_lab.cli import runtime
from cnn_lab.cli.main import main
from cnn_lab.config import (
    AugmentConfig,
    DataConfig,
    ExperimentConfig,
    LogConfig,
    ModelConfig,
    OptimConfig,
    ScheduleConfig,
    TaskConfig,
    TrainConfig,
)
from cnn_lab.config.imports import MODULE_NAMES, digests_of, import_modules
from cnn_lab.config.load import load_config
from cnn_lab.core.errors import ConfigError
from cnn_lab.data.augment.compose import make_augment
from cnn_lab.data.augment.extra import AUGMENTATIONS
from cnn_lab.data.augment.recipes import choose_augmentation
from cnn_lab.data.datasets.description import DATASETS
from cnn_lab.experiment.components import make_components
from cnn_lab.experiment.restore import restore_run
from cnn_lab.models.registry import MODELS
from cnn_lab.optim.optimizers import OPTIMIZERS
from cnn_lab.optim.schedules import SCHEDULES
from cnn_lab.runs.run import load_run
from cnn_lab.runs.train import run_training
from cnn_lab.tasks.losses import LOSSES
from cnn_lab.tasks.task import TASKS
from cnn_lab.workdir.run_dir import read_config, read_record

ROOT, PACKAGE = Path(__file__).parents[2], Path(__file__).parent / "package"
REGISTRIES = (MODELS, LOSSES, OPTIMIZERS, SCHEDULES, AUGMENTATIONS, TASKS, DATASETS)
Run = Callable[..., tuple[int, str, str]]
EXPERIMENT = """
from cnn_lab.config import *

def get_config():
    return ExperimentConfig(
        imports=("own_parts",),
        data=DataConfig(
            name="own_data",
            num_validation=32,
            augment=AugmentConfig(
                extra=("own_augmentation",), options={"own_augmentation.share": 0.1}
            ),
        ),
        model=ModelConfig(name="own_model", options={"width": 5}),
        task=TaskConfig(name="own_task", loss="own_loss", loss_options={"power": 1.5}),
        optim=OptimConfig(
            name="own_optimizer",
            learning_rate=0.05,
            options={"keep": 0.8},
            schedule=ScheduleConfig(name="own_schedule", options={"final": 0.1}),
        ),
        selection=SelectionConfig(metric="confidence"),
        train=TrainConfig(num_epochs=2, batch_size=32),
        log=LogConfig(tensorboard=False),
    )
"""
STUDY = """
from cnn_lab.config import *

def get_study():
    config = ExperimentConfig(
        imports=("own_parts",),
        data=DataConfig(num_train=64, num_validation=32),
        model=ModelConfig(name="own_model"),
        optim=OptimConfig(name="sgd", learning_rate=0.05),
        train=TrainConfig(num_epochs=1, batch_size=32),
    )
    return Study(
        title="Mine",
        question="Does it run?",
        variants=(Variant(series="mine", x=1.0, config=config),),
        num_seeds=2,
    )
"""


def forget() -> None:
    """Takes away what the module registered, as in a process that never imported it."""
    sys.modules.pop("own_parts", None)
    for registry in REGISTRIES:
        for name in [name for name in registry if name.startswith("own_")]:
            del registry[name]
    importlib.invalidate_caches()


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Another directory, in a process that does not know the module yet."""
    forget()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runtime, "start", lambda _: None)
    yield
    forget()


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the module importable everywhere."""
    monkeypatch.syspath_prepend(PACKAGE)


@pytest.fixture
def run(capsys: pytest.CaptureFixture) -> Run:
    def call(*arguments: str) -> tuple[int, str, str]:
        forget()  # a command is a process
        return main(list(arguments)), *capsys.readouterr()

    return call


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A run of all parts, trained by the command from a file that the module lies beside."""
    forget()
    folder = tmp_path_factory.mktemp("trained")
    (folder / "experiment.py").write_text(EXPERIMENT)
    shutil.copy(PACKAGE / "own_parts.py", folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runtime, "start", lambda _: None)
        config, workdir = f"--config={folder}/experiment.py", f"--workdir={folder}/run"
        assert main(["train", config, workdir]) == 0
    forget()
    return folder / "run"


def test_a_training_uses_all_parts_and_records_where_they_were(trained):
    config = read_record(trained)["config"]
    assert (config["model"]["name"], config["task"]["name"]) == ("own_model", "own_task")
    assert config["imports"] == ["own_parts"]
    assert read_record(trained)["imports"] == {"own_parts": str(trained.parent / "own_parts.py")}
    assert len(validation(trained, "confidence")) == 2
    assert str(trained.parent) not in sys.path


def test_a_file_may_name_what_its_config_imports(run, trained):
    # `train` again is done; `--dry_run` makes everything anew.
    config = f"--config={trained.parent}/experiment.py"
    status, text, errors = run("train", config, "--dry_run")
    assert (status, errors) == (0, "")
    assert "loss        own_loss (power=1.5)" in text
    assert "augment     none, own_augmentation, (own_augmentation.share=0.1)" in text
    assert "own_optimizer (keep=0.8), rate 0.05, own_schedule (final=0.1)" in text


@pytest.mark.usefixtures("installed")
def test_commands_over_the_run_know_its_parts(run, trained, tmp_path):
    status, text, errors = run("evaluate", f"--workdir={trained}", "--bootstrap=0")
    assert (status, errors) == (0, "")
    assert "accuracy" in text
    Image.fromarray(np.full((8, 8), 100, np.uint8)).save(tmp_path / "image.png")
    status, text, _ = run("predict", f"--workdir={trained}", "image.png", "--top=1")
    assert status == 0
    assert text.startswith("image.png  ")
    assert run("train", f"--config={trained}/config.json")[0] == 0
    assert run("lineage", f"--workdir={trained}")[0] == 0
    out = tmp_path / "soup"
    assert run("soup", f"--workdir={trained}", "--checkpoint=all", f"--out={out}")[0] == 0
    assert read_record(out)["imports"] == {"own_parts": str(PACKAGE / "own_parts.py")}
    assert read_record(out)["import_digests"] == read_record(trained)["import_digests"]
    assert run("lr-find", f"--config={trained}/config.json", "--out=rates.png")[0] == 0


@pytest.mark.usefixtures("installed")
def test_a_fine_tuning_imports_the_modules_of_its_source(run, trained, tmp_path):
    options = ("--strategy=all", "--config.train.num_epochs=1", f"--workdir={tmp_path}/tuned")
    more = ("--config.data.num_train=64", "--config.data.num_validation=32")
    assert run("finetune", f"--from={trained}", "--data=digits", *options, *more)[0] == 0
    assert read_config(tmp_path / "tuned").imports == ("own_parts",)
    forget()
    assert restore_run(tmp_path / "tuned", "best").config.model.name == "own_model"


def test_cached_features_belong_to_the_code_that_made_them(run, trained, tmp_path, monkeypatch):
    module = tmp_path / "own_parts.py"
    shutil.copy(PACKAGE / "own_parts.py", module)
    monkeypatch.syspath_prepend(tmp_path)
    options = ("--strategy=head", "--config.train.num_epochs=1", "--config.data.num_train=64")
    found = []
    for name in ("first", "again", "edited"):
        if name == "edited":
            module.write_text(f"{module.read_text()}\n# Another version.\n")
        place = f"--workdir={tmp_path / name}"
        status, text, _ = run("finetune", f"--from={trained}", "--data=own_data", *options, place)
        assert status == 0
        found.append((text.count("computed in"), text.count("found in")))
    assert found == [(2, 0), (0, 2), (2, 0)]


@pytest.mark.usefixtures("installed")
def test_a_training_resumes_from_its_config_to_the_same_bits(run, trained, tmp_path):
    config = load_config(f"{trained}/config.json")
    assert run_training(config, tmp_path / "cut", print, [SignalAt(3, "train")]).status == (
        "interrupted"
    )
    assert run("train", f"--config={tmp_path}/cut/config.json")[0] == 0
    assert state_digests(tmp_path / "cut") == state_digests(trained)


def test_a_module_that_moved_is_named_anew_for_the_same_run(run, trained, tmp_path, monkeypatch):
    copy = tmp_path / "run"
    shutil.copytree(trained, copy)
    (tmp_path / "modules").mkdir()
    shutil.copy(PACKAGE / "own_parts.py", tmp_path / "modules" / "own_renamed.py")
    monkeypatch.syspath_prepend(tmp_path / "modules")
    try:
        assert run("train", f"--config={copy}/config.json", "--config.imports=own_renamed")[0] == 0
    finally:
        sys.modules.pop("own_renamed", None)


@pytest.mark.usefixtures("installed")
def test_seeds_and_studies_know_the_parts(run, trained, tmp_path):
    config = f"--config={trained}/config.json"
    assert run("train", config, "--seeds=2", f"--workdir={tmp_path}/seeds")[0] == 0
    (tmp_path / "mine.py").write_text(STUDY)
    assert run("study", "mine.py", f"--workdir={tmp_path}/study")[0] == 0
    assert run("study", "mine.py", f"--workdir={tmp_path}/study")[0] == 0  # from its caches


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("models", "own_*"), "own_model           685 parameters"),
        (("models", "own_model"), "--config.model.options.width=9  a whole number of at least 1"),
        (("losses", "own_*"), "own_loss  Softmax cross-entropy to a power."),
        (("optimizers", "own_*"), "own_optimizer  Heavy-ball momentum."),
        (("schedules", "own_schedule"), "--config.optim.schedule.options.final=0.5"),
        (("tasks", "own_*"), "own_task  One class an image, and how sure"),
        (("datasets", "own_*"), "own_data  8x8x1       10 classes  train 128, test 64  A few"),
        (("augmentations", "own_*"), "own_augmentation  extra: Blackens a share of the pixels."),
        (
            ("augmentations", "own_augmentation"),
            "--config.data.augment.extra=own_augmentation\n"
            "  --config.data.augment.options.own_augmentation.share=0.25  a finite number of at "
            "least 0 and at most 1\n      probability of each pixel.",
        ),
    ],
)
def test_list_shows_them(run, trained, arguments, text):
    for flag in ("--imports=own_parts", f"--config={trained}/config.json"):
        status, listed, _ = run("list", *arguments, flag)
        assert status == 0
        assert text in listed
    assert run("list", *arguments)[0] == 2


@pytest.mark.usefixtures("installed")
def test_summary_shows_a_model_of_ones_own(run, trained):
    status, text, _ = run("summary", "--imports=own_parts", "--model=own_model")
    assert status == 0
    assert "own_model: One hidden layer; Nobody 2026" in text
    assert "685 = " in text
    status, text, _ = run("summary", f"--config={trained}/config.json")
    assert status == 0
    assert "385 = " in text  # (64 + 1) * 5 + (5 + 1) * 10
    assert run("summary", "--model=own_model")[0] == 2


@pytest.mark.usefixtures("installed")
def test_data_of_ones_own_are_prepared_checked_and_shown(run, tmp_path):
    folder = f"--data_dir={tmp_path}/data"
    status, text, _ = run("data", "prepare", "own_data", "--imports=own_parts", folder)
    assert status == 0
    assert "train 128, test 64" in text
    assert run("data", "check", "own_data", "--imports=own_parts", folder)[0] in (0, 1)
    extra = ("--config.data.augment.extra=own_augmentation", "--imports=own_parts")
    status, text, _ = run("data", "show", "own_data", folder, "--num_images=2", *extra)
    assert status == 0
    assert "photos, light, own_augmentation" in text
    assert run("data", "prepare", "own_data", folder)[0] == 2


def test_what_is_missing_later_is_told_with_the_place_where_it_was(run, trained, tmp_path):
    was = trained.parent / "own_parts.py"
    sentence = (
        f"error: config.imports names 'own_parts', which cannot be imported here; when the run was "
        f"trained it was {was}: install it or set PYTHONPATH={was.parent}.\n"
    )
    for command in (
        ("evaluate", f"--workdir={trained}"),
        ("predict", f"--workdir={trained}", "image.png"),
        ("train", f"--config={trained}/config.json"),
        ("finetune", f"--from={trained}", "--data=digits"),
    ):
        assert run(*command) == (2, "", sentence)
    # The folder of the run is not searched, even where it holds the module.
    copy = tmp_path / "run"
    shutil.copytree(trained, copy)
    shutil.copy(was, copy)
    with refused(ConfigError, where="config.imports", found="own_parts"):
        read_config(copy)
    assert run("lineage", f"--workdir={trained}")[0] == 0  # which needs no code


@pytest.fixture
def run_with_code(trained, tmp_path, monkeypatch) -> Iterator[Path]:
    """A run that holds the module it needs, in a session that was started in its folder."""
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    marked = "import builtins\nbuiltins.own_code_ran = True\n"
    (folder / "own_parts.py").write_text(marked + (PACKAGE / "own_parts.py").read_text())
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend("")
    yield folder
    assert not hasattr(builtins, "own_code_ran")


def test_no_code_is_taken_from_the_folder_of_a_run(run_with_code, run):
    with refused(ConfigError, where="config.imports", found="own_parts"):
        load_run(".")
    assert run("train", "--config=config.json")[0] == 2
    assert run("evaluate", "--workdir=.")[0] == 2
    assert "own_parts" not in sys.modules


@pytest.mark.usefixtures("gone")
def test_no_code_is_taken_from_there_by_links_packages_or_other_modules(
    run_with_code, tmp_path, monkeypatch
):
    elsewhere, layers = tmp_path / "elsewhere", run_with_code / "own_layers"
    for folder in (elsewhere, layers):
        folder.mkdir()
    (run_with_code / "own_parts.py").rename(run_with_code / "own_hidden.py")
    (layers / "deep.py").symlink_to(run_with_code / "own_hidden.py")
    (elsewhere / "own_linked.py").symlink_to(run_with_code / "own_hidden.py")
    (elsewhere / "own_more.py").write_text("import own_hidden\n")
    (elsewhere / "own_more_code.py").write_text("import builtins\nbuiltins.own_code_ran = True\n")
    (run_with_code / "own_lent.py").symlink_to(elsewhere / "own_more_code.py")
    monkeypatch.syspath_prepend(elsewhere)
    for name, found in (
        ("own_layers.deep", "own_layers.deep"),
        ("own_linked", "own_linked"),
        ("own_more", "own_hidden"),
        ("own_lent", "own_lent"),
    ):
        with refused(ConfigError, where="config.imports", found=found):
            import_modules((name,), run_with_code)
        assert found not in sys.modules
    finders = list(sys.meta_path)
    import_modules(("colorsys", "sys"), run_with_code)
    assert sys.meta_path == finders


def test_a_folder_may_hold_the_module_and_the_run(trained, monkeypatch):
    monkeypatch.chdir(trained.parent)
    monkeypatch.syspath_prepend("")
    assert load_run("run").config.imports == ("own_parts",)


def edited_run(trained: Path, folder: Path) -> tuple[Path, Path]:
    """An interrupted run, and the module that it imported."""
    shutil.copy(PACKAGE / "own_parts.py", folder)
    importlib.invalidate_caches()
    config = load_config(f"{trained}/config.json")
    run_training(config, folder / "run", print, [SignalAt(3, "train")])
    return folder / "run", folder / "own_parts.py"


def test_a_training_that_goes_on_by_other_code_says_so(run, trained, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    folder, module = edited_run(trained, tmp_path)
    before = read_record(folder)["import_digests"]
    module.write_text(f"{module.read_text()}\n# Another version.\n")
    status, text, _ = run("train", f"--config={folder}/config.json")
    warnings = [line for line in text.splitlines() if line.startswith("Warning: ")]
    assert (status, len(warnings)) == (0, 1)
    assert "the code of own_parts changed" in warnings[0]
    after = read_record(folder)["import_digests"]
    assert before.keys() == after.keys() == {"own_parts"}
    assert before != after


def test_a_training_that_goes_on_by_the_same_code_does_not(run, trained, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    folder, _ = edited_run(trained, tmp_path)
    assert "Warning" not in run("train", f"--config={folder}/config.json")[1]


@pytest.mark.usefixtures("gone")
def test_the_digest_of_a_package_is_of_all_its_code(tmp_path, monkeypatch):
    def digest(folder: str, files: dict[str, str]) -> str:
        for path, text in files.items():
            file = tmp_path / folder / "own_folder" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        with monkeypatch.context() as patch:
            patch.syspath_prepend(tmp_path / folder)
            import_modules(("own_folder",))
            found = digests_of(("own_folder",))["own_folder"]
        sys.modules.pop("own_folder")
        return found

    extension = f"fast{EXTENSION_SUFFIXES[0]}"
    files = {"a/layer.py": "A", "b/layer.py": "B", extension: "0", "notes.txt": "x"}
    named = digest("named", files)  # a namespace package: it has no __init__.py
    assert digest("copy", {**files, "notes.txt": "y"}) == named
    changed = [
        {**files, "a/layer.py": "B", "b/layer.py": "A"},
        {**files, extension: "1"},
        {**files, "b/layer.py": "C"},
        {**files, "__init__.py": ""},
    ]
    digests = {digest(f"changed{number}", each) for number, each in enumerate(changed)}
    assert len(digests | {named}) == 5


def write(folder: Path, **files: str) -> str:
    """Writes Python files, `experiment` among them, and returns the path of that one."""
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    return str(folder / "experiment.py")


SETS = "from cnn_lab.config import *\ndef get_config():\n    return ExperimentConfig({})\n"
LOSS = (
    "from cnn_lab.tasks.losses import LOSSES\n"
    "@LOSSES.register(name='own_loss')\n"
    "def other(logits, targets):\n"
    "    return logits[:, 0] ** 2\n"
)


@pytest.fixture
def gone() -> Iterator[None]:
    """Forgets the modules of a test."""
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("own_"):
            del sys.modules[name]


@pytest.mark.usefixtures("gone")
@pytest.mark.parametrize(
    ("module", "line", "text"),
    [
        ("import cnn_lab\n1 / 0\n", 2, "ZeroDivisionError: division by zero."),
        ("import numpy_of_nobody\n", 1, "No module named 'numpy_of_nobody'."),
        ("def f(:\n", 1, "SyntaxError: invalid syntax."),
        ("import sys\n\nsys.exit(3)\n", 3, "SystemExit: 3."),
    ],
)
def test_a_module_that_fails_is_told_with_its_line(tmp_path, module, line, text):
    reference = write(
        tmp_path, experiment=SETS.format("imports=('own_broken',)"), own_broken=module
    )
    with pytest.raises(ConfigError) as caught:
        load_config(reference)
    assert caught.value.where == f"{tmp_path / 'own_broken.py'}, line {line}"
    assert str(caught.value).endswith(text)
    assert "own_broken" not in sys.modules


@pytest.mark.usefixtures("gone")
def test_the_line_is_that_of_the_file_inside_a_package(tmp_path):
    (tmp_path / "own_package").mkdir()
    (tmp_path / "own_package/__init__.py").write_text("from own_package import inner\n")
    (tmp_path / "own_package/inner.py").write_text("\nraise RuntimeError('no')\n")
    reference = write(tmp_path, experiment=SETS.format("imports=('own_package',)"))
    with refused(ConfigError, where=f"{tmp_path / 'own_package/inner.py'}, line 2"):
        load_config(reference)


@pytest.mark.parametrize("name", ["own_parst", "own_parts.layers", "own_parts.layers.deep"])
def test_a_module_that_is_not_there_is_told_by_name(tmp_path, name):
    shutil.copy(PACKAGE / "own_parts.py", tmp_path)
    reference = write(tmp_path, experiment=SETS.format(f"imports=({name!r},)"))
    with refused(ConfigError, where="config.imports", found=name):
        load_config(reference)


@pytest.mark.parametrize("name", ["own_parts.py", "./own_parts", "", "__main__"])
def test_what_is_no_name_of_a_module_is_refused(tmp_path, name):
    shutil.copy(PACKAGE / "own_parts.py", tmp_path)
    reference = write(tmp_path, experiment=SETS.format(f"imports=({name!r},)"))
    with refused(ConfigError, where="config.imports", found=name, allowed=MODULE_NAMES):
        load_config(reference)


def test_a_flag_that_names_no_module_is_told_as_the_flag(run):
    status, _, errors = run("list", "models", "--imports=own_parst")
    assert status == 2
    assert errors.startswith("error: --imports names 'own_parst', which cannot be imported here")


@pytest.mark.usefixtures("installed", "gone")
def test_two_registrations_of_one_name_are_refused(tmp_path):
    files = {"experiment": SETS.format("imports=('own_parts', 'own_again')"), "own_again": LOSS}
    with refused(ConfigError, where="own_again.other", found="own_loss"):
        load_config(write(tmp_path, **files))
    data = "from cnn_lab.data.datasets.description import *\nimport own_parts\nimport dataclasses\n"
    data += "register_dataset(dataclasses.replace(DATASETS['own_data'], title='Other'))\n"
    files = {"experiment": SETS.format("imports=('own_more',)"), "own_more": data}
    with refused(ConfigError, where="own_more", found="own_data"):
        load_config(write(tmp_path, **files))


@pytest.mark.usefixtures("gone")
def test_a_module_that_computes_while_it_is_imported_is_refused(tmp_path):
    # In a process of its own, whose devices have not been chosen yet.
    module = "import jax.numpy as jnp\nKERNEL = jnp.ones(3)\n"
    files = {"experiment": SETS.format("imports=('own_early',)"), "own_early": module}
    command = [sys.executable, "-m", "cnn_lab.cli.main", "train"]
    done = subprocess.run(
        [*command, f"--config={write(tmp_path, **files)}", f"--workdir={tmp_path}/run"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={name: v for name, v in os.environ.items() if name != "JAX_NUM_CPU_DEVICES"},
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: A module of config.imports, or the experiment file, ")


class OtherCode:
    """Stands for a second process, which imported another version of a module."""

    count, index, is_primary = 2, 0, True

    def all_gather(self, value):
        return [value, {name: f"{v}0" if "own_parts" in name else v for name, v in value.items()}]


@pytest.mark.usefixtures("installed")
def test_processes_that_imported_different_code_are_refused(tmp_path):
    config = ExperimentConfig(imports=("own_parts",), model=ModelConfig(name="own_model"))
    with refused(ConfigError, where="code of own_parts"):
        run_training(config, tmp_path / "run", print, processes=cast(Any, OtherCode()))
    assert not (tmp_path / "run").exists()


def test_what_the_experiment_file_registers_itself_is_refused_at_the_start(tmp_path, run):
    reference = write(tmp_path, experiment=LOSS + SETS.format("task=TaskConfig(loss='own_loss')"))
    config = load_config(reference)
    with refused(ConfigError, where="config.task.loss", found="own_loss"):
        make_components(config)
    status, _, errors = run("train", f"--config={reference}", f"--workdir={tmp_path}/run")
    assert status == 2
    assert f"a loss of {reference} itself" in errors
    assert "imports=('my_layers',)" in errors
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("gone")
def test_an_experiment_file_may_name_itself(tmp_path):
    text = LOSS + SETS.format("imports=('own_file',), task=TaskConfig(loss='own_loss')")
    (tmp_path / "own_file.py").write_text(text)
    make_components(load_config(str(tmp_path / "own_file.py")))
    assert LOSSES["own_loss"].function.__module__ == "own_file"


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("field", "config"),
    [
        ("config.model.name", ExperimentConfig(model=ModelConfig(name="own_model"))),
        ("config.task.name", ExperimentConfig(task=TaskConfig(name="own_task"))),
        ("config.task.loss", ExperimentConfig(task=TaskConfig(loss="own_loss"))),
        ("config.optim.name", ExperimentConfig(optim=OptimConfig(name="own_optimizer"))),
        (
            "config.optim.schedule.name",
            ExperimentConfig(optim=OptimConfig(schedule=ScheduleConfig(name="own_schedule"))),
        ),
        ("config.data.name", ExperimentConfig(data=DataConfig(name="own_data"))),
        (
            "config.data.augment.extra",
            ExperimentConfig(data=DataConfig(augment=AugmentConfig(extra=("own_augmentation",)))),
        ),
    ],
)
def test_a_part_of_a_module_that_is_not_in_the_imports_is_refused(field, config):
    importlib.import_module("own_parts")
    with refused(ConfigError, where=field):
        make_components(config)
    config.imports = ("own_parts",)
    make_components(config)


@pytest.mark.usefixtures("installed")
def test_a_config_made_in_python_imports_what_it_names(tmp_path):
    config = ExperimentConfig(
        imports=("own_parts",),
        data=DataConfig(num_train=32, num_validation=32),
        model=ModelConfig(name="own_model"),
        train=TrainConfig(num_epochs=1, batch_size=32),
        log=LogConfig(tensorboard=False),
    )
    assert run_training(config, tmp_path / "run", lambda _: None).status == "finished"


@pytest.mark.usefixtures("installed")
def test_an_unknown_name_offers_ones_own():
    config = ExperimentConfig(imports=("own_parts",), model=ModelConfig(name="own_modle"))
    with refused(ConfigError, found="own_modle", nearest=("own_model",)):
        make_components(config)
    config.model, config.data.augment.extra = ModelConfig(name="own_model"), ("own_augment",)
    where, near = "config.data.augment.extra", ("own_augmentation",)
    with refused(ConfigError, where=where, found="own_augment", nearest=near):
        make_components(config)
    config.data.augment.extra = ("own_augmentation",)
    config.data.augment.options = {"own_augmentation.shar": 1}
    where = "config.data.augment.options.own_augmentation"
    with refused(ConfigError, where=where, found="shar", nearest=("share",)):
        make_components(config)
    config.data.augment.extra = ()
    with refused(ConfigError, where="config.data.augment.extra", found="own_augmentation"):
        make_components(config)


@pytest.fixture
def images() -> tuple[jax.Array, jax.Array]:
    pixels = np.random.default_rng(0).integers(1, 255, (6, 8, 8, 1)).astype(np.uint8)
    return jnp.asarray(pixels), jnp.arange(6) % 3


@pytest.mark.usefixtures("installed")
def test_an_extra_augmentation_follows_the_recipes_and_comes_before_mixing(images):
    importlib.import_module("own_parts")
    augment = AugmentConfig(extra=("own_augmentation",), options={"own_augmentation.share": 1.0})
    for options in ({}, {"flip": 0.5, "erasing": 1.0, "mixup": 0.4}):
        augment.options = {"own_augmentation.share": 1.0, **options}
        apply = make_augment(choose_augmentation(DataConfig(augment=augment)), (8, 8, 1), 3)
        apply = jax.jit(apply)
        changed, labels = apply(jax.random.key(0), *images)
        assert (changed.dtype, changed.shape) == (jnp.float32, (6, 8, 8, 1))
        assert not np.asarray(changed).any()
        assert labels.ndim == (2 if options else 1)


@pytest.mark.usefixtures("installed")
def test_an_extra_augmentation_draws_anew_with_every_key(images):
    importlib.import_module("own_parts")
    data = DataConfig(augment=AugmentConfig(extra=("own_augmentation", "own_augmentation")))
    apply = jax.jit(make_augment(choose_augmentation(data), (8, 8, 1), 3))
    first, again, other = (apply(jax.random.key(seed), *images)[0] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (np.asarray(first) != np.asarray(other)).any()
    black = float((np.asarray(first) == 0).mean())
    assert black == pytest.approx(1 - 0.75**2, abs=0.1)  # the second one draws for itself


def test_an_extra_augmentation_of_another_shape_is_refused(images):
    AUGMENTATIONS.register(name="own_crop")(lambda _, pixels: pixels[:, 1:])
    data = DataConfig(augment=AugmentConfig(extra=("own_crop",)))
    apply = make_augment(choose_augmentation(data), (8, 8, 1), 3)
    with refused(ConfigError, found=(6, 7, 8, 1)):
        apply(jax.random.key(0), *images)


def test_the_imports_are_in_the_config_of_the_run(trained):
    assert json.loads((trained / "config.json").read_text())["imports"] == ["own_parts"]


def test_code_that_was_edited_after_its_import_is_not_taken_for_what_runs(
    tmp_path, monkeypatch, caplog
):
    file = tmp_path / "edited_parts.py"
    file.write_text("VALUE = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    import_modules(["edited_parts"])
    before = digests_of(["edited_parts"])
    file.write_text("VALUE = 23\n")
    import_modules(["edited_parts"])
    assert sys.modules["edited_parts"].VALUE == 1
    assert digests_of(["edited_parts"]) == before
    assert "edited_parts changed since it was imported" in caplog.text
    caplog.clear()
    importlib.reload(sys.modules["edited_parts"])
    import_modules(["edited_parts"])
    assert digests_of(["edited_parts"]) != before
    assert not caplog.text
