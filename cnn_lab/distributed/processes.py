"""The processes of a training: one alone, or several that make the same calls.

Several train as one by JAX's distributed runtime; each holds a part of the devices. The runtime's
service, which lives in the first process, ends all of them when one no longer sends heartbeats
(`initialize`), and has a key-value store, by which they exchange JSON outside of compiled programs.

`Processes` exchange values and end together, `check_same...` compare what all must have alike, and
`Consensus` is their agreement inside the compiled programs of a training.
"""

import contextlib
import faulthandler
import hashlib
import itertools
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import jax
import numpy as np
from jax._src import distributed  # the key-value store has no public name; orbax takes it here too

from cnn_lab.core.arrays import Tree
from cnn_lab.core.errors import LOST_STATUS, ConfigError, causes, explain_system_error
from cnn_lab.distributed.mesh import DeviceMesh

WAIT_SECONDS = 3600.0  # for the others outside the training's calls: one may be preparing data
POLL_SECONDS = 0.5  # between two checks for the end of another process
TIDY_SECONDS = 1.5  # to find the same mistake and clean up, when another process has ended with one
VERDICT_SECONDS = 3.0  # for another process's end to be known, from which an error may follow
LEAVE_SECONDS = 3.0  # for all processes to be about to end
BUG_STATUS = 1
STORE, VERDICT = "cnn_lab", "cnn_lab/verdict"  # prefixes of keys
_rounds = itertools.count()  # of values gathered by this process
_ending = threading.Lock()  # held by the thread that ends this process


class Processes:
    """The processes of a training, seen from one of them.

    Attributes:
        index: of this one, from 0.
        count: of all.
    """

    index, count = 0, 1

    @property
    def is_primary(self) -> bool:
        """Whether this is the one that writes what is written once."""
        return self.index == 0

    def all_gather(self, value: Any) -> list[Any]:
        """JSON values of all processes, in their order."""
        return [value]

    def broadcast(self, value: Any) -> Any:
        """The JSON value of the first process; that of the others is ignored."""
        return self.all_gather(value)[0]

    def barrier(self) -> None:
        """Waits until all processes are here."""
        self.all_gather(None)

    def abort(self, reason: str) -> NoReturn:
        """Ends this process, and with it all others, because nothing goes on; prints the reason."""
        _complain(f"error: {reason}\n")
        os._exit(LOST_STATUS)


class JaxProcesses(Processes):
    """The processes that share JAX's distributed runtime."""

    def __init__(self) -> None:
        self.index, self.count = jax.process_index(), jax.process_count()
        self._left = threading.Event()

    def all_gather(self, value: Any) -> list[Any]:
        """JSON values of all processes, in their order; ends them if one never comes."""
        store = _store()
        # Two places in turn: whoever writes the third value knows that all have read the first.
        place = f"{STORE}/gathered/{next(_rounds) % 2}"
        store.key_value_set(f"{place}/{self.index}", json.dumps(value), allow_overwrite=True)
        try:
            store.wait_at_barrier(f"{STORE}/gathered", int(WAIT_SECONDS * 1000))
        except jax.errors.JaxRuntimeError as error:
            if not str(error).startswith("DEADLINE_EXCEEDED"):
                raise
            faulthandler.dump_traceback(file=sys.__stderr__ or 2, all_threads=True)
            self.abort(
                f"process {self.index} of {self.count} has waited {WAIT_SECONDS:.0f} s for another "
                "one (the stacks above say where); look at the others' logs, then start all "
                "processes again to go on from what was saved."
            )
        values = {key.rpartition("/")[2]: text for key, text in store.key_value_dir_get(place)}
        return [json.loads(values[str(index)]) for index in range(self.count)]

    def abort(self, reason: str) -> NoReturn:
        """Ends this process, and with it all others, because nothing goes on."""
        self.end(f"error: {reason}\n", reason, LOST_STATUS)

    def leave(self) -> None:
        """Ends the watch when all processes have come to a good end."""
        self.barrier()
        self._left.set()

    def end(self, message: str, reason: str, status: int, *, follows: bool = False) -> NoReturn:
        """Ends this process with a message, and all others with the reason; all with this status.

        An end that `follows` may come from that of another process, whose reason is awaited.
        """
        if follows:
            time.sleep(VERDICT_SECONDS)
        if not _ending.acquire(blocking=False):
            threading.Event().wait()  # another thread is about to end the process
        with contextlib.suppress(OSError):  # nobody reads it
            sys.stdout.flush()
        _complain(message)
        store = _store()
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # another one's end stands there
            store.key_value_set(f"{VERDICT}/first", json.dumps([self.index, reason, status]))
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # not all know, or some are gone
            store.wait_at_barrier(f"{STORE}/ended", int(LEAVE_SECONDS * 1000))
        if self.is_primary:  # JAX's runtime goes with it, and aborts processes that are still here
            time.sleep(POLL_SECONDS)
        os._exit(status)

    def end_after(self, error: Exception) -> NoReturn:
        """Ends this process, and all others, after an error that is no mistake of the user's."""
        line = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        if is_loss(error):
            reason = (
                f"another one of {self.count} processes is gone, or devices failed ({line}); what "
                "was saved before is intact: start all processes again to go on from there."
            )
            self.end(f"error: {reason}\n", reason, LOST_STATUS, follows=True)
        self.end("".join(traceback.format_exception(error)), line, BUG_STATUS, follows=True)

    def watch(self) -> None:
        """Ends this process too, with the reason, when another one ends; for a thread.

        A compiled program's collective may otherwise wait for that one until its heartbeats fail,
        and then JAX's runtime ends this process without the reason.
        """
        found = []
        while not found:
            if self._left.wait(POLL_SECONDS):
                return
            try:
                found = _store().key_value_dir_get(VERDICT)
            except jax.errors.JaxRuntimeError:  # the first process is gone: JAX ends this one
                return
        index, reason, status = json.loads(found[0][1])
        time.sleep(TIDY_SECONDS)
        if not self._left.is_set():
            message = f"error: process {index} of {self.count} ended: {reason}\n"
            self.end(message, reason, status)


SINGLE_PROCESS = Processes()


def current_processes() -> Processes:
    """The processes that have joined, for callers that are given none; else `SINGLE_PROCESS`."""
    return JaxProcesses() if jax.distributed.is_initialized() else SINGLE_PROCESS


def is_loss(error: BaseException) -> bool:
    """Whether devices failed, as those of one of several processes do for want of another.

    Not so where memory is short, or a program cannot be compiled: that strikes all alike.
    """
    failed = [
        cause
        for cause in causes(error)
        if isinstance(cause, jax.errors.JaxRuntimeError)
        or (isinstance(cause, ValueError) and "Gloo" in str(cause))  # CPUs' collectives
    ]
    alike = any(str(e).startswith(("INVALID_ARGUMENT", "UNIMPLEMENTED")) for e in failed)
    return bool(failed) and not alike and explain_system_error(error) is None


def _store() -> Any:
    """The key-value store and barriers of JAX's runtime."""
    return distributed.global_state.client


def _complain(text: str) -> None:
    with contextlib.suppress(OSError):  # nobody reads it
        sys.stderr.write(text)
        sys.stderr.flush()


class Consensus:
    """Whether to stop, and how many steps a call may run; agreed inside the compiled programs.

    All processes must make the same calls in the same order. A process alone knows that someone
    asked it to stop, and how long its calls take: both go into every call, and their maximum over
    all processes comes back. So all stop after the same step, without another exchange. A single
    process gives nothing into a call, and takes nothing from it. `stop_requested` is whether
    someone asked this process to stop.
    """

    def __init__(self, mesh: DeviceMesh, stop_requested: Callable[[], bool]):
        self._mesh, self._stop_requested = mesh, stop_requested
        self._is_single = mesh.num_processes == 1
        self._stops = False

    def should_stop(self) -> bool:
        """Whether all processes are to stop now."""
        return self._stop_requested() if self._is_single else self._stops

    def request_stop(self) -> None:
        """Stops, as all processes agreed elsewhere that someone asked to."""
        self._stops = True

    def vote(self, estimate: int) -> Tree:
        """The values [device, value] of this process for a call, which may run `estimate` steps."""
        if self._is_single:
            return {}
        mine = np.asarray([self._stop_requested(), -estimate], np.float32)
        rows = np.stack([mine] * (self._mesh.num_devices // self._mesh.num_processes))
        return {"values": self._mesh.put(rows, self._mesh.sharded)}

    def apply_votes(self, maxima: Tree, estimate: int) -> int:
        """Applies the maxima of a call's votes; returns the steps that a call may run for all."""
        if self._is_single:
            return estimate
        stop, slowest = jax.device_get(maxima["values"]).tolist()
        self._stops |= stop > 0
        return int(-slowest)


SETTINGS = (
    "jax_enable_x64",
    "jax_default_matmul_precision",
    "jax_default_prng_impl",
    "jax_threefry_partitionable",
    "jax_numpy_dtype_promotion",
)


def check_same(processes: Processes, values: Mapping[str, Any], remedy: str) -> None:
    """Refuses processes that differ in one of some JSON values; all of them call this.

    Raises:
        ConfigError: names the first value that differs, and the remedy.
    """
    first, *others = processes.all_gather(dict(values))
    for index, other in enumerate(others, start=1):
        for name in [*first, *sorted({*other} - {*first})]:
            pair = other.get(name), first.get(name)
            if pair[0] != pair[1]:
                texts = [text if len(text) <= 40 else f"{text[:12]}..." for text in map(str, pair)]
                raise ConfigError(
                    f"Process {index} has another {name} than process 0 ({' and '.join(texts)}); "
                    f"{remedy}.",
                    where=name,
                    found=pair[0],
                )


def check_same_program(processes: Processes, versions: Mapping[str, str]) -> None:
    """Refuses processes whose code, packages or settings may compute other numbers.

    Settings of JAX and flags of the compiler count as far as users set them, but for where dumps
    go; `versions` are of the packages that count, by name.
    """
    root, digest = Path(__file__).parents[1], hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        digest.update(os.fsencode(file.relative_to(root)) + b"\0" + file.read_bytes())
    installed = {f"version of {name}": version for name, version in versions.items()}
    installed["version of cnn_lab's code"] = digest.hexdigest()
    settings = {name: str(getattr(jax.config, name, None)) for name in SETTINGS}
    for variable in ("XLA_FLAGS", "LIBTPU_INIT_ARGS"):
        for flag in os.environ.get(variable, "").split():
            name, _, value = flag.partition("=")
            if "_dump" not in name:
                settings[f"{name} of {variable}"] = value
    check_same(processes, installed, "start all of them from the same installation")
    check_same(processes, settings, "give all of them the same environment")


def check_same_config(
    processes: Processes, config: Mapping[str, Any], exempt: tuple[str, ...] = ()
) -> None:
    """Refuses processes whose configs, as nested dicts, differ in a field that is not exempt."""
    values: dict[str, Any] = {}

    def flatten(value: Any, path: str) -> None:
        if isinstance(value, Mapping) and value:  # an empty one differs from one with a None
            for name, inner in value.items():
                flatten(inner, f"{path}.{name}")
        elif path not in exempt:
            values[path] = value

    flatten(config, "config")
    check_same(processes, values, "give all of them the same --config and overrides")
