"""Errors of the system are explained in one sentence, whatever shape a library gives them."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cnn_lab.core import memory
from cnn_lab.core.errors import (
    ConfigError,
    SystemLimitError,
    explain_system_error,
    system_errors_explained,
)

PLACE = Path("runs/a")


def followed_from(cause: Exception) -> Exception:
    """As a library raises it: another exception, in the handling of the first."""
    try:
        try:
            raise cause
        except Exception as error:
            raise RuntimeError("reader failed") from error
    except RuntimeError as error:
        return error


@pytest.mark.parametrize(
    ("error", "start", "remedy"),
    [
        (MemoryError(), "The memory does not suffice; lower", "loader=streaming"),
        (
            RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 4 bytes.\nlong dump"),
            "The memory does not suffice (RESOURCE_EXHAUSTED: Out of memory allocating 4 bytes);",
            "config.train.batch_size",
        ),
        (
            OSError(errno.EMFILE, os.strerror(errno.EMFILE)),
            "A file cannot be opened (Too many open files)",
            "ulimit -n",
        ),
        (
            ValueError("RESOURCE_EXHAUSTED: Failed to open: Too many open files; fd 3"),
            "A file cannot be opened (Too many open files)",
            "ulimit -n",
        ),
        (
            followed_from(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))),
            "runs/a cannot be used (No space left on device)",
            "free space",
        ),
        (
            OSError(errno.EACCES, os.strerror(errno.EACCES), "some/file"),
            "some/file cannot be used (Permission denied)",
            "permissions",
        ),
        (
            RuntimeError("Unable to initialize backend 'cuda': no such platform."),
            "JAX cannot use the devices asked for (Unable to initialize backend 'cuda': no such",
            "unset what the environment says (JAX_PLATFORMS=cuda), or",
        ),
        (
            ValueError('Invalid value "abc" for JAX flag jax_num_cpu_devices'),
            'JAX cannot use the devices asked for (Invalid value "abc" for JAX flag jax_num_cpu_',
            "unset",
        ),
        (
            ValueError("invalid truth value 'x' for environment 'JAX_ENABLE_X64'"),
            "JAX cannot use the devices asked for (invalid truth value 'x' for environment",
            "says (JAX_ENABLE_X64=x JAX_PLATFORMS=cuda), or",
        ),
    ],
    ids=[
        *("memory", "XLA", "EMFILE", "EMFILE as text", "cause", "named file", "backend"),
        *("setting", "other setting"),
    ],
)
def test_what_is_refused_is_told_in_one_sentence(error, start, remedy, monkeypatch):
    for name in [name for name in os.environ if name.startswith("JAX_")]:
        monkeypatch.delenv(name)
    given = {"COMPILATION_CACHE_DIR": "/cache", "ENABLE_X64": "x", "PLATFORMS": "cuda"}
    for name, text in given.items():
        monkeypatch.setenv(f"JAX_{name}", text)
    found = explain_system_error(error, PLACE)
    assert found is not None
    assert found.startswith(start)
    assert remedy in found
    assert "\n" not in found


def test_devices_that_jax_knows_and_has_not_are_told_in_one_sentence():
    environment = {**os.environ, "JAX_PLATFORMS": "cuda"}
    command = [sys.executable, "-m", "cnn_lab.cli.main", "train", "--dry_run"]
    done = subprocess.run(
        [*command, "--config=experiments/digits/lenet5.py"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: JAX cannot use the devices asked for (found none of the")
    assert "unset what the environment says (JAX_" in done.stderr
    assert "JAX_PLATFORMS=cuda" in done.stderr


def test_numpy_without_memory_is_told_how_much_it_asked_for():
    with (
        pytest.raises(SystemLimitError, match=r"\(Unable to allocate 7\.28 TiB"),
        system_errors_explained(),
    ):
        np.empty((10**12,), np.float64)


IN_USE = RuntimeError("Unable to initialize backend 'tpu': ABORTED: The TPU is already in use")


@pytest.mark.parametrize(
    "error", [KeyError("x"), FileNotFoundError(2, "No such file", "x"), IN_USE]
)
def test_a_bug_stays_one(error):
    assert explain_system_error(error, PLACE) is None
    with pytest.raises(type(error)), system_errors_explained(PLACE):
        raise error


def test_errors_for_the_user_pass():
    with pytest.raises(ConfigError), system_errors_explained():
        raise ConfigError("It would be out of memory.")


def test_the_memory_of_a_container_is_its_limit(tmp_path: Path, monkeypatch):
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(memory, "LIMIT_FILES", (tmp_path / "absent", limit))
    limit.write_text("max\n")
    whole = memory.host_bytes()
    assert whole is not None
    assert whole > 10**6
    limit.write_text("1000\n")
    assert memory.host_bytes() == 1000
