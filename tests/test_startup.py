"""Commands and imports load what they need, and nothing slow beside it."""

import subprocess
import sys

import pytest

SLOW = {"grain", "matplotlib", "scipy", "sklearn", "tensorflow_datasets", "tensorboardX", "torch"}
MODELS = "cnn_lab.models."


def loaded_by(code: str) -> set[str]:
    """The modules that Python has loaded after some code, in a process of its own."""
    report = "import sys; print(*sys.modules, file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}"], capture_output=True, text=True, check=True
    )
    return set(done.stderr.split())


def test_a_training_loads_no_library_of_data_or_figures_and_no_model():
    loaded = loaded_by("import cnn_lab.runs.train")
    assert not loaded & SLOW
    models = {name.removeprefix(MODELS) for name in loaded if name.startswith(MODELS)}
    assert models == {"heads", "registry"}


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["--version"]])
def test_help_loads_no_library_of_arrays(words: list[str]):
    loaded = loaded_by(f"from cnn_lab.cli.main import main\nmain({words!r})")
    assert not loaded & {*SLOW, "flax", "jax", "orbax"}


def test_a_list_of_models_loads_no_library_of_data_or_figures():
    loaded = loaded_by("from cnn_lab.cli.main import main\nmain(['list', 'models'])")
    assert not loaded & {*SLOW, "optax", "orbax"}
