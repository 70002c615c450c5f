"""The processes of a training: one alone, or several that make the same calls.

Several train as one by JAX's own distributed runtime; each holds a part of the devices.
"""

import faulthandler
import json
import os
import sys
import threading
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from cnn_lab.core.errors import LOST_STATUS, ConfigError
from cnn_lab.core.refusals import causes, refusal

WAIT_SECONDS = 3600.0  # for the others outside the training's calls: one may be preparing data


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
        """What every process gave, in their order.

        Args:
            value: JSON.
        """
        return [value]

    def broadcast(self, value: Any) -> Any:
        """What the first process gave.

        Args:
            value: JSON; that of the others is left.
        """
        return self.all_gather(value)[0]

    def barrier(self) -> None:
        """Until all processes are here."""
        self.all_gather(None)

    def hangs(self, text: str) -> None:
        """Ends this process, and with it all others, because nothing goes on.

        Args:
            text: a sentence for the user.
        """
        sys.stderr.write(f"error: {text}\n")
        sys.stderr.flush()
        os._exit(LOST_STATUS)


class JaxProcesses(Processes):
    """Those that share JAX's distributed runtime."""

    def __init__(self) -> None:
        self.index, self.count = jax.process_index(), jax.process_count()

    def all_gather(self, value: Any) -> list[Any]:
        """What every process gave, in their order; ends them if one does not come to give it."""
        waiting = threading.Timer(WAIT_SECONDS, self._waited_in_vain)
        waiting.daemon = True
        waiting.start()
        try:
            return self._gathered(value)
        finally:
            waiting.cancel()

    def _waited_in_vain(self) -> None:
        faulthandler.dump_traceback(file=sys.__stderr__ or 2, all_threads=True)
        self.hangs(
            f"process {self.index} of {self.count} has waited {WAIT_SECONDS:.0f} s for another one "
            "(the stacks above say where); look at the others' logs, then start all processes "
            "again to go on from what was saved."
        )

    def _gathered(self, value: Any) -> list[Any]:
        mine = np.frombuffer(json.dumps(value).encode(), np.uint8)
        sizes = multihost_utils.process_allgather(np.int32(len(mine)))
        rows = multihost_utils.process_allgather(np.pad(mine, (0, sizes.max() - len(mine))))
        parts = zip(np.asarray(rows).reshape(self.count, -1), sizes.tolist(), strict=True)
        return [json.loads(row[:size].tobytes()) for row, size in parts]


SINGLE_PROCESS = Processes()


def is_loss(error: BaseException) -> bool:
    """Whether devices failed, which those of one of several processes do for want of another.

    Not so where memory is short, or a program cannot be compiled: that strikes all alike.
    """
    failed = [e for e in causes(error) if isinstance(e, jax.errors.JaxRuntimeError)]
    alike = any(str(e).startswith(("INVALID_ARGUMENT", "UNIMPLEMENTED")) for e in failed)
    return bool(failed) and not alike and refusal(error) is None


def present() -> Processes:
    """The processes that have joined, for whoever is not told; `SINGLE_PROCESS` where none have."""
    return JaxProcesses() if jax.distributed.is_initialized() else SINGLE_PROCESS


def check_same(processes: Processes, what: str, value: Any, remedy: str) -> None:
    """Refuses processes that differ in something.

    Args:
        processes: all of them call this.
        what: they may differ in.
        value: of this process; JSON.
        remedy: what the user can do.

    Raises:
        ConfigError: they differ.
    """
    values = processes.all_gather(value)
    other = next((index for index, found in enumerate(values) if found != values[0]), None)
    if other is not None:
        raise ConfigError(
            f"Process {other} has another {what} than process 0 ({_short(values[other])} and "
            f"{_short(values[0])}); {remedy}."
        )


def check_same_data(processes: Processes, fingerprint: str) -> None:
    """Refuses processes that read other data.

    Raises:
        ConfigError: they do.
    """
    remedy = "let all of them read the same data set, or copies of it"
    check_same(processes, "fingerprint of its data", fingerprint, remedy)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 16 else f"{text[:12]}..."
