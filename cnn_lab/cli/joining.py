"""Flags by which several processes train as one, and how such a process starts and ends."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from absl import flags

from cnn_lab.cli import runtime
from cnn_lab.cli.flags import Flag
from cnn_lab.config import ExperimentConfig
from cnn_lab.config.node import to_dict
from cnn_lab.config.values import Count, Natural, Range
from cnn_lab.core.errors import INTERRUPTED_STATUS, ConfigError

if TYPE_CHECKING:
    from cnn_lab.distributed.processes import JaxProcesses, Processes

joined: list["JaxProcesses"] = []  # the processes this one has joined, if any

FLAGS = (
    Flag("coordinator", "HOST:PORT of the first of several processes that train as one"),
    Flag("num_processes", "how many there are", Count),
    Flag("process_id", "which one of them this is, from 0", Natural),
    Flag("cluster", "take these three from SLURM, Cloud TPU, Kubernetes or Open MPI", bool),
    Flag("join_seconds", "longest wait for the other processes", Count, 300),
    Flag(
        "interrupted_status",
        "exit status of a training that a signal stopped and that is saved; a scheduler may need "
        "another one to start it again: one above 0 takes the place of 130, too, where nothing had "
        "begun",
        Annotated[int, Range(min=0, max=255)],
        0,
    ),
)


def check(values: flags.FlagValues) -> int:
    """Number of processes that the flags name: 0 asks the cluster.

    Raises:
        ConfigError: flags that do not go together.
    """
    names = ("coordinator", "num_processes", "process_id")
    missing = [name for name in names if values[name].value is None]
    if values.cluster and len(missing) < len(names):
        raise ConfigError(
            "--cluster takes coordinator, number and place of the processes from the cluster; "
            "leave out --coordinator, --num_processes and --process_id, or --cluster.",
            where="--cluster",
        )
    if len(missing) == len(names):
        return 0 if values.cluster else 1
    if missing:
        raise ConfigError(
            f"--{missing[0]} is missing: several processes need --coordinator=HOST:PORT, "
            "--num_processes and --process_id.",
            where=f"--{missing[0]}",
        )
    count, index = values.num_processes, values.process_id
    if index >= count:
        raise ConfigError(
            f"--process_id is {index} of --num_processes={count}; give 0 to {count - 1}, each to "
            "one process.",
            where="--process_id",
            found=index,
            allowed=f"0 to {count - 1}",
        )
    host, _, port = values.coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        expected = "HOST:PORT, such as node1:8476"
        raise ConfigError(where="--coordinator", found=values.coordinator, allowed=expected)
    return count


def start(
    values: flags.FlagValues, config: ExperimentConfig, alike: Mapping[str, Any] | None = None
) -> "Processes":
    """Starts JAX for a training, in all processes that the flags name.

    `alike` are values, as JSON, of further flags that must be the same in all of them.

    Raises:
        ConfigError: flags that do not go together, no cluster, or processes that differ.
    """
    count = check(values)
    runtime.early_status = values.interrupted_status or INTERRUPTED_STATUS
    for alone in ("dry_run", "seeds"):
        if count != 1 and alone in values and values[alone].value:
            raise ConfigError(
                f"--{alone} is for one process; leave it out, or the flags of several.",
                where=f"--{alone}",
            )
    runtime.start(local_devices(config, count))
    from cnn_lab.distributed import initialize
    from cnn_lab.distributed.processes import SINGLE_PROCESS

    if count == 1:
        return SINGLE_PROCESS
    processes = initialize.join(
        values.coordinator,
        values.num_processes,
        values.process_id,
        wait_seconds=values.join_seconds,
    )
    joined.append(processes)
    check_same_command(processes, config, {"num_processes": values.num_processes, **(alike or {})})
    return processes


def check_same_command(
    processes: "Processes", config: ExperimentConfig, flags: Mapping[str, Any] | None = None
) -> None:
    """Refuses processes of which one would do something else; all of them call this.

    `flags` are values, as JSON, of those flags of which all must have the same.

    Raises:
        ConfigError: they differ in config, flags, code, versions or settings, or it is nothing for
            several.
    """
    if processes.count == 1:
        return
    if config.transfer is not None and config.transfer.strategy == "logistic":
        raise ConfigError(
            "config.transfer.strategy=logistic is fitted by one process, not by "
            f"{processes.count}; start one, or take the strategy head.",
            where="config.transfer.strategy",
            found="logistic",
        )
    from cnn_lab.distributed.processes import check_same, check_same_config, check_same_program
    from cnn_lab.workdir.run_dir import versions

    given = {f"--{name}": value for name, value in (flags or {}).items()}
    check_same(processes, given, "give all of them the same one")
    check_same_program(processes, versions())
    check_same_config(processes, to_dict(config))


def end(message: str, reason: str, status: int, *, follows: bool = False) -> None:
    """Says why the command ends; where several processes train, ends them all and never returns.

    The others give `reason`. `follows` is whether it may only follow from the end of another one.
    """
    for processes in joined:
        processes.end(message, reason, status, follows=follows)
    runtime.complain(message)


def local_devices(config: ExperimentConfig, count: int) -> int | None:
    """How many of the devices that a config asks for are to be this process's.

    Never more than there are examples in a batch: such a request is refused, but later.
    """
    asked = config.mesh.num_devices
    return None if asked is None else -(-min(asked, config.train.batch_size) // max(count, 1))
