"""Flags by which several processes train as one, and how such a process ends."""

import hashlib
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from cnn_lab.cli import interrupts, output
from cnn_lab.config import ExperimentConfig
from cnn_lab.config.node import to_dict
from cnn_lab.config.rules import differences
from cnn_lab.core.errors import LOST_STATUS, ConfigError

if TYPE_CHECKING:
    from cnn_lab.distributed.initialize import JoinedProcesses
    from cnn_lab.distributed.processes import Processes

BUG_STATUS = 1
MAY_LIE_ELSEWHERE = ("transfer.source",)  # whose weights are compared
SETTINGS = (
    "jax_enable_x64",
    "jax_default_matmul_precision",
    "jax_default_prng_impl",
    "jax_threefry_partitionable",
    "jax_numpy_dtype_promotion",
)
_joined: list["JoinedProcesses"] = []  # the processes this one has joined, if any


def define_flags(values: flags.FlagValues) -> None:
    """Declares the flags."""
    flags.DEFINE_string(
        "coordinator",
        None,
        "HOST:PORT of the first of several processes that train as one",
        flag_values=values,
    )
    flags.DEFINE_integer("num_processes", None, "how many there are", flag_values=values)
    flags.DEFINE_integer(
        "process_id", None, "which one of them this is, from 0", flag_values=values
    )
    flags.DEFINE_bool(
        "cluster",
        False,
        "take the three flags above from SLURM, Cloud TPU, Kubernetes or Open MPI",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "join_seconds", 300, "longest wait for the other processes", flag_values=values
    )
    flags.DEFINE_integer(
        "interrupted_status",
        0,
        "exit status of a training that a signal stopped and that is saved; a scheduler may need "
        "another one to start it again, and gets it too where nothing had begun (130 by default)",
        flag_values=values,
    )


def check(values: flags.FlagValues) -> int:
    """Number of processes that the flags name: 0 asks the cluster.

    Raises:
        ConfigError: flags that do not go together.
    """
    if values.join_seconds < 1:
        raise ConfigError(f"--join_seconds must be at least 1; found {values.join_seconds}.")
    if not 0 <= values.interrupted_status < 256:
        raise ConfigError(
            "--interrupted_status must be 0 to 255, as all exit statuses; found "
            f"{values.interrupted_status}."
        )
    coordinator, count, index = values.coordinator, values.num_processes, values.process_id
    given = {"coordinator": coordinator, "num_processes": count, "process_id": index}
    missing = [name for name, value in given.items() if value is None]
    if values.cluster:
        if len(missing) < len(given):
            raise ConfigError(
                "--cluster takes coordinator, number and place of the processes from the cluster; "
                "leave out --coordinator, --num_processes and --process_id, or --cluster."
            )
        return 0
    if len(missing) == len(given):
        return 1
    if coordinator is None or count is None or index is None:
        raise ConfigError(
            f"--{missing[0]} is missing: several processes need --coordinator=HOST:PORT, "
            "--num_processes and --process_id."
        )
    if count < 1 or not 0 <= index < count:
        raise ConfigError(
            f"--process_id is {index} of --num_processes={count}; give 0 to {max(count - 1, 0)}, "
            "each to one process."
        )
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise ConfigError(
            f"--coordinator must be HOST:PORT, such as node1:8476; found {coordinator!r}."
        )
    return count


def join(values: flags.FlagValues) -> "Processes":
    """Joins the processes that the flags name; before any device is touched.

    Raises:
        ConfigError: there is no cluster.
    """
    from cnn_lab.distributed import initialize
    from cnn_lab.distributed.processes import SINGLE_PROCESS

    if check(values) == 1:
        return SINGLE_PROCESS
    joined = initialize.join(
        values.coordinator,
        values.num_processes,
        values.process_id,
        wait_seconds=values.join_seconds,
        interrupted_status=interrupts.status(),
        complain=output.complain,
    )
    _joined.append(joined)
    return joined


def check_alike(
    processes: "Processes", config: ExperimentConfig, flags: Mapping[str, Any] | None = None
) -> None:
    """Refuses processes of which one would do something else.

    Args:
        processes: all of them call this.
        config: of this one.
        flags: of this one, as far as all must have the same; JSON.

    Raises:
        ConfigError: they differ in config, flags, code, versions or settings, or it is nothing for
            several.
    """
    if processes.count == 1:
        return
    if config.transfer is not None and config.transfer.strategy == "logistic":
        raise ConfigError(
            "config.transfer.strategy=logistic is fitted by one process, not by "
            f"{processes.count}; start one, or take the strategy head."
        )
    from cnn_lab.distributed.processes import check_same
    from cnn_lab.workdir.session import versions

    for name, value in (flags or {}).items():
        check_same(processes, f"--{name}", value, "give all of them the same one")
    same = "start all of them from the same installation"
    for name, version in versions().items():
        check_same(processes, f"version of {name}", version, same)
    check_same(processes, "version of cnn_lab's code", _digest_of_code(), same)
    settings = processes.all_gather(_settings())
    for index, other in enumerate(settings):
        for differing in sorted({*settings[0]} ^ {*other}):
            raise ConfigError(
                f"{differing} is set for process {index} or for process 0, and not for both; give "
                "all of them the same environment."
            )
    check_same_config(processes, config)


def check_same_config(
    processes: "Processes", config: ExperimentConfig, but: Sequence[str] = ()
) -> None:
    """Refuses processes whose configs differ, in any field.

    Args:
        processes: all of them call this.
        config: of this one.
        but: fields that may differ.

    Raises:
        ConfigError: names the field.
    """
    configs = processes.all_gather(to_dict(config))
    for index, other in enumerate(configs):
        for path, (wanted, found) in differences(configs[0], other, runtime=True).items():
            if path in but:
                continue
            raise ConfigError(
                f"Process {index} has another config than process 0: config.{path} is {found!r} "
                f"and {wanted!r}; give all of them the same --config and overrides."
            )


def claim_end() -> None:
    """Called before an error is told: where another process's end was told, this one is silent."""
    for processes in _joined:
        processes.claim_end()


def await_verdict() -> None:
    """Called on an error that may only follow from the end of another process."""
    for processes in _joined:
        processes.await_verdict()


def leave() -> None:
    """Called at a good end: the others are not to mind that this process is gone."""
    for processes in _joined:
        processes.leave()


def fail(text: str, status: int) -> None:
    """Ends this process and all others, if it has joined any; they are told why."""
    for processes in _joined:
        sys.stdout.flush()
        processes.fail(text, status)


def fail_with(error: Exception) -> None:
    """As `fail`, after a traceback."""
    if _joined:
        from cnn_lab.distributed.processes import is_loss

        traceback.print_exception(error)
        status = LOST_STATUS if is_loss(error) else BUG_STATUS
        fail(f"{type(error).__name__}: {str(error).partition(chr(10))[0]}", status)


def local_devices(config: ExperimentConfig, count: int) -> int | None:
    """How many of the devices that a config asks for are to be this process's.

    Never more than there are examples in a batch: such a request is refused, but later.
    """
    asked = config.mesh.num_devices
    return None if asked is None else -(-min(asked, config.train.batch_size) // max(count, 1))


def _settings() -> list[str]:
    """What changes the numbers that the same program computes, as far as users set it."""
    import jax

    found = [f"{name}={getattr(jax.config, name, None)}" for name in SETTINGS]
    for name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS"):
        given = os.environ.get(name, "").split()
        found += [f"{flag} of {name}" for flag in given if "_dump" not in flag]
    return sorted(found)


def _digest_of_code() -> str:
    root = Path(__file__).parents[1]
    found = hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        found.update(os.fsencode(file.relative_to(root)) + b"\0" + file.read_bytes())
    return found.hexdigest()
