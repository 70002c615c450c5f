"""Files of weights, and what is no such file; PyTorch's where that is installed."""

import importlib
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy
from refusals import refused

from cnn_lab.core.errors import CheckpointError, ConfigError
from cnn_lab.transfer.weight_files import (
    digest,
    parse_renames,
    read_weights,
    rename,
    write_safetensors,
)

WEIGHTS = {
    "conv1.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2),
    "bn1.running_var": np.ones(2, np.float16),
}


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)
        assert found[name].dtype == values.dtype


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "weights.safetensors"
    write_safetensors(path, WEIGHTS, {"model": "small"})
    return path


def test_safetensors_come_back_as_they_were_marked_for_torch(file):
    assert_equal(read_weights(file), WEIGHTS)
    with safetensors.safe_open(file, framework="numpy") as opened:
        assert opened.metadata() == {"format": "pt", "model": "small"}
    assert len(digest(file)) == 64


def test_bfloat16_is_read(tmp_path):
    import ml_dtypes

    weights = {"a": np.array([1.5, -2.0], ml_dtypes.bfloat16)}
    path = tmp_path / "b.safetensors"
    path.write_bytes(safetensors.numpy.save(weights))
    assert_equal(read_weights(path), weights)


@pytest.mark.parametrize("content", [b"", b"hello, this is no such file", None])
def test_damaged_files_are_refused_in_a_sentence(file, content):
    file.write_bytes(file.read_bytes()[:-3] if content is None else content)
    with refused(CheckpointError, where=str(file)):
        read_weights(file)


def test_missing_files_and_other_kinds_are_refused(tmp_path):
    with refused(CheckpointError, where=str(tmp_path / "none.safetensors")):
        read_weights(tmp_path / "none.safetensors")
    (tmp_path / "a.h5").write_bytes(b"")
    with refused(CheckpointError, where=str(tmp_path / "a.h5"), found=".h5"):
        read_weights(tmp_path / "a.h5")


def test_reading_safetensors_imports_no_torch(file):
    code = (
        "import sys; from pathlib import Path; sys.modules['torch'] = None;"
        "from cnn_lab.transfer.weight_files import read_weights;"
        f"print(sorted(read_weights(Path({str(file)!r}))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(sorted(WEIGHTS))


def test_without_torch_its_files_are_refused_with_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)  # what an import finds that fails
    (tmp_path / "a.pth").write_bytes(pickle.dumps(WEIGHTS))
    with pytest.raises(CheckpointError, match=r"pip install torch.*or convert .* to safetensors"):
        read_weights(tmp_path / "a.pth")


@pytest.fixture
def save(tmp_path):
    torch = pytest.importorskip("torch", reason="`make test-parity` installs it")

    def save(content, **options):
        path = tmp_path / "a.pth"
        torch.save(content, path, **options)
        return path

    return save


@pytest.fixture
def tensors():
    torch = pytest.importorskip("torch", reason="`make test-parity` installs it")
    return {name: torch.from_numpy(values) for name, values in WEIGHTS.items()}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
def test_weights_of_torch_are_read_also_where_a_training_keeps_them(save, tensors, wrapper, zipped):
    content = tensors if wrapper is None else {"epoch": 3, wrapper: tensors}
    path = save(content, _use_new_zipfile_serialization=zipped)
    assert_equal(read_weights(path), WEIGHTS)


class Marks:
    """What would leave a mark if it were unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("zipped", [True, False])
def test_pickled_code_is_not_run(save, tensors, tmp_path, zipped):
    content = {**tensors, "evil": Marks(tmp_path / "mark")}
    path = save(content, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match="holds pickled code beside weights"):
        read_weights(path)
    assert not (tmp_path / "mark").exists()


def test_whole_modules_damage_and_other_contents_of_torch_are_refused(save, tensors, tmp_path):
    torch = importlib.import_module("torch")
    with refused(CheckpointError, where=str(tmp_path / "a.pth")):
        read_weights(save(torch.nn.Linear(2, 2)))
    path = save(tensors)
    path.write_bytes(path.read_bytes()[:-100])
    with refused(CheckpointError, where=str(path)):
        read_weights(path)
    path.write_bytes(b"hello")
    with refused(CheckpointError, where=str(path)):
        read_weights(path)
    for content in ({"epoch": 3}, [1, 2]):
        with refused(CheckpointError, where=str(path)):
            read_weights(save(content))


def renamed(*texts, names=("module.conv1.weight", "module.linear.bias")):
    return list(rename(dict.fromkeys(names), parse_renames(texts)))


def test_names_are_changed_in_order():
    found = renamed(r"^module\.=>", r"^linear=>fc", r"(\w+)\.(bias)=>\2.\1")
    assert found == ["conv1.weight", "bias.fc"]


@pytest.mark.parametrize(
    "rule",
    [
        pytest.param("module", id="no arrow"),
        pytest.param("(=>x", id="no regular expression"),
        pytest.param("conv=>\\3", id="no such group"),
        pytest.param("nothing=>x", id="changes nothing"),
        pytest.param(".*=>x", id="one name for two"),
    ],
)
def test_wrong_renames_are_refused(rule):
    with refused(ConfigError, where="--rename", found=rule):
        renamed(r"^linear=>fc", rule, names=("linear.weight", "module.conv1.weight"))
