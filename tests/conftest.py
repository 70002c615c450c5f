"""JAX made strict for every test: what is only tolerated elsewhere fails here."""

import atexit
import gc
import os
import shutil
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# What several tests and their subprocesses compile is compiled once.
os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="cnn_lab_tests_")

import jax
import pytest
from absl import flags
from matplotlib.figure import Figure
from PIL import Image
from staged import source, staged_model  # noqa: F401 - fixtures
from strict import leftovers

atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.02)
flags.FLAGS.mark_as_parsed()  # Grain's workers ask for it

# Compiling costs more than most tests compute: the trainings of real processes, and what is held
# against PyTorch, are compiled as users have them.
FULLY_OPTIMISED = {
    "test_entry",
    "test_faults",
    "test_initial_state",
    "test_initialize",
    "test_parity",
    "test_parts",
    "test_processes",
}
BLANK = Image.new("L", (1, 1))
OPTIMISATIONS = "JAX_DISABLE_MOST_OPTIMIZATIONS"  # subprocesses compile as their module does


def pytest_collection_finish(session: pytest.Session):
    """Garbage is looked for seldom, and not in what has been imported by now, which stays."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000)


@pytest.fixture(scope="module", autouse=True)
def _programs(request: pytest.FixtureRequest):
    """Compiles as the module needs it, and forgets its programs, of which thousands pile up."""
    quickly = request.path.stem not in FULLY_OPTIMISED
    os.environ[OPTIMISATIONS] = str(quickly).lower()
    jax.config.update(OPTIMISATIONS.lower(), quickly)
    yield
    del os.environ[OPTIMISATIONS]
    jax.config.update(OPTIMISATIONS.lower(), False)
    jax.clear_caches()
    gc.collect()


@pytest.fixture(scope="module", autouse=True)
def _pictures(request: pytest.FixtureRequest):
    """Figures are made, but drawn in the tests of reports alone: drawing one takes up to 1 s."""
    with pytest.MonkeyPatch.context() as patch:
        if request.path.parent.name != "report":
            patch.setattr(Figure, "savefig", lambda _, file, **_options: BLANK.save(file, "png"))
        yield


@pytest.fixture(autouse=True)
def _collected(request: pytest.FixtureRequest):
    """Leftovers go in the test that they are of, not in the one that happens to collect them."""
    yield
    if leftovers.mark in request.node.iter_markers("filterwarnings"):
        gc.collect()


@pytest.fixture(scope="session", autouse=True)
def data_dir(tmp_path_factory: pytest.TempPathFactory):
    """One place for prepared data sets, shared by all tests and their subprocesses."""
    folder = tmp_path_factory.mktemp("data")
    before = os.environ.get("CNN_LAB_DATA_DIR")
    os.environ["CNN_LAB_DATA_DIR"] = str(folder)
    yield folder
    if before is None:
        del os.environ["CNN_LAB_DATA_DIR"]
    else:
        os.environ["CNN_LAB_DATA_DIR"] = before
