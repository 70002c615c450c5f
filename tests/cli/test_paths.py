"""Paths in a config mean the same from any directory."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnn_lab.config import DataConfig, ExperimentConfig
from cnn_lab.config.load import load_config
from cnn_lab.config.node import to_dict
from cnn_lab.core.errors import DataError
from cnn_lab.data.datasets.catalog import open_dataset

EXPERIMENT = "from cnn_lab.config import *\n\ndef get_config():\n    return ExperimentConfig()\n"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, with an experiment and a prepared data set in it."""
    folder = tmp_path / "here"
    for index in range(4):
        path = folder / f"photos/{'ab'[index % 2]}/{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((9, 9), index, np.uint8)).save(path)
    (folder / "experiment.py").write_text(EXPERIMENT)
    prepared = open_dataset(f"folder:{folder / 'photos'}", tmp_path / "data").storage.name
    shutil.copytree(prepared, folder / "mine/1.0.0")
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize(
    ("name", "anchored"),
    [
        ("folder:photos", "folder:{here}/photos"),
        ("folder:../here/photos", "folder:{here}/photos"),
        ("folder:~nobody-of-that-name/x", "folder:{here}/~nobody-of-that-name/x"),
        ("tfds:./mine/1.0.0", "tfds:{here}/mine/1.0.0"),
        ("tfds:mine/1.0.0", "tfds:{here}/mine/1.0.0"),
        ("tfds:./missing", "tfds:{here}/missing"),
        ("tfds:mnist", "tfds:mnist"),
        ("tfds:mnist:3.0.1", "tfds:mnist:3.0.1"),
        ("mnist", "mnist"),
    ],
)
def test_relative_paths_become_absolute(here: Path, name: str, anchored: str):
    config = load_config("experiment.py", [("data.name", name)])
    assert config.data.name == anchored.format(here=here)


def test_data_dir_becomes_absolute(here: Path):
    assert load_config("experiment.py", [("data.data_dir", "d")]).data.data_dir == str(here / "d")
    assert load_config("experiment.py", []).data.data_dir is None


@pytest.mark.parametrize("name", ["folder:photos", "tfds:mine/1.0.0"])
def test_the_config_of_a_run_opens_its_data_from_elsewhere(here: Path, tmp_path, monkeypatch, name):
    overrides = [("data.name", name), ("data.data_dir", "../data")]
    config = load_config("experiment.py", overrides)
    (here / "config.json").write_text(json.dumps(to_dict(config)))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    resumed = load_config("../here/config.json", [])
    assert resumed == config
    assert open_dataset(resumed.data.name, resumed.data.data_dir).info.num_classes == 2


def test_a_path_that_an_older_run_kept_relative_is_named_where_it_was_looked_for(
    here: Path, tmp_path, monkeypatch
):
    config = ExperimentConfig(data=DataConfig(name="tfds:./mine/1.0.0"))
    (here / "config.json").write_text(json.dumps(to_dict(config)))
    monkeypatch.chdir(tmp_path)
    resumed = load_config("here/config.json", [])
    with pytest.raises(DataError, match=f"tfds:{tmp_path}/mine/1.0.0 holds no dataset_info"):
        open_dataset(resumed.data.name, tmp_path / "data")


def test_an_experiment_leaves_no_bytecode_beside_it(here: Path):
    load_config("experiment.py", [])
    assert not (here / "__pycache__").exists()
    (here / "experiment.py").write_text(EXPERIMENT.replace("Config()", "Config(seed=1)"))
    assert load_config("experiment.py", []).seed == 1
