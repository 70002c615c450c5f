"""The folder of compiled programs stays bounded and heals."""

import os
import subprocess
import sys

from cnn_lab.cli.compilation_cache import trim

PROGRAM = """
from cnn_lab.cli import runtime
runtime.start(1)
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


def test_a_damaged_entry_is_removed_and_written_again(tmp_path):
    def run() -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(tmp_path)}
        command = [sys.executable, "-c", PROGRAM]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True)

    assert run().stdout == "7.0\n"
    entries = [path for path in tmp_path.iterdir() if "lambda" in path.name]
    (entry,) = (path for path in entries if path.name.endswith("-cache"))
    whole = entry.read_bytes()
    entry.write_bytes(whole[: len(whole) // 2])
    mended = run()
    assert (mended.stdout, mended.stderr.count("removed")) == ("7.0\n", 1)
    again = run()
    assert (again.stdout, again.stderr) == ("7.0\n", "")
