"""Two processes of which each holds a part of the state and of the data, as one process does."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from launching import ROOT, digests, environment, launched, until

pytestmark = pytest.mark.slow
PARTS = (
    "--config.mesh.fsdp=true",
    "--config.data.pipeline=sharded",
    "--config.average.kind=ema",
    "--config.average.decay=0.9",
)
STREAMED = (
    "--config.data.pipeline=streaming",
    "--config.optim.schedule.name=plateau",
    "--config.optim.schedule.options.patience=1",
    "--config.average.kind=swa",
    "--config.average.start_epoch=2",
)


def train(workdir: Path, *more: str) -> tuple[str, ...]:
    config = ("--config=experiments/digits/lenet5.py", "--config.train.num_epochs=6")
    return ("train", *config, f"--workdir={workdir}", *more)


def alone(*arguments: str) -> None:
    """One process of two devices."""
    command = [sys.executable, "-m", "cnn_lab.cli.main", *arguments]
    done = subprocess.run(
        command, env=environment(2), cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def steps_in(workdir: Path) -> list[int]:
    """Of the checkpoints."""
    folder = workdir / "checkpoints"
    names = (path.name for path in folder.iterdir()) if folder.is_dir() else ()
    return sorted(int(name) for name in names if name.isdecimal())


def ended(*arguments: str, logs: Path) -> str:
    """What two processes say that end well."""
    group = launched(*arguments, processes=2, logs=logs)
    output, _ = group.communicate(timeout=180)
    assert group.returncode == 0, output
    return output


def test_a_part_that_only_its_process_reads_is_damaged_for_all(tmp_path, data_dir):
    """Each of them restores its own part: the other one must hear of it, and not wait for ever."""
    workdir, logs = tmp_path / "run", tmp_path / "logs"
    group = launched(*train(workdir, *PARTS), processes=2, logs=logs)
    until(lambda: len(steps_in(workdir)) > 1 or group.poll() is not None)
    group.send_signal(signal.SIGTERM)
    output, _ = group.communicate(timeout=120)
    assert group.returncode == 0, output
    before, newest = steps_in(workdir)[-2:]
    parts = workdir / "checkpoints" / str(newest) / "state" / "ocdbt.process_1" / "d"
    for file in parts.iterdir():
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    output = ended(*train(workdir, *PARTS), logs=logs)
    assert f"Checkpoint {newest} in " in output
    assert "is damaged" in output
    assert f"from step {before}." in output
    alone(*train(tmp_path / "one", *PARTS))
    assert digests(workdir) == digests(tmp_path / "one")


def test_two_that_stream_and_average_and_lower_the_rate_are_one(tmp_path, data_dir):
    ended(*train(tmp_path / "two", *STREAMED), logs=tmp_path / "logs")
    alone(*train(tmp_path / "one", *STREAMED))
    assert digests(tmp_path / "two") == digests(tmp_path / "one")
