"""A run restored for use: its network and the variables of one checkpoint."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import jax
from absl import logging

from cnn_lab.checkpoint.reader import CheckpointReader, DamagedError
from cnn_lab.config import ExperimentConfig
from cnn_lab.core.errors import CheckpointError, ConfigError
from cnn_lab.distributed.mesh import make_mesh
from cnn_lab.distributed.processes import Processes, current_processes
from cnn_lab.experiment.network import Network, network_from_metadata
from cnn_lab.experiment.outside import check_registered
from cnn_lab.workdir.run_dir import CHECKPOINTS, missing_checkpoints, read_config

Found = TypeVar("Found")


@dataclasses.dataclass(frozen=True)
class RestoredRun:
    """One checkpoint of a run.

    Attributes:
        config: the run's.
        network: the model and what it needs.
        variables: parameters and statistics.
        step: the checkpoint's.
    """

    config: ExperimentConfig
    network: Network
    variables: dict[str, Any]
    step: int


def restore_run(
    workdir: Path,
    which: str,
    sharding: jax.sharding.Sharding | None = None,
    named: str = "--checkpoint",
    processes: Processes | None = None,
) -> RestoredRun:
    """Restores a checkpoint of a run.

    Args:
        workdir: the run's folder.
        which: `best` (the newest where nothing was validated), `latest` or a step.
        sharding: where the variables go; by default the first device of this process, or, where
            several processes call this together, all devices.
        named: what the user calls `which`.
        processes: that call this together; by default all that have joined.

    Raises:
        WorkdirError: no run there.
        ConfigError: a model of a session that is not known here.
        CheckpointError: no such checkpoint, or a damaged one.
    """
    config = read_config(workdir)
    check_registered(config, workdir)
    processes = processes or current_processes()
    checkpoints = _checkpoints(workdir, processes)
    if sharding is None and processes.count > 1:
        sharding = make_mesh(jax.device_count()).replicated
    place = sharding or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

    def read(step: int) -> RestoredRun:
        record = checkpoints.read_record(step)
        network = network_from_metadata(config, record["metadata"])
        shapes = network.variable_shapes()
        variables = checkpoints.restore_variables(step, record, shapes, place)
        return RestoredRun(config, network, variables, step)

    return _first_good(_candidates(checkpoints, which, named), read, named)


def restore_network(
    workdir: Path, which: str, named: str = "--checkpoint"
) -> tuple[ExperimentConfig, Network]:
    """The config of a run and the network of a checkpoint, whose weights are not read.

    Arguments and errors are those of `restore_run`.
    """
    config = read_config(workdir)
    check_registered(config, workdir)
    checkpoints = _checkpoints(workdir)

    def read(step: int) -> tuple[ExperimentConfig, Network]:
        metadata = checkpoints.read_record(step)["metadata"]
        return config, network_from_metadata(config, metadata)

    return _first_good(_candidates(checkpoints, which, named), read, named)


def checkpoint_steps(workdir: Path) -> list[int]:
    """Steps of a run's checkpoints, ascending; a `CheckpointError` where there are none."""
    return _checkpoints(workdir).steps()


def _checkpoints(workdir: Path, processes: Processes | None = None) -> CheckpointReader:
    """The checkpoints of a run that has some."""
    reader = CheckpointReader(workdir / CHECKPOINTS, processes or current_processes())
    if not reader.steps():
        raise missing_checkpoints(workdir)
    return reader


def _first_good(candidates: list[int], read: Callable[[int], Found], named: str) -> Found:
    """The result of `read` at the first of the steps that is not damaged."""
    for step in candidates:
        try:
            return read(step)
        except DamagedError as error:
            if step == candidates[-1]:
                problem = (
                    f"{error} There is none to use in its place; train again with another "
                    f"--workdir, or give another {named}."
                )
                raise CheckpointError(problem, where=named, found=step) from error
            other = candidates[candidates.index(step) + 1]
            logging.warning("%s Trying that of step %d in its place.", error, other)
    raise AssertionError("unreachable: the last candidate returns or raises")


def _candidates(checkpoints: CheckpointReader, which: str, named: str) -> list[int]:
    """Steps to try, one after the other."""
    steps = checkpoints.steps()
    if which == "latest":
        return steps[::-1]
    if which == "best":
        best = None
        for step in reversed(steps):
            try:
                best = checkpoints.read_record(step)["progress"]["selection"]["best_step"]
                break
            except DamagedError:
                continue
        if best is not None and best not in steps:
            logging.warning(
                "The best checkpoint, of step %d, is gone from %s; using that of step %d.",
                *(best, checkpoints.folder, steps[-1]),
            )
        return [s for s in dict.fromkeys((best, *reversed(steps))) if s in steps]
    if not which.isdecimal() or int(which) not in steps:
        raise ConfigError(
            f"{named} must be best, latest or one of the steps {steps}; found {which!r}.",
            where=named,
            found=which,
        )
    return [int(which)]
