"""Checkpoints of a run: saved atomically in the background, checked when read.

Orbax writes the arrays and commits a checkpoint by renaming its folder, so a killed save leaves
the ones before untouched. A checkpoint that was damaged later is noticed by its digests, and a
training falls back to the newest one that is good.

A checkpoint holds the `TrainState` and a JSON record: what continues the run beside the state
(`progress`), and what is needed to use the weights elsewhere (`metadata`: class names,
normalisation).
"""

import contextlib
import dataclasses
import functools
import itertools
import json
import shutil
import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from absl import logging

from cnn_lab.checkpoint import reader
from cnn_lab.checkpoint.reader import RECORD_FILE, CheckpointReader, DamagedError, orbax_quiet
from cnn_lab.core import trees
from cnn_lab.core.errors import CheckpointError, is_out_of_open_files
from cnn_lab.core.files import write_text
from cnn_lab.distributed.processes import SINGLE_PROCESS, Processes, is_loss
from cnn_lab.training.state import TrainState


@dataclasses.dataclass
class _KeepNewestAndBest:
    """Orbax preservation policy; orbax's own `best_fn` would delete the newest."""

    num_newest: int
    best_step: int | None = None

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any = None) -> list[bool]:  # noqa: ARG002
        steps = [info.step for info in checkpoints]
        newest = steps[-self.num_newest :]
        return [step in newest or step == self.best_step for step in steps]


class Checkpoints(CheckpointReader, contextlib.AbstractContextManager["Checkpoints"]):
    """The checkpoints of a training, which alone may write there; the first save makes the folder.

    The `keep_latest` newest ones are kept, and the best one.
    """

    def __init__(
        self, folder: Path, *, keep_latest: int = 2, processes: Processes = SINGLE_PROCESS
    ):
        super().__init__(folder, processes)
        self._policy = _KeepNewestAndBest(keep_latest)

    @functools.cached_property
    def _manager(self) -> ocp.CheckpointManager:
        together = None
        if self._processes.count > 1:
            together = ocp.options.AsyncOptions(barrier_sync_fn=_unless_failed())
        # Every array is written from its first copy, of which the record holds the digest. By
        # default orbax takes a slice of each copy, and decides by the text of JAX_PLATFORMS
        # whether to.
        arrays = ocp.type_handlers.ArrayHandler(use_replica_parallel=False)
        registry = ocp.type_handlers.create_type_handler_registry((jax.Array, arrays))
        states = ocp.PyTreeCheckpointHandler(type_handler_registry=registry)
        handlers = ocp.handlers.DefaultCheckpointHandlerRegistry()
        handlers.add(reader.STATE_FOLDER, ocp.args.PyTreeSave, states)
        handlers.add(RECORD_FILE.parts[0], ocp.args.JsonSave, ocp.JsonCheckpointHandler())
        options = ocp.CheckpointManagerOptions(
            preservation_policy=self._policy, async_options=together
        )
        return ocp.CheckpointManager(self.folder, handler_registry=handlers, options=options)

    def release(self, *_: object) -> None:
        """Ends the background threads; after `wait`, which raises what a save failed of."""
        if manager := vars(self).pop("_manager", None):
            with contextlib.suppress(Exception), orbax_quiet():
                manager.close()

    __exit__ = release

    def save(self, state: TrainState, record: dict[str, Any], *, best_step: int | None) -> None:
        """Starts saving; returns once the values are copied, before they are on disk.

        A step that is saved already is skipped; the checkpoint of `best_step` is kept.

        Raises:
            CheckpointError: this save was refused, or the one before failed (a full disk, say).
        """
        step = int(jax.device_get(state.step))
        with self._writing():
            if step in self._processes.broadcast(list(self._manager.all_steps())):
                return
            self._policy.best_step = best_step
            values = reader.to_storable(state)
            digests = trees.digests(values)
            check_replicas(self._processes, digests, step)
            shapes = reader.shapes_and_dtypes(values)
            checked = {**record, "step": step, "digests": digests, "shapes": shapes}
            checked["sha256"] = reader.record_digest(checked)
            saved = self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.PyTreeSave(values), record=ocp.args.JsonSave(checked)
                ),
                force=True,
            )
        if not saved:
            problem = f"The checkpoint of step {step} was refused: {self.folder} holds a later one."
            raise CheckpointError(problem, where=str(self.folder), found=step)

    def amend(self, step: int, record: dict[str, Any], *, best_step: int | None) -> None:
        """Replaces values in the record of a checkpoint that is on disk, atomically.

        Its state stays; the arguments are those of `save`. Raises a `CheckpointError` where the
        checkpoint cannot be read, or the record not be written.
        """
        amended = {**self.read_record(step), **record}
        amended["sha256"] = reader.record_digest(amended)
        with self._writing():
            if self._processes.is_primary:
                write_text(self.folder / str(step) / RECORD_FILE, json.dumps(amended))
            self._processes.barrier()
            self._policy.best_step = best_step
            infos = [types.SimpleNamespace(step=other) for other in self.steps()]
            for info, kept in zip(infos, self._policy.should_preserve(infos), strict=True):
                if not kept:
                    self._manager.delete(info.step)

    def wait(self) -> None:
        """Waits until what was saved is on disk; raises a `CheckpointError` if that failed."""
        with self._writing():
            self._manager.wait_until_finished()

    def restore_newest_good(
        self, target: Callable[[Mapping[str, Any]], TrainState], damaged_folder: Path
    ) -> tuple[TrainState, dict[str, Any]] | None:
        """Restores the newest undamaged checkpoint; None when there is none at all.

        Once one was found, damaged ones after it are moved to `damaged_folder`, with a warning, so
        that the run can save over their steps.

        Args:
            target: record of a checkpoint -> the target of `restore`.

        Raises:
            CheckpointError: one belongs to another model or cannot be read, or all are damaged;
                nothing was moved.
        """
        steps = self.steps()
        damaged: dict[int, DamagedError] = {}
        for step in reversed(steps):
            try:
                restored = self.restore(step, target(self.read_record(step)))
            except DamagedError as error:
                damaged[step] = error
                continue
            for number, error in damaged.items() if self._processes.is_primary else ():
                place = _set_aside(self.folder / str(number), damaged_folder)
                logging.warning("%s It was moved to %s; using the one before.", error, place)
            if damaged:
                self._processes.barrier()
                self.release()  # it knows the ones that were moved
            return restored
        if steps:
            raise CheckpointError(
                f"All {len(steps)} checkpoints in {self.folder} are damaged, so none was moved "
                f"away; bring back a copy, or start again with another --workdir. The newest: "
                f"{damaged[steps[-1]]}",
                where=str(self.folder),
                found=steps,
            )
        return None

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            with orbax_quiet():
                yield
        except (OSError, ValueError, RuntimeError) as error:
            if self._processes.count > 1 and is_loss(error):
                raise reader.lost("written", error) from error
            reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
            remedy = "free disk space or permissions"
            if is_out_of_open_files(error):
                reason, remedy = "Too many open files", "allow more open files (ulimit -n)"
            raise CheckpointError(
                f"A checkpoint could not be written to {self.folder}: {reason}. What was saved "
                f"before is intact; {remedy}, then run the command again.",
                where=str(self.folder),
                found=reason,
            ) from error


def check_replicas(processes: Processes, digests: Mapping[str, str], step: int) -> None:
    """Raises a `CheckpointError` where copies differ: each process would train on with its own.

    All processes call this, each with path -> digest of every leaf of its copy.
    """
    if len({*processes.all_gather(reader.record_digest(digests))}) == 1:
        return
    first, *others = processes.all_gather(dict(digests))
    for index, other in enumerate(others, start=1):
        for path, digest in first.items():
            if other.get(path) != digest:
                raise CheckpointError(
                    f"After step {step} process {index} has another copy of {path} than process 0, "
                    "so they did not begin or compute alike; give all processes the same files, "
                    "kind of devices and settings (XLA_FLAGS, JAX_...), then start them again: "
                    "what was saved before is intact.",
                    where=path,
                    found=other.get(path),
                )


def _unless_failed() -> Callable[..., None]:
    """Orbax's barrier, at which a process does not wait whose own save has just failed.

    The others never come there. Its error, raised at once, ends them all; otherwise it would be
    raised after the 20 minutes that orbax waits.
    """
    wait = ocp.multihost.get_barrier_sync_fn()

    def meet(*, key: str, timeout_ms: int) -> None:
        if (error := sys.exc_info()[1]) is not None:  # orbax calls this while it tidies up after it
            raise error
        wait(key=key, timeout_ms=timeout_ms)

    return meet


def _set_aside(path: Path, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    names = (f"{path.name}-{number}" if number > 1 else path.name for number in itertools.count(1))
    place = next(folder / name for name in names if not (folder / name).exists())
    shutil.move(path, place)
    return place
