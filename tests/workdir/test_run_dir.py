"""The folder of a run: held by one process, and gone again when nothing came of it."""

import errno
import fcntl
import json
import math
import shlex
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from refusals import refused

from cnn_lab.config import ExperimentConfig
from cnn_lab.core.errors import WorkdirError
from cnn_lab.workdir import run_dir
from cnn_lab.workdir.run_dir import (
    LOCK_FILE,
    RunDir,
    count_test_opening,
    environment,
    read_config,
    read_record,
)

OCCUPIED = "a new or empty folder, or that of a run"
IN_USE = "a folder that no other run uses"


def test_a_folder_made_for_nothing_is_removed_with_the_ones_above(tmp_path: Path):
    folder = RunDir(tmp_path / "runs" / "mnist" / "a", ExperimentConfig())
    assert folder.path.is_dir()
    folder.release()
    assert not list(tmp_path.iterdir())


def test_only_empty_folders_of_ones_own_are_removed(tmp_path: Path):
    path = tmp_path / "runs" / "a"
    folder = RunDir(path, ExperimentConfig())
    (tmp_path / "runs" / "notes").touch()
    folder.release()
    assert [p.name for p in (tmp_path / "runs").iterdir()] == ["notes"]
    path.mkdir()
    RunDir(path, ExperimentConfig()).release()
    assert path.is_dir()  # it was there before


def test_what_a_run_or_a_user_put_there_stays(tmp_path: Path):
    claimed = RunDir(tmp_path / "claimed", ExperimentConfig())
    claimed.claim(ExperimentConfig())
    claimed.release()
    assert read_config(tmp_path / "claimed") == ExperimentConfig()
    used = RunDir(tmp_path / "used", ExperimentConfig())
    (tmp_path / "used" / "notes").touch()
    used.release()
    assert (tmp_path / "used" / "notes").exists()
    RunDir(tmp_path / "claimed", ExperimentConfig()).release()  # free again


def test_a_log_may_wait_in_the_folder_and_nothing_else(tmp_path: Path):
    (tmp_path / "job-17.out").touch()
    RunDir(tmp_path, ExperimentConfig()).release()
    (tmp_path / "photo.jpg").touch()
    with refused(WorkdirError, where="--workdir", found=str(tmp_path), allowed=OCCUPIED):
        RunDir(tmp_path, ExperimentConfig())


def test_a_folder_in_use_is_left_to_its_user(tmp_path: Path):
    first = RunDir(tmp_path / "a", ExperimentConfig())
    with refused(WorkdirError, where="--workdir", found=str(tmp_path / "a"), allowed=IN_USE):
        RunDir(tmp_path / "a", ExperimentConfig())
    assert (tmp_path / "a" / LOCK_FILE).exists()
    first.release()


def test_a_lock_that_its_owner_removed_holds_nothing(tmp_path: Path, monkeypatch):
    """Between opening the lock and holding it, the one who held it removes the folder."""
    path, flock, owner = tmp_path / "a", fcntl.flock, RunDir(tmp_path / "a", ExperimentConfig())
    release = [owner.release]

    def late(file, operation):
        while release:
            release.pop()()
        flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    folder = RunDir(path, ExperimentConfig())
    with refused(WorkdirError, where="--workdir", found=str(path), allowed=IN_USE):
        RunDir(path, ExperimentConfig())
    folder.release()


def test_a_file_system_without_locks_is_no_folder_in_use(tmp_path: Path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)
    folder = RunDir(tmp_path / "run", ExperimentConfig())
    folder.update_record(status="running")
    assert read_record(folder.path)["status"] == "running"
    folder.release()


@pytest.mark.parametrize("text", ["null", "[1]", '{"status": '])
def test_a_damaged_record_counts_as_none(tmp_path: Path, text: str):
    (tmp_path / "run.json").write_text(text)
    assert read_record(tmp_path) == {}


def test_a_training_and_evaluations_lose_none_of_each_others_records(tmp_path: Path):
    folder = RunDir(tmp_path / "run", ExperimentConfig())
    folder.claim(ExperimentConfig())
    opening = threading.Thread(
        target=lambda: [count_test_opening(folder.path, {"loss": 0.5}) for _ in range(30)]
    )
    opening.start()
    for step in range(30):
        folder.update_record(last=step)
    opening.join()
    record = read_record(folder.path)
    assert len(record["test_openings"]) == 30
    assert record["last"] == 29
    folder.release()


def test_a_test_metric_that_is_not_finite_is_recorded_as_null(tmp_path: Path):
    assert count_test_opening(tmp_path, {"step": 3, "loss": math.nan}) == 1
    entry = json.loads((tmp_path / "run.json").read_text(), parse_constant=pytest.fail)
    assert entry["test_openings"][0]["loss"] is None


def test_hidden_files_are_no_reason_to_refuse_a_folder(tmp_path: Path):
    (tmp_path / ".gitkeep").touch()
    RunDir(tmp_path, ExperimentConfig()).release()
    (tmp_path / "photo.png").touch()
    before = {path.name for path in tmp_path.iterdir()}
    with pytest.raises(WorkdirError, match=r"no run: it holds photo\.png"):
        RunDir(tmp_path, ExperimentConfig())
    assert {path.name for path in tmp_path.iterdir()} == before


def test_only_a_folder_without_any_checkpoint_takes_another_config(tmp_path: Path):
    other = ExperimentConfig(seed=1)
    first = RunDir(tmp_path, ExperimentConfig())
    first.claim(ExperimentConfig())
    first.update_record(status="failed", fingerprint="of other data")
    first.release()
    again = RunDir(tmp_path, ExperimentConfig())
    again.claim(ExperimentConfig())
    assert read_record(tmp_path)["status"] == "failed"  # the same run, which goes on
    again.release()
    second = RunDir(tmp_path, other)
    assert second.fresh
    second.claim(other)
    assert read_record(tmp_path) == {}
    second.release()
    (tmp_path / "damaged_checkpoints" / "18-2").mkdir(parents=True)
    allowed = "a new folder, or that of a run with the same config"
    with refused(WorkdirError, where="--workdir", found=str(tmp_path), allowed=allowed):
        RunDir(tmp_path, ExperimentConfig())


@pytest.mark.parametrize(("used", "text"), [(4, "4 cpu devices"), (1, "1 of 4 cpu devices")])
def test_devices_in_words(used: int, text: str):
    assert run_dir.devices_in_words(used) == text


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with one commit, which ignores `site`."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    (tmp_path / ".gitignore").write_text("site/\n")
    for folder in (tmp_path / "site", tmp_path / "own"):
        folder.mkdir()
        (folder / "module.py").touch()
    identity = ("-c", "user.name=A", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false")
    for command in (("init", "-q"), ("add", "."), (*identity, "commit", "-q", "-m", "first")):
        subprocess.run(["git", *command], cwd=tmp_path, check=True, capture_output=True)
    return tmp_path


def test_only_a_tracked_file_has_a_revision(repository: Path, monkeypatch):
    def state_of(name: str) -> dict | None:
        monkeypatch.setattr(run_dir, "__file__", str(repository / name))
        return environment()["git"]

    tracked = state_of("own/module.py")
    assert tracked is not None
    assert (len(tracked["sha"]), tracked["dirty"]) == (40, False)
    assert state_of("site/module.py") is None
    assert state_of("own/absent.py") is None
    (repository / "own" / "notes.txt").touch()
    assert state_of("own/module.py") == tracked
    (repository / "own" / "module.py").write_text("changed")
    assert state_of("own/module.py") == {**tracked, "dirty": True}


def test_the_recorded_command_can_be_given_to_a_shell(monkeypatch):
    command = ["cnn-lab", "train", "--config=my runs/a.py", "--config.data.name=folder:it's"]
    monkeypatch.setattr(sys, "argv", command)
    assert shlex.split(environment()["command"]) == command
