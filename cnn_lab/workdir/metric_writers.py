"""Metric rows: to `metrics.jsonl`, TensorBoard events and, when asked for, Weights & Biases.

A row is one JSON object: `step`, `epoch`, `split` (`train` or `validation`) and metrics, null where
one is not finite. On resume the rows after the restored step are dropped, so that the file never
holds a step twice.
"""

import importlib
import importlib.util
import json
import os
import re
import secrets
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from cnn_lab.config import ExperimentConfig
from cnn_lab.config.node import to_dict
from cnn_lab.core.errors import ConfigError
from cnn_lab.core.files import finite_or_none, write_text
from cnn_lab.workdir.run_dir import RunDir, read_record

METRICS_FILE = "metrics.jsonl"
PLACE = ("step", "epoch", "split")
# What stands in rows and in the record of test openings beside the task's metrics.
NO_METRICS = (*PLACE, "time", "learning_rate", "gradient_norm", "examples_per_second")


@runtime_checkable
class MetricWriter(Protocol):
    """Where rows go."""

    def write(self, row: Mapping[str, Any]) -> None:
        """Takes one row."""
        ...

    def close(self) -> None:
        """Writes out what is buffered."""
        ...


class JsonLines:
    """Appends rows to `metrics.jsonl`, each one on disk before the next."""

    def __init__(self, workdir: Path, resume_step: int):
        self._path = workdir / METRICS_FILE
        keep_rows(self._path, resume_step)
        self._file = self._path.open("a", encoding="utf-8")

    def write(self, row: Mapping[str, Any]) -> None:
        """Appends one row."""
        self._file.write(_line(row))
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


class TensorBoard:
    """Writes event files to `tensorboard/`, without TensorFlow.

    `tensorboardX.SummaryWriter` writes in a thread of its own, which dies on a full disk and lets
    the next rows wait for ever; its parts are used here without the thread.
    """

    def __init__(self, workdir: Path, resume_step: int):
        from tensorboardX.event_file_writer import EventsWriter  # half a second for a training only
        from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]
        from tensorboardX.summary import scalar

        self._event, self._scalar = Event, scalar
        folder = workdir / "tensorboard"
        folder.mkdir(parents=True, exist_ok=True)
        # The writer names files by the second, in which a run can end and be resumed; TensorBoard
        # reads them in the order of their names.
        sessions = [_session_of(path) for path in folder.glob("*tfevents*")]
        number = max(sessions, default=0) + 1
        self._writer = EventsWriter(str(folder / f"events.{number:04d}"))
        if sessions:  # rows of a session that was killed after its last save come again
            start = SessionLog(status=SessionLog.START)
            self._writer.write_event(
                Event(wall_time=time.time(), step=resume_step + 1, session_log=start)
            )

    def write(self, row: Mapping[str, Any]) -> None:
        """Writes every metric of the row as `split/metric`."""
        for name, value in _metrics(row).items():
            summary = self._scalar(f"{row['split']}/{name}", value)
            self._writer.write_event(
                self._event(wall_time=time.time(), step=row["step"], summary=summary)
            )
        self._writer.flush()

    def close(self) -> None:
        """Closes the event file."""
        self._writer.close()


class WeightsAndBiases:
    """Sends rows to Weights & Biases (`pip install '.[wandb]'`).

    Args:
        workdir: the run's folder.
        project: where the run is listed there.
        identity: the run's own there; a resumed training goes on under it.
        config: shown with the run.
    """

    def __init__(self, workdir: Path, project: str, identity: str, config: Mapping[str, Any]):
        require_wandb()
        wandb = importlib.import_module("wandb")
        self._run = wandb.init(
            project=project,
            dir=str(workdir),
            name=workdir.name,
            id=identity,
            config=dict(config),
            resume="allow",
        )

    def write(self, row: Mapping[str, Any]) -> None:
        """Sends every metric of the row as `split/metric`."""
        values = {f"{row['split']}/{name}": value for name, value in _metrics(row).items()}
        self._run.log({**values, "step": row["step"]})

    def close(self) -> None:
        """Ends the run."""
        self._run.finish()


def require_wandb() -> None:
    """Raises a `ConfigError` where wandb is not installed."""
    if importlib.util.find_spec("wandb") is None:
        raise ConfigError(
            "config.log.wandb_project is set, but wandb is not installed; run pip install "
            "'.[wandb]' in the checkout, or leave the field out."
        )


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Reads the whole rows of a metrics file; a last line that was cut off is left out.

    A metric that was not finite is None.
    """
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").split("\n")[:-1]:
        try:
            rows.append(json.loads(line, parse_constant=lambda _: None))
        except json.JSONDecodeError:
            continue
    return rows


def keep_rows(path: Path, last_step: int) -> None:
    """Drops the rows after `last_step`, atomically."""
    _write_rows(path, (row for row in read_rows(path) if row["step"] <= last_step))


def forget_validation(path: Path, step: int) -> None:
    """Drops the row of an owed evaluation, whose writer was killed before a checkpoint said so."""
    place = (step, "validation")
    _write_rows(path, (row for row in read_rows(path) if (row["step"], row["split"]) != place))


def _write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    write_text(path, "".join(map(_line, rows)))


def metric_names(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Names of the task's metrics in some rows: the loss first, the others as they come."""
    names = dict.fromkeys(name for row in rows for name in row if name not in NO_METRICS)
    return sorted(names, key=lambda name: name != "loss")


def _session_of(path: Path) -> int:
    """The number in the name of an event file, 0 in one of somebody else's."""
    found = re.match(r"events\.(\d+)\.", path.name)
    return int(found[1]) if found else 0


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(finite_or_none(row), allow_nan=False) + "\n"


def _metrics(row: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in row.items() if name not in PLACE}


def open_metric_writers(
    config: ExperimentConfig, folder: RunDir, first_step: int
) -> list[MetricWriter]:
    """Where the rows of a run go, as its config asks."""
    metric_writers: list[MetricWriter] = [JsonLines(folder.path, first_step)]
    if config.log.tensorboard:
        metric_writers.append(TensorBoard(folder.path, first_step))
    if config.log.wandb_project is not None:
        # Kept in the record, so that a folder that was moved goes on in the same run there.
        identity = read_record(folder.path).get("wandb_id") or secrets.token_hex(8)
        folder.update_record(wandb_id=identity)
        project, values = config.log.wandb_project, to_dict(config)
        metric_writers.append(WeightsAndBiases(folder.path, project, identity, values))
    return metric_writers
