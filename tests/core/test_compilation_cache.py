"""The folder of compiled programs stays bounded and is repaired."""

import os
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from cnn_lab.core import compilation_cache
from cnn_lab.core.compilation_cache import remove_damaged, trim

PROGRAM = """
import sys
from cnn_lab.core import compilation_cache
compilation_cache.enable(lambda line: print(line, file=sys.stderr))
import jax
print(jax.jit(lambda x: x * 2 + 1)(3.0))
"""


def test_the_oldest_entries_go_first(tmp_path):
    for age, name in enumerate(["new", "old", "oldest"]):
        path = tmp_path / f"{name}-cache"
        path.write_bytes(bytes(100))
        os.utime(path, (1000 - age, 1000 - age))
    (tmp_path / "other").write_bytes(bytes(1000))
    trim(tmp_path, limit_bytes=150)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new-cache", "other"]


TWO_PROGRAMS = """
import sys
from cnn_lab.core import compilation_cache
compilation_cache.enable(lambda line: print(line, file=sys.stderr))
import jax
print(jax.jit(lambda x: x * 2 + 1)(3.0), jax.jit(lambda x: x * 3 - 1)(3.0))
"""


SETTINGS = """
import warnings
from cnn_lab.core import compilation_cache
compilation_cache.enable()
import jax
jax.config.update("jax_persistent_cache_min_compile_time_secs", 5.0)
for _ in range(1500):
    compilation_cache.enable()
print(jax.config.jax_persistent_cache_min_compile_time_secs)
warnings.warn("a warning")
"""


@pytest.fixture
def run(tmp_path):
    def run(program: str = PROGRAM) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(tmp_path)}
        command = [sys.executable, "-c", program]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True)

    return run


def test_it_is_enabled_once_and_leaves_what_is_set_afterwards(run):
    done = run(SETTINGS)
    assert done.stdout == "5.0\n"
    assert done.stderr.count("UserWarning: a warning") == 1


def identities(folder: Path) -> dict[str, int]:
    """The entries of the lambdas, and the numbers that change when a file is written again."""
    found = (path for path in folder.glob("*-cache") if "lambda" in path.name)
    return {path.name: path.stat().st_ino for path in found}


def test_a_healthy_entry_of_the_same_name_stays(tmp_path, run):
    assert run(TWO_PROGRAMS).stdout == "7.0 8.0\n"
    before = identities(tmp_path)
    damaged, healthy = sorted(before)
    content = (tmp_path / damaged).read_bytes()
    os.truncate(tmp_path / damaged, len(content) // 2)
    repaired = run(TWO_PROGRAMS)
    assert (repaired.stdout, repaired.stderr.count("removed")) == ("7.0 8.0\n", 1)
    assert identities(tmp_path).keys() == before.keys()
    assert identities(tmp_path)[healthy] == before[healthy]
    assert (tmp_path / damaged).stat().st_size > len(content) // 2


def test_a_folder_that_is_set_afterwards_is_repaired_too(tmp_path, run):
    other = f"jax.config.update('jax_compilation_cache_dir', {str(tmp_path / 'other')!r})"
    program = PROGRAM.replace("import jax", f"import jax; {other}")
    assert run(program).stdout == "7.0\n"
    (entry,) = identities(tmp_path / "other")
    os.truncate(tmp_path / "other" / entry, 20)
    assert run(program).stderr.count("removed") == 1


def entries(folder: Path, **contents: bytes) -> None:
    for name, content in contents.items():
        (folder / f"jit_train-{name}-cache").write_bytes(content)


def names(folder: Path) -> set[str]:
    return {path.name.split("-")[1] for path in folder.iterdir()}


WHOLE = zlib.compress(b"a program" * 9)
ZSTD = b"\x28\xb5\x2f\xfd and so on"


def test_what_this_python_cannot_unpack_is_not_called_damaged(tmp_path, monkeypatch):
    monkeypatch.setattr(compilation_cache, "_zstd_unpack", lambda: None)
    entries(tmp_path, a=WHOLE, b=ZSTD, c=b"", d=WHOLE[:-5])
    assert remove_damaged(tmp_path, "jit_train") == 2
    assert names(tmp_path) == {"a", "b"}


def test_damage_that_the_packing_does_not_show_costs_all_entries_of_that_name(tmp_path):
    entries(tmp_path, a=WHOLE, b=WHOLE)
    (tmp_path / "jit_evaluate-c-cache").write_bytes(WHOLE)
    assert remove_damaged(tmp_path, "jit_train") == 2
    assert names(tmp_path) == {"c"}


def test_nothing_is_removed_where_entries_cannot_be_read(tmp_path, monkeypatch):
    entries(tmp_path, a=WHOLE, b=b"")

    def refuse(_):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert remove_damaged(tmp_path, "jit_train") == 0
    assert names(tmp_path) == {"a", "b"}


def test_a_damaged_entry_is_removed_and_written_again(tmp_path, run):
    assert run().stdout == "7.0\n"
    (entry,) = (tmp_path / name for name in identities(tmp_path))
    whole = entry.read_bytes()
    entry.write_bytes(whole[: len(whole) // 2])
    repaired = run()
    assert (repaired.stdout, repaired.stderr.count("removed")) == ("7.0\n", 1)
    again = run()
    assert (again.stdout, again.stderr) == ("7.0\n", "")
