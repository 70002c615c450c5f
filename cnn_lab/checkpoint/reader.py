"""Reads and checks the checkpoints of a run; a training state as plain dicts, as it lies on disk.

Orbax does not notice damage: a flipped byte restores silently. So the JSON record of a checkpoint
holds the shape, dtype and SHA-256 of each leaf of the state, and its own SHA-256. The record is
checked first; what it says of the leaves then tells another model from damage.
"""

import contextlib
import dataclasses
import errno
import gc
import hashlib
import inspect
import json
import logging as std_logging
import os
import re
import sys
import textwrap
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from absl import logging
from etils import epath

from cnn_lab.core import trees
from cnn_lab.core.arrays import Tree
from cnn_lab.core.errors import CheckpointError, LostError, causes
from cnn_lab.core.files import WAIT_FOR_FILES, appears
from cnn_lab.distributed.processes import SINGLE_PROCESS, Processes, is_loss
from cnn_lab.training.state import TrainState

MAX_LINES = 20  # of a list of differences
RECORD_FILE = Path("record", "metadata")  # where orbax puts JSON
STATE_FOLDER = "state"
NEEDED_FILES = (RECORD_FILE, Path(STATE_FOLDER, "_METADATA"))
SPARE_DESCRIPTORS = 8  # orbax breaks in odd ways where it gets none


def describe_difference(found: Tree, expected: Tree) -> str:
    """Lists missing, extra, reshaped and retyped leaves, one a line; empty when the trees agree.

    Args:
        found: leaves with `shape` and `dtype`, as stored.
        expected: likewise, as the model has them.
    """
    old, new = shapes_and_dtypes(found), shapes_and_dtypes(expected)
    lines = [f"  missing in the checkpoint: {p} {new[p][0]}" for p in new if p not in old]
    lines += [f"  only in the checkpoint: {p} {old[p][0]}" for p in old if p not in new]
    for index, kind in enumerate(("shape", "dtype")):
        lines += [
            f"  other {kind}: {p} is {was} in the checkpoint, {new[p][index]} in the model"
            for p in new
            if p in old and (was := old[p][index]) != new[p][index]
        ]
    if len(lines) > MAX_LINES:
        lines = [*lines[:MAX_LINES], f"  ... and {len(lines) - MAX_LINES} more"]
    return "\n".join(lines)


def shapes_and_dtypes(tree: Tree) -> dict[str, tuple[tuple[int, ...], str]]:
    """Returns path -> (shape, dtype) of every leaf."""
    return {
        path: (tuple(leaf.shape), str(leaf.dtype)) for path, leaf in trees.flatten(tree).items()
    }


def to_storable(state: TrainState) -> dict[str, Tree]:
    """The state, or its shapes, as nested plain dicts, keys as their raw data."""
    key = state.key
    if isinstance(key, jax.ShapeDtypeStruct):
        data = jax.eval_shape(jax.random.key_data, key)
        data = jax.ShapeDtypeStruct(data.shape, data.dtype, sharding=key.sharding)
    else:
        data = jax.random.key_data(key)
    values = {f.name: getattr(state, f.name) for f in dataclasses.fields(state)}
    return {**values, "key": data}


class DamagedError(CheckpointError):
    """A checkpoint whose files are incomplete or changed."""


class CheckpointReader:
    """Reads the checkpoints of one folder and changes nothing there, so that a training may go on.

    A missing folder counts as empty. Several processes make the same calls: the primary one lists
    the checkpoints, and what one of them finds damaged is so for all. Nothing waits for another
    process half-way: where one fails alone, all of them still meet at the end of what is read.
    """

    def __init__(self, folder: Path, processes: Processes = SINGLE_PROCESS):
        self.folder = folder.resolve()
        self._processes = processes

    def steps(self) -> list[int]:
        """Steps of the checkpoints that are written whole, ascending, on the primary process."""
        return self._processes.broadcast(self._listed() if self._processes.is_primary else [])

    def _listed(self) -> list[int]:
        try:  # a folder has its own name only once orbax has written it whole
            names = [path.name for path in self.folder.iterdir() if path.is_dir()]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise _unreadable(f"The checkpoints in {self.folder}", self.folder, error) from error
        return sorted(int(name) for name in names if name.isdecimal() and str(int(name)) == name)

    def restore(self, step: int, target: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """Reads the state and the record of one checkpoint and checks every leaf.

        Args:
            step: of the checkpoint.
            target: shapes, dtypes and shardings of every leaf (`jax.ShapeDtypeStruct`).

        Raises:
            DamagedError: its files are incomplete or changed.
            CheckpointError: missing, of another model (the message lists the leaves), or not
                readable for now.
        """
        record = self.read_record(step)
        values = self._restore_checked(step, record, to_storable(target), record["shapes"])
        if (found := int(jax.device_get(values["step"]))) != step:
            raise self._damaged(step, f"its state is that of step {found}")
        key = jax.random.wrap_key_data(values["key"])
        return TrainState(**{**values, "key": key}), record

    def restore_variables(
        self, step: int, record: dict[str, Any], target: Tree, sharding: jax.sharding.Sharding
    ) -> dict[str, Tree]:
        """Reads the variables to evaluate: no optimizer is needed to know their shapes.

        They are the averaged ones where the training kept an average. Raises as `restore`.

        Args:
            record: as `read_record` returned it.
            target: shapes of the variables, `params` among them.
        """
        paths = record["shapes"]
        shapes = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), target
        )
        frozen, changing = trees.partition(shapes, lambda path: f"frozen/{path}" in paths)
        part = {"params": changing.pop("params", {}), "collections": changing}
        averaged = any(path.startswith("averaged/") for path in paths)
        wanted = {**({"averaged": part} if averaged else part), "frozen": frozen}
        stored = {p: s for p, s in paths.items() if p.partition("/")[0] in wanted}
        values = self._restore_checked(step, record, wanted, stored)
        part = values["averaged"] if averaged else values
        return trees.merge({"params": part["params"], **part["collections"]}, values["frozen"])

    def _restore_checked(
        self, step: int, record: dict[str, Any], expected: Tree, stored: Mapping[str, Any]
    ) -> Tree:
        """Restores the items of `expected` and compares every leaf's digest with the record."""
        found = {p: jax.ShapeDtypeStruct(s, jnp.dtype(d)) for p, (s, d) in stored.items()}
        if difference := describe_difference(found, expected):
            raise CheckpointError(
                f"Checkpoint {step} in {self.folder} belongs to another model or optimizer:\n"
                f"{difference}\nUse the config that it was made with.",
                where=str(self.folder / str(step)),
                found=difference,
            )
        with self._reading(step):
            restore_args = ocp.checkpoint_utils.construct_restore_args(expected)
            arguments = ocp.args.PyTreeRestore(
                expected, restore_args=restore_args, partial_restore=True
            )
            with contextlib.closing(ocp.PyTreeCheckpointHandler()) as handler:
                place = epath.Path(self.folder / str(step) / STATE_FOLDER)
                values = handler.restore(place, args=arguments)
        with self._reading(step, needed=()):  # leaves in parts need the other processes for it
            digests = trees.digests(values)
            changed = [path for path in digests if record["digests"].get(path) != digests[path]]
            if changed:
                raise self._damaged(step, f"the bytes of {', '.join(changed[:3])} changed")
        return values

    def read_record(self, step: int) -> dict[str, Any]:
        """Reads and checks the JSON record of one checkpoint, or raises a `CheckpointError`."""
        with self._reading(step):
            record = json.loads((self.folder / str(step) / RECORD_FILE).read_text(encoding="utf-8"))
            if not isinstance(record, dict) or record.get("sha256") != record_digest(record):
                raise self._damaged(step, "its record changed")
            if record["step"] != step:
                raise self._damaged(step, f"its record is that of step {record['step']}")
        return record

    @contextlib.contextmanager
    def _reading(self, step: int, needed: Sequence[Path] = NEEDED_FILES) -> Iterator[None]:
        """Turns what goes wrong while a checkpoint is read into a `CheckpointError`, for all."""
        place = self.folder / str(step)
        wait = 0 if self._processes.is_primary else WAIT_FOR_FILES
        damage = None
        try:
            with orbax_quiet():
                for name in needed:
                    if not appears(place / name, wait):
                        raise FileNotFoundError(f"{name} is missing")
                yield
        except DamagedError as error:
            damage = error
        except Exception as error:
            if not place.is_dir():
                listed = self._listed() or "none"
                raise CheckpointError(
                    f"{self.folder} has no checkpoint of step {step}, but those of "
                    f"{listed} (a training removes old ones as it saves new ones); name one of "
                    "these, or run the same command again.",
                    where=str(self.folder),
                    found=step,
                    allowed=f"one of {listed}",
                ) from error
            if self._processes.count > 1 and is_loss(error):
                raise lost("read", error) from error
            if not _is_damage(error):
                raise _unreadable(f"Checkpoint {step} in {self.folder}", place, error) from error
            damage = self._damaged(step, error)
            damage.__cause__ = error
        found = self._processes.all_gather(None if damage is None else str(damage))
        if damage is not None:
            raise damage
        if text := next(filter(None, found), None):
            raise DamagedError(text, where=str(place))

    def _damaged(self, step: int, reason: object) -> DamagedError:
        text = textwrap.shorten(str(reason) or repr(reason), 120, placeholder=" ...")
        problem = f"Checkpoint {step} in {self.folder} is damaged ({text})."
        return DamagedError(problem, where=str(self.folder / str(step)), found=text)


def lost(done: str, error: Exception) -> LostError:
    """The error of a checkpoint that could not be read or written for want of another process."""
    reason = textwrap.shorten(str(error).partition("\n")[0], 120, placeholder=" ...")
    return LostError(
        f"Another process did not answer while a checkpoint was {done} ({reason}); what was saved "
        "before is intact: start all processes again to go on from there.",
        found=done,
    )


def record_digest(record: Mapping[str, Any]) -> str:
    """SHA-256 of a record's values but `sha256`, however they are laid out in the file."""
    rest = {name: value for name, value in record.items() if name != "sha256"}
    plain = json.loads(json.dumps(rest))  # what comes back: lists for tuples, text for keys
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _is_damage(error: Exception) -> bool:
    """Whether only the checkpoint's own files can be at fault: not memory, disk or permissions."""
    if _refusal(error) is not None:
        return False
    if isinstance(error, FileNotFoundError | json.JSONDecodeError | UnicodeDecodeError):
        return True
    # Tensorstore has no exceptions of its own, and orbax wraps what it raises.
    text = "\n".join(str(found) for found in causes(error) if isinstance(found, ValueError))
    kind = re.search(r"^(DATA_LOSS|OUT_OF_RANGE|NOT_FOUND): ", text, re.M)
    refused = re.search(rf"\bOS error (?!{errno.ENOENT}\b)|Allocation error|bad_alloc", text)
    undone = re.search("Error decoding|Truncated Zstd-compressed stream", text)
    return bool(kind or undone) and not refused


def _refusal(error: Exception) -> OSError | None:
    """The system's refusal among an error and its causes, None without one."""
    for found in causes(error):
        if isinstance(found, OSError) and found.errno not in (None, errno.ENOENT):
            return found
    return None


def _unreadable(what: str, place: Path, error: Exception) -> CheckpointError:
    refusal = _refusal(error)
    text = textwrap.shorten(repr(refusal or error), 200, placeholder=" ...")
    remedy = "mend that" if refusal else "mend that, or move it away"
    return CheckpointError(
        f"{what} cannot be read ({text}); nothing was changed: {remedy}, then run the same command "
        "again.",
        where=str(place),
        found=text,
    )


@contextlib.contextmanager
def orbax_quiet() -> Iterator[None]:
    """Orbax logs pages for every save and every failure; errors reach the caller anyway.

    Where one of many reads fails, those beside it are dropped half-way, and complain one by one.
    Raises an `OSError` where too few files can still be opened.
    """

    def complain(found: Any) -> None:
        if not inspect.iscoroutine(found.object):
            complain_before(found)

    with contextlib.ExitStack() as spare:
        for _ in range(SPARE_DESCRIPTORS):
            spare.callback(os.close, os.open(os.devnull, os.O_RDONLY))
    logger = logging.get_absl_logger()
    level, complain_before = logger.level, sys.unraisablehook
    logger.setLevel(std_logging.CRITICAL)
    sys.unraisablehook = complain
    try:
        yield
    except Exception as error:
        for found in causes(error):
            traceback.clear_frames(found.__traceback__)  # which hold reads
        gc.collect()
        raise
    finally:
        logger.setLevel(level)
        sys.unraisablehook = complain_before
