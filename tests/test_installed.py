"""An installation has the experiments of the checkout, and runs them by name in any folder."""

import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cnn_lab.config.experiments import experiment_files, study_files

ROOT = Path(__file__).parents[1]
SOURCES = ("pyproject.toml", "README.md", "setup.py", "cnn_lab", "experiments")
LINEAR = ("--config.model.name=linear", "--config.model.options={}")  # quick to compile
COMMANDS = """
import json, sys
import cnn_lab
from cnn_lab.cli.main import main
print(cnn_lab.__file__)
for arguments in json.loads(sys.argv[1]):
    print(f"status {main(arguments)}", flush=True)
"""


@pytest.fixture(scope="module", params=["files", pytest.param("wheel", marks=pytest.mark.slow)])
def installed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of an installation: those that a wheel is made of, or those in a wheel.

    A wheel is built with the setuptools of today, which pip downloads.
    """
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(
                ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__")
            )
        else:
            shutil.copy(ROOT / name, source)
    if request.param == "wheel":
        command = ["-m", "pip", "install", "--no-deps", f"--target={target}", str(source)]
    else:
        pytest.importorskip("setuptools")
        command = ["setup.py", "build_py", f"--build-lib={target}"]
    subprocess.run([sys.executable, *command], cwd=source, check=True, capture_output=True)
    return target


def test_the_experiments_and_studies_that_ship_run_by_name(installed: Path, tmp_path: Path):
    commands = [
        ["list", "experiments"],
        ["study"],
        ["train", "--config=digits/lenet6"],
        ["train", "--config=digits/lenet5", "--config.train.num_epochs=2", *LINEAR],
        ["study", "polynomial"],
    ]
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS, json.dumps(commands)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[0] == str(installed / "cnn_lab/__init__.py")
    texts = done.stdout.split("status ")
    assert [text.partition("\n")[0] for text in texts[1:]] == ["0", "0", "2", "0", "0"]
    listed = [line.split()[0] for line in texts[0].splitlines()[1:]]
    assert listed == list(experiment_files())
    assert [line.split()[0] for line in texts[1].splitlines()[1:]] == list(study_files())
    sentence = "There is no experiment named 'digits/lenet6'; did you mean digits/lenet5"
    assert sentence in done.stderr
    assert (tmp_path / "runs/digits/lenet5/report.html").exists()
    assert (tmp_path / "runs/studies/polynomial/study.html").exists()


def test_a_package_beside_the_installed_one_is_no_folder_of_experiments(tmp_path: Path):
    site = tmp_path / "site-packages"
    (site / "experiments").mkdir(parents=True)
    (site / "experiments/foreign.py").write_text("")
    (site / "cnn_lab").symlink_to(ROOT / "cnn_lab")
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments/mine.py").write_text("")
    code = "from cnn_lab.config.experiments import *; print(*experiment_files()); "
    code += "print(is_shipped(Path('experiments/mine.py')), name_of(Path('experiments/mine.py')))"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "mine\nFalse mine\n"


def test_the_build_takes_the_experiments_of_its_own_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    setuptools = pytest.importorskip("setuptools")
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments/other.py").write_text("")
    monkeypatch.chdir(tmp_path)
    given: dict = {}
    monkeypatch.setattr(setuptools, "setup", lambda **options: given.update(options))
    runpy.run_path(str(ROOT / "setup.py"))
    command = given["cmdclass"]["build_py"](setuptools.Distribution({"packages": []}))
    command.ensure_finalized()
    command.build_lib = str(tmp_path / "built")
    command.run()
    built = [file.relative_to(tmp_path / "built") for file in tmp_path.glob("built/**/*.py")]
    shipped = [file.relative_to(ROOT) for file in ROOT.glob("experiments/**/*.py")]
    assert sorted(built) == sorted(Path("cnn_lab", file) for file in shipped)
    assert len(shipped) > 10
