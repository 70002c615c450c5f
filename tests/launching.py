"""Several real processes that train as one, for tests."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]


def environment(num_devices: int) -> dict[str, str]:
    """Of a process with so many CPU devices."""
    kept = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    return {**kept, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(num_devices)}


def alone(*arguments: str, devices: int) -> None:
    """One process with some devices, which ends well."""
    command = [sys.executable, "-m", "cnn_lab.cli.main", *arguments]
    done = subprocess.run(
        command, env=environment(devices), cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def launched(*arguments: str, processes: int, logs: Path, **options: object) -> subprocess.Popen:
    """The launcher with a command, on one CPU device a process."""
    flags = [f"--{name}={value}" for name, value in options.items()]
    launcher = [sys.executable, str(ROOT / "launch" / "local.py"), f"--processes={processes}"]
    return subprocess.Popen(
        [*launcher, "--cpu_devices=1", f"--logs={logs}", *flags, "--", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(1),
        cwd=ROOT,
    )


def digests(workdir: Path) -> tuple[int, dict[str, str]]:
    """Step of the newest checkpoint, and the digest of every leaf."""
    folders = [p for p in (workdir / "checkpoints").iterdir() if p.name.isdecimal()]
    newest = max(folders, key=lambda path: int(path.name))
    record = json.loads((newest / "record" / "metadata").read_text())
    return int(newest.name), record["digests"]


def checkpoint_in(workdir: Path) -> bool:
    """Whether one is there."""
    folder = workdir / "checkpoints"
    return folder.is_dir() and any(path.name.isdecimal() for path in folder.iterdir())


def until(condition, seconds: float = 120.0, pause: float = 0.05) -> None:
    """Waits for something; fails the test if it does not come."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(pause)


def children(process: subprocess.Popen) -> list[int]:
    """Ids of the processes that the launcher has started, in order."""
    found = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(pid) for pid in found]


def kill(pid: int) -> None:
    """As the system does when memory runs out."""
    os.kill(pid, signal.SIGKILL)
