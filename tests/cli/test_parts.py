"""Two processes of which each holds a part of the state and of the data, as one process does."""

import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from launching import ROOT, alone, digests, environment, launched, until

pytestmark = pytest.mark.slow
PARTS = (
    "--config.mesh.fsdp=true",
    "--config.data.loader=sharded",
    "--config.average.kind=ema",
    "--config.average.decay=0.9",
)
STREAMED = (
    "--config.data.loader=streaming",
    "--config.optim.schedule.name=plateau",
    "--config.optim.schedule.options.patience=1",
    "--config.average.kind=swa",
    "--config.average.start_epoch=2",
)


def train(workdir: Path, *more: str) -> tuple[str, ...]:
    config = ("--config=experiments/digits/lenet5.py", "--config.train.num_epochs=6")
    return ("train", *config, f"--workdir={workdir}", *more)


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


def test_what_one_process_alone_finds_damaged_is_so_for_all(tmp_path, data_dir):
    """Its machine reads other bytes: the other one must hear of it, and not wait for ever."""
    if subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode:
        pytest.skip("a process may have no file system of its own here")
    workdir, logs = tmp_path / "run", tmp_path / "logs"
    group = launched(*train(workdir, *PARTS), processes=2, logs=logs)
    until(lambda: len(steps_in(workdir)) > 1 or group.poll() is not None)
    group.send_signal(signal.SIGTERM)
    output, _ = group.communicate(timeout=120)
    assert group.returncode == 0, output
    before, newest = steps_in(workdir)[-2:]
    place, other = workdir / "checkpoints" / str(newest), tmp_path / "other"
    shutil.copytree(place, other)
    for file in other.glob("state/ocdbt.process_1/d/*"):
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with socket.create_server(("", 0)) as server:
        at = f"--coordinator=localhost:{server.getsockname()[1]}"
    command = [sys.executable, "-m", "cnn_lab.cli.main", *train(workdir, *PARTS), at]
    sees_other = ["unshare", "-m", "sh", "-c", f'mount --bind {other} {place} && exec "$@"', "sh"]
    first, second = (
        subprocess.Popen(
            [*before_it, *command, "--num_processes=2", f"--process_id={index}"],
            env=environment(1),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index, before_it in enumerate(([], sees_other))
    )
    output, said = first.communicate(timeout=180)[0], second.communicate(timeout=180)[0]
    assert (first.returncode, second.returncode) == (0, 0), output + said
    assert f"Checkpoint {newest} in {workdir}/checkpoints is damaged" in output
    assert f"from step {before}." in output
    assert "Exception" not in output + said
    alone(*train(tmp_path / "one", *PARTS), devices=2)
    assert digests(workdir) == digests(tmp_path / "one")


def test_two_that_stream_and_average_and_lower_the_rate_are_one(tmp_path, data_dir):
    ended(*train(tmp_path / "two", *STREAMED), logs=tmp_path / "logs")
    alone(*train(tmp_path / "one", *STREAMED), devices=2)
    assert digests(tmp_path / "two") == digests(tmp_path / "one")
