"""JAX made strict for every test: what is only tolerated elsewhere fails here."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import jax
import pytest
from absl import flags

jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_numpy_rank_promotion", "raise")
flags.FLAGS.mark_as_parsed()  # Grain's workers ask for it


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
