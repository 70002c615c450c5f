"""Checkpoints, and a reader of them that leaves a live training alone."""

import asyncio
import dataclasses
import errno
import json
import resource
import shutil
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
import orbax.checkpoint as ocp
import pytest
from refusals import refused
from strict import leftovers

from cnn_lab.checkpoint import reader
from cnn_lab.checkpoint.reader import CheckpointReader, DamagedError, orbax_quiet
from cnn_lab.checkpoint.writer import Checkpoints
from cnn_lab.core import trees
from cnn_lab.core.arrays import Tree
from cnn_lab.core.errors import CheckpointError, LostError
from cnn_lab.distributed.mesh import make_mesh
from cnn_lab.distributed.processes import Processes
from cnn_lab.training.state import TrainState


def state_of(step: int, dtype=jnp.float32) -> TrainState:
    params = {"dense": {"kernel": jnp.full((4, 300), step, dtype)}}
    optimizer = optax.sgd(0.1)
    state = TrainState(
        step=jnp.asarray(step, jnp.int32),
        params=params,
        collections={},
        averaged={},
        opt_state=optimizer.init(params),
        key=jax.random.key(0),
    )
    return jax.device_put(state, make_mesh(1).replicated)


def target_of(state: TrainState) -> TrainState:
    return make_mesh(1).with_shardings(jax.eval_shape(lambda: state))


def target_of_step_0(_record):
    return target_of(state_of(0))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Checkpoints of the steps 1, 2 and 3."""
    with Checkpoints(tmp_path / "checkpoints", keep_latest=3) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(state_of(step), {"note": step}, best_step=None)
        checkpoints.wait()
    return tmp_path / "checkpoints"


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    """Every path below a folder with its size and time of change."""
    return {str(p): (p.stat().st_size, p.stat().st_mtime_ns) for p in sorted(folder.rglob("*"))}


def flip(step_folder: Path) -> None:
    for file in step_folder.glob("state/**/d/*"):
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 0x10
        file.write_bytes(content)


def test_a_missing_folder_is_empty_and_is_made_by_the_first_save(tmp_path: Path):
    path = tmp_path / "checkpoints"
    reader = CheckpointReader(path)
    with Checkpoints(path) as checkpoints:
        assert reader.steps() == checkpoints.steps() == []
        assert checkpoints.restore_newest_good(target_of_step_0, tmp_path / "bad") is None
        assert not list(tmp_path.iterdir())
        checkpoints.save(state_of(5), {}, best_step=5)
        checkpoints.wait()
        assert reader.steps() == checkpoints.steps() == [5]


@leftovers
def test_a_reader_changes_nothing_not_even_damage(folder: Path):
    flip(folder / "3")
    (folder / "4.orbax-checkpoint-tmp").mkdir()  # a save that goes on
    before = tree(folder.parent)
    reader = CheckpointReader(folder)
    assert reader.steps() == [1, 2, 3]
    state, record = reader.restore(2, target_of(state_of(0)))
    assert (int(state.step), record["note"]) == (2, 2)
    with refused(DamagedError, where=str(folder / "3")):
        reader.restore(3, target_of(state_of(0)))
    assert tree(folder.parent) == before


def test_copies_under_other_names_are_no_checkpoints(folder: Path):
    for name in ("best_700", "007", "8.copy"):
        shutil.copytree(folder / "3", folder / name)
    assert CheckpointReader(folder).steps() == Checkpoints(folder).steps() == [1, 2, 3]


def test_a_reader_reads_while_a_training_saves(folder: Path):
    reader = CheckpointReader(folder)
    with Checkpoints(folder, keep_latest=1) as training:
        assert reader.steps() == [1, 2, 3]
        training.save(state_of(4), {}, best_step=3)
        training.wait()
        assert reader.read_record(3)["note"] == 3
        with refused(CheckpointError, where=str(folder), found=2, allowed="one of [3, 4]"):
            reader.read_record(2)
        assert reader.steps() == training.steps() == [3, 4]


def test_another_dtype_is_another_model_and_no_damage(folder: Path):
    target = target_of(state_of(0, jnp.bfloat16))
    with Checkpoints(folder) as checkpoints:
        with pytest.raises(CheckpointError) as caught:
            checkpoints.restore_newest_good(lambda _: target, folder.parent / "damaged")
        assert checkpoints.steps() == [1, 2, 3]
    assert caught.value.where == str(folder / "3")
    line = "other dtype: params/dense/kernel is float32 in the checkpoint, bfloat16 in the model"
    assert line in caught.value.found
    assert not (folder.parent / "damaged").exists()


@leftovers
def test_the_training_itself_sets_damage_aside(folder: Path):
    flip(folder / "3")
    shutil.copytree(folder / "3", folder.parent / "damaged" / "3")
    with Checkpoints(folder) as checkpoints:
        restored = checkpoints.restore_newest_good(target_of_step_0, folder.parent / "damaged")
        assert restored is not None
        assert int(restored[0].step) == 2
        assert checkpoints.steps() == [1, 2]
    assert {path.name for path in (folder.parent / "damaged").iterdir()} == {"3", "3-2"}


def test_what_another_process_finds_damaged_is_so_here(folder: Path):
    class Pair(Processes):
        """Of which the second one cannot read what this one can, the first time."""

        count, reads = 2, 0

        def all_gather(self, value):
            self.reads += value is None
            text = "Checkpoint 3 in /elsewhere is damaged (half of it)."
            return [value, text if value is None and self.reads == 1 else value]

    with Checkpoints(folder, processes=Pair()) as checkpoints:
        restored = checkpoints.restore_newest_good(target_of_step_0, folder.parent / "damaged")
        assert restored is not None
        assert int(restored[0].step) == 2
    assert [path.name for path in (folder.parent / "damaged").iterdir()] == ["3"]


def test_copies_that_differ_are_refused_before_they_are_saved(folder: Path):
    """Files and digests would be of different ones, and no checkpoint of the run could be read."""

    class Drifted(Processes):
        """Of which the second one holds another copy of a leaf."""

        count = 2

        def all_gather(self, value):
            if isinstance(value, dict):
                return [value, {**value, "params/dense/kernel": "0"}]
            return [value, f"{value}, other" if isinstance(value, str) else value]

    with (
        Checkpoints(folder, processes=Drifted()) as checkpoints,
        refused(CheckpointError, where="params/dense/kernel", found="0"),
    ):
        checkpoints.save(state_of(4), {}, best_step=None)
    assert CheckpointReader(folder).steps() == [1, 2, 3]


def test_another_process_that_is_gone_is_no_full_disk(folder: Path, monkeypatch):
    class Two(Processes):
        count = 2

        def all_gather(self, value):
            return [value, value]

    def fail(*_: object) -> None:
        raise jax.errors.JaxRuntimeError("UNKNOWN: Gloo all-reduce failed: Connection closed")

    monkeypatch.setattr(trees, "digests", fail)
    with Checkpoints(folder, processes=Two()) as checkpoints:
        with refused(LostError, found="written"):
            checkpoints.save(state_of(4), {}, best_step=None)
        with refused(LostError, found="read"):
            checkpoints.restore_newest_good(target_of_step_0, folder.parent / "damaged")


class WithAverage(TrainState):
    """A state of a later version, with one field more."""

    average: Tree = None


def with_average(average: bool) -> TrainState:
    state = state_of(0)
    values = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    return target_of(WithAverage(**values, average=state.params if average else None))


def test_a_new_field_is_another_optimizer_and_no_damage(folder: Path):
    before = tree(folder)
    with Checkpoints(folder) as checkpoints:
        with pytest.raises(CheckpointError, match="belongs to another model") as caught:
            checkpoints.restore_newest_good(lambda _: with_average(True), folder.parent / "damaged")
        assert not isinstance(caught.value, DamagedError)
    assert caught.value.where == str(folder / "3")
    assert "missing in the checkpoint: average/dense/kernel (4, 300)" in caught.value.found
    assert tree(folder) == before
    assert not (folder.parent / "damaged").exists()


REFUSED = [
    jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 12 GB"),
    MemoryError(),
    OSError(errno.EIO, "Input/output error"),
    OSError(errno.EMFILE, "Too many open files"),
    PermissionError(errno.EACCES, "Permission denied"),
    KeyError("ema"),
    ValueError("UNKNOWN: Error reading local file [OS error 5: EIO Input/output error]"),
    ValueError("NOT_FOUND: Error reading local file [OS error 6: ENXIO No such device]"),
    ValueError("Error decoding manifest: ZSTD_decompressStream() failed: Allocation error"),
]


@pytest.mark.parametrize("item", ["record", "state"])
@pytest.mark.parametrize("error", REFUSED, ids=lambda error: repr(error)[:40])
def test_what_the_machine_refuses_is_no_damage(folder: Path, error, item: str, monkeypatch):
    before = tree(folder)

    def refuse(*_: object, **__: object) -> None:  # a machine, not the thing tested
        raise error

    owner, name = {
        "record": (reader.json, "loads"),
        "state": (ocp.PyTreeCheckpointHandler, "restore"),
    }[item]
    monkeypatch.setattr(owner, name, refuse)
    with Checkpoints(folder) as checkpoints:
        with pytest.raises(CheckpointError) as caught:
            checkpoints.restore_newest_good(target_of_step_0, folder.parent / "damaged")
        assert not isinstance(caught.value, DamagedError)
        assert "nothing was changed" in str(caught.value)
        assert caught.value.where == str(folder / "3")
        assert repr(error)[:30] in caught.value.found
    assert tree(folder) == before
    assert not (folder.parent / "damaged").exists()


def test_few_files_that_may_be_opened_are_no_damage(folder: Path):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with Checkpoints(folder) as checkpoints:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            with pytest.raises(CheckpointError) as caught:
                checkpoints.restore_newest_good(target_of_step_0, folder.parent / "damaged")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert "Too many open files" in caught.value.found
        assert "\n" not in str(caught.value)
        assert checkpoints.steps() == [1, 2, 3]


def test_a_save_that_may_open_too_few_files_says_how_to_allow_more(folder: Path):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with Checkpoints(folder) as checkpoints:
        checkpoints.steps()
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            with pytest.raises(CheckpointError, match="ulimit") as caught:
                checkpoints.save(state_of(4), {"note": 4}, best_step=None)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        error = caught.value
        assert (error.where, error.found) == (str(folder), "Too many open files")
        assert checkpoints.steps() == [1, 2, 3]


def harm(step_folder: Path, how: str) -> None:
    record = step_folder / "record" / "metadata"
    if how == "a digit of the record":
        record.write_text(record.read_text().replace('"note": 3', '"note": 8'))
    elif how == "no digest of the record":
        values = json.loads(record.read_text())
        del values["sha256"]
        record.write_text(json.dumps(values))
    elif how == "half a record":
        record.write_text(record.read_text()[:100])
    elif how == "no record":
        shutil.rmtree(record.parent)
    elif how == "no metadata":
        (step_folder / "state" / "_METADATA").unlink()
    elif how == "another step's":
        shutil.rmtree(step_folder)
        shutil.copytree(step_folder.with_name("1"), step_folder)
    elif how == "another step's state":
        shutil.rmtree(step_folder / "state")
        shutil.copytree(step_folder.with_name("1") / "state", step_folder / "state")
    for file in step_folder.glob("state/**/d/*"):
        if how == "half the data":
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        elif how == "no data":
            file.unlink()
        elif how == "a bit of the data":
            flip(step_folder)
            return


HARMS = ["a digit of the record", "no digest of the record", "half a record", "no record"]
HARMS += ["no metadata", "another step's", "another step's state"]
HARMS += ["half the data", "no data", "a bit of the data"]


@leftovers
@pytest.mark.parametrize("how", HARMS)
def test_every_kind_of_damage_is_noticed(folder: Path, how: str):
    harm(folder / "3", how)
    with Checkpoints(folder) as checkpoints:
        with refused(DamagedError, where=str(folder / "3")):
            checkpoints.restore(3, target_of(state_of(0)))
        restored = checkpoints.restore_newest_good(target_of_step_0, folder.parent / "damaged")
        assert restored is not None
        assert restored[1]["note"] == 2
        checkpoints.save(state_of(3), {"note": 3}, best_step=None)
        checkpoints.wait()
        assert checkpoints.restore(3, target_of(state_of(0)))[1]["note"] == 3


def test_reads_that_are_dropped_half_way_say_nothing_and_other_mistakes_still_do(monkeypatch):
    told = []
    monkeypatch.setattr(sys, "unraisablehook", lambda found: told.append(str(found.exc_value)))

    class Unlucky:
        def __del__(self):
            raise ValueError("of something else")

    async def read():
        try:
            await asyncio.sleep(0)
        except BaseException:
            raise ValueError("of a read") from None

    def fail():
        reading = read()
        reading.send(None)
        raise FileNotFoundError(str(reading))

    with pytest.raises(FileNotFoundError), orbax_quiet():
        fail()
    assert not told
    with orbax_quiet():
        Unlucky()
    assert told == ["of something else"]


@leftovers
def test_where_all_are_damaged_none_is_moved(folder: Path):
    for step in (1, 2, 3):
        flip(folder / str(step))
    before = tree(folder)
    with (
        Checkpoints(folder) as checkpoints,
        refused(CheckpointError, where=str(folder), found=[1, 2, 3]),
    ):
        checkpoints.restore_newest_good(target_of_step_0, folder.parent / "damaged")
    assert tree(folder) == before
    assert not (folder.parent / "damaged").exists()


def test_a_record_is_amended_beside_its_state(folder: Path):
    with Checkpoints(folder, keep_latest=1) as checkpoints:
        checkpoints.amend(3, {"note": "evaluated", "values": (1, 2.5)}, best_step=1)
        assert checkpoints.steps() == [1, 3]
        state, record = checkpoints.restore(3, target_of(state_of(0)))
        assert int(state.step) == 3
        assert (record["note"], record["values"]) == ("evaluated", [1, 2.5])
