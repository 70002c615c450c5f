"""Faults of a training of two processes: whatever ends it, it goes on to the same bits."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from launching import (
    ROOT,
    alone,
    checkpoint_in,
    children,
    digests,
    environment,
    kill,
    launched,
    until,
)

EPOCHS, ROUNDS = 200, 20
MAX_SECONDS = 60.0  # until the other process has ended too
pytestmark = pytest.mark.slow


def train(workdir: Path, epochs: int = EPOCHS, *more: str) -> tuple[str, ...]:
    config = "--config=experiments/digits/lenet5.py"
    return ("train", config, f"--config.train.num_epochs={epochs}", f"--workdir={workdir}", *more)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, data_dir) -> Path:
    """The run of one process with two devices."""
    workdir = tmp_path_factory.mktemp("alone") / "run"
    alone(*train(workdir), devices=2)
    return workdir


def rows(workdir: Path) -> list[str]:
    """Metrics without what depends on the clock."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [line.partition(', "examples_per_second"')[0] for line in lines]


class Round:
    """A training that something happens to, of two processes."""

    def __init__(self, workdir: Path, logs: Path, random: np.random.Generator):
        self.workdir, self.random = workdir, random
        self.group = launched(*train(workdir), processes=2, logs=logs)
        log = logs / "process0.log"
        until(lambda: log.exists() and "Training lenet5" in log.read_text())
        self.ids = children(self.group)

    def wait(self) -> None:
        time.sleep(self.random.uniform(0, 5))

    def wait_for_a_save(self) -> None:
        """Until a checkpoint is being written."""
        folder = self.workdir / "checkpoints"

        def writes() -> bool:
            return folder.is_dir() and any("tmp" in path.name for path in folder.iterdir())

        until(writes, pause=0.0005)

    def end(self) -> tuple[int, str]:
        output, _ = self.group.communicate(timeout=MAX_SECONDS)
        return self.group.returncode, output


def kill_first(it: Round) -> None:
    it.wait()
    kill(it.ids[0])


def kill_second(it: Round) -> None:
    it.wait()
    kill(it.ids[1])


def kill_both(it: Round) -> None:
    it.wait()
    for pid in it.ids:
        kill(pid)


def kill_first_in_a_save(it: Round) -> None:
    it.wait()
    it.wait_for_a_save()
    kill(it.ids[0])


def kill_second_in_a_save(it: Round) -> None:
    it.wait()
    it.wait_for_a_save()
    kill(it.ids[1])


def preempt(it: Round) -> None:
    it.wait()
    it.group.send_signal(signal.SIGTERM)


def flip(file: Path, random: np.random.Generator) -> None:
    content = bytearray(file.read_bytes())
    content[random.integers(len(content))] ^= 1 << random.integers(8)
    file.write_bytes(content)


def truncate(file: Path, random: np.random.Generator) -> None:
    file.write_bytes(file.read_bytes()[: random.integers(file.stat().st_size)])


def harmed(workdir: Path, harm: Callable, random: np.random.Generator) -> int | None:
    """Step of the newest checkpoint, after damage to it; None where there is no other one."""
    folder = workdir / "checkpoints"
    steps = sorted(int(path.name) for path in folder.glob("[0-9]*") if path.name.isdecimal())
    if len(steps) < 2:
        return None
    files = list((folder / str(steps[-1])).glob("state/**/d/*"))
    sizes = np.array([file.stat().st_size for file in files])
    harm(files[random.choice(len(files), p=sizes / sizes.sum())], random)
    return steps[-1]


FAULTS = [kill_first, kill_second, kill_both, kill_first_in_a_save, kill_second_in_a_save, preempt]


def test_whatever_happens_at_random_it_ends_with_the_same_bits(undisturbed, tmp_path):
    """Prints what happened: `pytest -m slow -s tests/cli/test_faults.py -k random`."""
    workdir, random, damaged = tmp_path / "run", np.random.default_rng(0), None
    title = f"round  from step  {'fault':21}  status  all ended after      damage after it"
    sys.stdout.write(f"\n{title}\n")
    for number in range(ROUNDS):
        it = Round(workdir, tmp_path / f"logs{number}", random)
        fault = FAULTS[number % len(FAULTS)]
        fault(it)
        happened = time.monotonic()
        status, output = it.end()
        seconds = time.monotonic() - happened
        # 130 where the signal came before the training had begun.
        assert status in ((0, 130) if fault is preempt else (137,)), output
        assert "Traceback" not in output
        if fault not in (kill_both, preempt):
            lost = int(fault in (kill_second, kill_second_in_a_save))
            assert f"launch: process {lost} was killed by signal 9" in output, output
            assert "run the same command again to go on from there" in output
        resumed = output.partition("from step ")[2].partition(".")[0] or "0"
        if damaged is not None and resumed != str(damaged):  # else those bytes were of no value
            assert f"Checkpoint {damaged} in " in output, output
            assert "It was moved to" in output
            assert int(resumed) < damaged
        harm = (None, None, flip, truncate)[random.integers(4)]
        damaged = None if harm is None else harmed(workdir, harm, random)
        after = f"{harm.__name__} {damaged}" if harm and damaged else ""
        line = f"{number:5}  {resumed:>9}  {fault.__name__:21}  {status:6}  {seconds:17.1f} s"
        sys.stdout.write(f"{line}  {after}\n")
        assert json.loads((workdir / "run.json").read_text())["status"] != "finished"
    last = launched(*train(workdir), processes=2, logs=tmp_path / "logs")
    output, _ = last.communicate(timeout=600)
    assert last.returncode == 0, output
    assert digests(workdir) == digests(undisturbed)
    assert rows(workdir) == rows(undisturbed)


def test_it_goes_on_with_other_numbers_of_processes_and_devices(tmp_path, data_dir):
    """The same examples in the same order, wherever they are computed."""
    wanted, workdir = tmp_path / "wanted", tmp_path / "run"
    alone(*train(wanted, 12), devices=1)
    group = launched(*train(workdir, 12), processes=2, logs=tmp_path / "logs")
    until(lambda: checkpoint_in(workdir))
    group.send_signal(signal.SIGTERM)
    output, _ = group.communicate(timeout=60)
    assert group.returncode == 0, output
    command = [sys.executable, "-m", "cnn_lab.cli.main", *train(workdir, 12)]
    command += ["--config.mesh.fsdp=true"]
    first = digests(workdir)[0]
    four = subprocess.Popen(command, env=environment(4), cwd=ROOT)
    until(lambda: four.poll() is not None or digests(workdir)[0] > first)
    four.send_signal(signal.SIGTERM)
    assert four.wait(60) == 0
    last = launched(*train(workdir, 12), processes=2, logs=tmp_path / "logs")
    output, _ = last.communicate(timeout=120)
    assert last.returncode == 0, output
    assert "Resuming" in output
    found, expected = (
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (workdir, wanted)
    )
    assert [row["step"] for row in found] == [row["step"] for row in expected]
    for row, other in zip(found, expected, strict=True):
        assert row["loss"] == pytest.approx(other["loss"], rel=0.02), row["step"]


def test_a_finetuning_of_two_is_that_of_one(undisturbed, tmp_path):
    def finetune(workdir: Path) -> tuple[str, ...]:
        own = ["--strategy=last_stages:1", "--config.train.num_epochs=3", f"--workdir={workdir}"]
        return ("finetune", f"--from={undisturbed}", "--data=digits", *own)

    alone(*finetune(tmp_path / "one"), devices=2)
    group = launched(*finetune(tmp_path / "two"), processes=2, logs=tmp_path / "logs")
    output, _ = group.communicate(timeout=180)
    assert group.returncode == 0, output
    assert output.count("Recipe: ") == 1
    assert digests(tmp_path / "two") == digests(tmp_path / "one")


@pytest.fixture
def small_disk(tmp_path):
    """A file system with room for two checkpoints and no third."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2200k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("file systems may not be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_ends_all_and_loses_nothing(undisturbed, small_disk, tmp_path):
    workdir = small_disk / "run"
    group = launched(*train(workdir), processes=2, logs=tmp_path / "logs")
    output, _ = group.communicate(timeout=180)
    assert group.returncode == 2, output
    assert "could not be written" in output
    assert "What was saved before is intact; free disk space" in output
    assert "Traceback" not in output
    assert checkpoint_in(workdir)
    subprocess.run(["mount", "-o", "remount,size=60m", str(small_disk)], check=True)
    again = launched(*train(workdir), processes=2, logs=tmp_path / "logs")
    output, _ = again.communicate(timeout=180)
    assert again.returncode == 0, output
    assert "Resuming" in output
    assert digests(workdir) == digests(undisturbed)
