"""Flags by which several processes train as one, and how such a process ends."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from absl import flags

from cnn_lab.cli import runtime
from cnn_lab.config import ExperimentConfig
from cnn_lab.config.node import to_dict
from cnn_lab.core.errors import ConfigError

if TYPE_CHECKING:
    from cnn_lab.distributed.processes import JaxProcesses, Processes

_joined: list["JaxProcesses"] = []  # the processes this one has joined, if any


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
    from cnn_lab.distributed.processes import check_same, check_same_config, check_same_program
    from cnn_lab.workdir.run_dir import versions

    given = {f"--{name}": value for name, value in (flags or {}).items()}
    check_same(processes, given, "give all of them the same one")
    check_same_program(processes, versions())
    check_same_config(processes, to_dict(config))


def leave() -> None:
    """Ends well, where several processes train together with the others."""
    for processes in _joined:
        processes.leave()


def end(message: str, reason: str, status: int, *, follows: bool = False) -> None:
    """Says why the command ends; where several processes train, ends them all and never returns.

    Args:
        message: for the user, from this process.
        reason: for the user, from the other processes.
        status: exit status of all of them.
        follows: whether it may only follow from the end of another process.
    """
    for processes in _joined:
        processes.end(message, reason, status, follows=follows)
    runtime.complain(message)


def end_after(error: Exception) -> None:
    """Ends as `end` does after a bug, or a loss; one process alone goes on with the error."""
    for processes in _joined:
        processes.end_after(error)


def local_devices(config: ExperimentConfig, count: int) -> int | None:
    """How many of the devices that a config asks for are to be this process's.

    Never more than there are examples in a batch: such a request is refused, but later.
    """
    asked = config.mesh.num_devices
    return None if asked is None else -(-min(asked, config.train.batch_size) // max(count, 1))
