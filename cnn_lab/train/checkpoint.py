"""Checkpoints of a run: saved atomically in the background, checked when read.

Orbax writes the arrays and commits a checkpoint by renaming its folder, so a killed save leaves
the ones before untouched. It does not notice damage that comes later: a flipped byte restores
silently. So every checkpoint holds the SHA-256 of each of its leaves, and a restore that does not
match falls back to the newest one that does. The newest `keep_latest` checkpoints and the best one
are kept.

A checkpoint holds the `TrainState` and a JSON record: what continues the run beside the state
(`progress`), and what is needed to use the weights elsewhere (`about`: class names, normalisation).
"""

import contextlib
import dataclasses
import errno
import functools
import itertools
import logging as std_logging
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import orbax.checkpoint as ocp
from absl import logging

from cnn_lab.core import trees
from cnn_lab.core.errors import CheckpointError
from cnn_lab.core.shapes import Tree
from cnn_lab.train import storable
from cnn_lab.train.state import TrainState

Reader = TypeVar("Reader", bound="CheckpointReader")


@dataclasses.dataclass
class _KeepNewestAndBest:
    """Orbax preservation policy; orbax's own `best_fn` would delete the newest."""

    num_newest: int
    best_step: int | None = None

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any = None) -> list[bool]:  # noqa: ARG002
        newest = {info.step for info in checkpoints[-self.num_newest :]}
        return [info.step in newest or info.step == self.best_step for info in checkpoints]


class CheckpointReader:
    """Reads the checkpoints of one folder and changes nothing there, so that a training may go on.

    Args:
        folder: where they are; a missing one counts as empty.
    """

    def __init__(self, folder: Path):
        self.folder = folder.resolve()

    def __enter__(self: Reader) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _options(self) -> ocp.CheckpointManagerOptions:
        return ocp.CheckpointManagerOptions(read_only=True)

    @functools.cached_property
    def _manager(self) -> ocp.CheckpointManager:
        handlers = {"state": ocp.PyTreeCheckpointHandler(), "record": ocp.JsonCheckpointHandler()}
        with _orbax_quiet():
            return ocp.CheckpointManager(
                self.folder,
                item_names=tuple(handlers),
                item_handlers=handlers,
                options=self._options(),
            )

    def steps(self) -> list[int]:
        """Steps of the checkpoints there are, ascending."""
        return sorted(self._manager.all_steps()) if self.folder.is_dir() else []

    def release(self) -> None:
        """Ends the background threads; `wait` before, to hear of a save that failed."""
        if manager := self.__dict__.pop("_manager", None):
            with contextlib.suppress(Exception), _orbax_quiet():
                manager.close()

    def restore(self, step: int, target: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """Reads one checkpoint and checks every leaf.

        Args:
            step: which one.
            target: shapes, dtypes and shardings of every leaf (`jax.ShapeDtypeStruct`).

        Raises:
            CheckpointError: missing, damaged, or of another model; the message says which leaves.
        """
        record = self.read_record(step)
        values = self._restore_checked(step, record, storable.to_storable(target))
        return storable.from_storable(values), record

    def restore_variables(
        self, step: int, record: dict[str, Any], target: Tree, sharding: jax.sharding.Sharding
    ) -> dict[str, Tree]:
        """Reads the model's variables only: no optimizer is needed to know their shapes.

        Args:
            step: which checkpoint.
            record: what `read_record` returned for it.
            target: shapes of the variables, `params` among them.
            sharding: where they go.

        Raises:
            CheckpointError: as `restore`.
        """
        shapes = storable.sharded_shapes(target, sharding)
        collections = {name: tree for name, tree in shapes.items() if name != "params"}
        wanted = {"params": shapes["params"], "collections": collections}
        values = self._restore_checked(step, record, wanted)
        return {"params": values["params"], **values["collections"]}

    def _restore_checked(self, step: int, record: dict[str, Any], expected: Tree) -> Tree:
        """Restores the items of `expected` and compares every leaf's digest with the record."""
        try:
            with _orbax_quiet():
                found = self._manager.item_metadata(step)["state"]
                found = {name: found[name] for name in expected}
        except Exception as error:
            raise _damaged(self.folder, step, error) from error
        difference = storable.describe_difference(found, expected)
        if difference:
            raise CheckpointError(
                f"Checkpoint {step} in {self.folder} belongs to another model or optimizer:\n"
                f"{difference}\nUse the config that it was made with."
            )
        try:
            with _orbax_quiet():
                arguments = ocp.args.PyTreeRestore(
                    expected,
                    restore_args=ocp.checkpoint_utils.construct_restore_args(expected),
                    partial_restore=True,
                )
                values = self._manager.restore(step, args=ocp.args.Composite(state=arguments))
                values = values["state"]
                digests = trees.digests(values)
        except Exception as error:
            raise _damaged(self.folder, step, error) from error
        changed = [path for path in digests if record["digests"].get(path) != digests[path]]
        if changed:
            raise _damaged(self.folder, step, f"the bytes of {', '.join(changed[:3])} changed")
        return values

    def read_record(self, step: int) -> dict[str, Any]:
        """Reads the JSON record of one checkpoint, or raises a `CheckpointError`."""
        if step not in self.steps():
            raise CheckpointError(
                f"{self.folder} has no checkpoint of step {step}; it has {self.steps() or 'none'}."
            )
        try:
            with _orbax_quiet():
                arguments = ocp.args.Composite(record=ocp.args.JsonRestore())
                record = self._manager.restore(step, args=arguments)["record"]
            if not isinstance(record["digests"], dict):
                raise TypeError("no digests")
        except Exception as error:
            raise _damaged(self.folder, step, error) from error
        return record


class Checkpoints(CheckpointReader):
    """The checkpoints of a training, which alone may write there.

    Args:
        folder: where they are; made by the first save.
        keep_latest: newest checkpoints kept beside the best one.
    """

    def __init__(self, folder: Path, *, keep_latest: int = 2):
        super().__init__(folder)
        self._policy = _KeepNewestAndBest(keep_latest)

    def _options(self) -> ocp.CheckpointManagerOptions:
        return ocp.CheckpointManagerOptions(preservation_policy=self._policy)

    def save(self, state: TrainState, record: dict[str, Any], *, best_step: int | None) -> None:
        """Starts saving; returns once the values are copied, before they are on disk.

        Args:
            state: what to save, under its own step; a step that is saved already is skipped.
            record: JSON values to save with it.
            best_step: step whose checkpoint must be kept.

        Raises:
            CheckpointError: this save was refused, or the one before failed (a full disk, say).
        """
        step = int(jax.device_get(state.step))
        with self._explained():
            if step in self.steps():
                return
            self._policy.best_step = best_step
            values = storable.to_storable(state)
            checked = {**record, "step": step, "digests": trees.digests(values)}
            saved = self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.PyTreeSave(values), record=ocp.args.JsonSave(checked)
                ),
                force=True,
            )
        if not saved:
            raise CheckpointError(
                f"The checkpoint of step {step} was refused: {self.folder} holds a later one."
            )

    def wait(self) -> None:
        """Waits until what was saved is on disk; raises a `CheckpointError` if that failed."""
        with self._explained():
            self._manager.wait_until_finished()

    def restore_newest_good(
        self, target: TrainState, damaged_folder: Path
    ) -> tuple[TrainState, dict[str, Any]] | None:
        """Restores the newest undamaged checkpoint; None when there is none at all.

        Damaged ones are moved to `damaged_folder`, with a warning, so that the run can save over
        their steps.

        Raises:
            CheckpointError: there are checkpoints, but all are damaged.
        """
        steps = self.steps()
        for step in reversed(steps):
            try:
                return self.restore(step, target)
            except DamagedError as error:
                place = _set_aside(self.folder / str(step), damaged_folder)
                logging.warning("%s It was moved to %s; using the one before.", error, place)
                self._manager.reload()
        if steps:
            raise CheckpointError(
                f"All {len(steps)} checkpoints in {self.folder} were damaged and moved to "
                f"{damaged_folder}; start again with another --workdir."
            )
        return None

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            with _orbax_quiet():
                yield
        except (OSError, ValueError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
            raise CheckpointError(
                f"A checkpoint could not be written to {self.folder}: {reason}. What was saved "
                "before is intact; free disk space or permissions, then run the command again."
            ) from error


class DamagedError(CheckpointError):
    """A checkpoint whose files are incomplete or changed."""


def _damaged(folder: Path, step: int, reason: object) -> CheckpointError:
    """What to raise for a checkpoint that could not be read: only its own files make it damaged."""
    if not (folder / str(step)).is_dir():
        return CheckpointError(
            f"Checkpoint {step} was removed from {folder} meanwhile, by a training that saved "
            "newer ones; run the same command again."
        )
    transient = isinstance(reason, OSError) and reason.errno not in (None, errno.ENOENT)
    if transient or isinstance(reason, MemoryError):
        return CheckpointError(
            f"Checkpoint {step} in {folder} cannot be read ({reason!r}); nothing was changed: mend "
            "that, then run the same command again."
        )
    text = textwrap.shorten(str(reason) or repr(reason), 120, placeholder=" ...")
    return DamagedError(f"Checkpoint {step} in {folder} is damaged ({text}).")


def _set_aside(path: Path, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    names = (f"{path.name}-{number}" if number > 1 else path.name for number in itertools.count(1))
    place = next(folder / name for name in names if not (folder / name).exists())
    shutil.move(path, place)
    return place


@contextlib.contextmanager
def _orbax_quiet() -> Iterator[None]:
    """Orbax logs pages for every save and every failure; errors reach the caller anyway."""
    logger = logging.get_absl_logger()
    level = logger.level
    logger.setLevel(std_logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
