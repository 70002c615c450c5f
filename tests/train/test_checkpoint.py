"""Checkpoints, and a reader of them that leaves a live training alone."""

import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
import pytest

from cnn_lab.core.errors import CheckpointError
from cnn_lab.train.checkpoint import CheckpointReader, Checkpoints, DamagedError
from cnn_lab.train.mesh import make_mesh, replicated
from cnn_lab.train.state import TrainState
from cnn_lab.train.storable import sharded_shapes

# Orbax leaves a thread of a failed restore behind, which Python mentions when it is collected.
leftovers = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def state_of(step: int, dtype=jnp.float32) -> TrainState:
    params = {"dense": {"kernel": jnp.full((4, 300), step, dtype)}}
    optimizer = optax.sgd(0.1)
    state = TrainState(
        step=jnp.asarray(step, jnp.int32),
        params=params,
        collections={},
        opt_state=optimizer.init(params),
        key=jax.random.key(0),
    )
    return jax.device_put(state, replicated(make_mesh(1)))


def target_of(state: TrainState) -> TrainState:
    return sharded_shapes(jax.eval_shape(lambda: state), replicated(make_mesh(1)))


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
    with CheckpointReader(path) as reader, Checkpoints(path) as checkpoints:
        assert reader.steps() == checkpoints.steps() == []
        assert checkpoints.restore_newest_good(target_of(state_of(0)), tmp_path / "bad") is None
        assert not list(tmp_path.iterdir())
        checkpoints.save(state_of(5), {}, best_step=5)
        checkpoints.wait()
        assert reader.steps() == checkpoints.steps() == [5]


@leftovers
def test_a_reader_changes_nothing_not_even_damage(folder: Path):
    flip(folder / "3")
    (folder / "4.orbax-checkpoint-tmp").mkdir()  # a save that goes on
    before = tree(folder.parent)
    with CheckpointReader(folder) as reader:
        assert reader.steps() == [1, 2, 3]
        state, record = reader.restore(2, target_of(state_of(0)))
        assert (int(state.step), record["note"]) == (2, 2)
        with pytest.raises(DamagedError, match=r"Checkpoint 3 in .* is damaged"):
            reader.restore(3, target_of(state_of(0)))
    assert tree(folder.parent) == before


def test_a_reader_reads_while_a_training_saves(folder: Path):
    with Checkpoints(folder, keep_latest=1) as training, CheckpointReader(folder) as reader:
        assert reader.steps() == [1, 2, 3]
        training.save(state_of(4), {}, best_step=3)
        training.wait()
        assert reader.read_record(3)["note"] == 3
        with pytest.raises(CheckpointError, match=r"Checkpoint 2 was removed from .* meanwhile"):
            reader.read_record(2)
        assert training.steps() == [3, 4]


def test_a_reader_is_released_when_an_error_occurs(folder: Path):
    reader = CheckpointReader(folder)
    with pytest.raises(CheckpointError, match="has no checkpoint of step 9"), reader:
        reader.read_record(9)
    assert "_manager" not in vars(reader)


def test_another_dtype_is_another_model_and_no_damage(folder: Path):
    target = target_of(state_of(0, jnp.bfloat16))
    with Checkpoints(folder) as checkpoints:
        with pytest.raises(CheckpointError, match="belongs to another model") as caught:
            checkpoints.restore_newest_good(target, folder.parent / "damaged")
        assert checkpoints.steps() == [1, 2, 3]
    line = "other dtype: params/dense/kernel is float32 in the checkpoint, bfloat16 in the model"
    assert line in str(caught.value)
    assert not (folder.parent / "damaged").exists()


@leftovers
def test_the_training_itself_sets_damage_aside(folder: Path):
    flip(folder / "3")
    shutil.copytree(folder / "3", folder.parent / "damaged" / "3")
    with Checkpoints(folder) as checkpoints:
        restored = checkpoints.restore_newest_good(
            target_of(state_of(0)), folder.parent / "damaged"
        )
        assert restored is not None
        assert int(restored[0].step) == 2
        assert checkpoints.steps() == [1, 2]
    assert {path.name for path in (folder.parent / "damaged").iterdir()} == {"3", "3-2"}
