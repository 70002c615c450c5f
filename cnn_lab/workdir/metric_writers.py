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

    def close(self) -> None:
        """Writes out what is buffered."""


class JsonLines:
    """Appends rows to `metrics.jsonl`, each one on disk before the next."""

    def __init__(self, workdir: Path, resume_step: int, *, eval_pending: bool = False):
        keep_rows(workdir / METRICS_FILE, resume_step, eval_pending=eval_pending)
        self._file = (workdir / METRICS_FILE).open("a", encoding="utf-8")

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
        names = [path.name for path in folder.glob("*tfevents*")]
        found = [re.match(r"events\.(\d+)\.", name) for name in names]
        number = max((int(match[1]) for match in found if match), default=0) + 1
        self._writer = EventsWriter(str(folder / f"events.{number:04d}"))
        if names:  # rows of a session that was killed after its last save come again
            start = SessionLog(status=SessionLog.START)
            self._writer.write_event(
                Event(wall_time=time.time(), step=resume_step + 1, session_log=start)
            )

    def write(self, row: Mapping[str, Any]) -> None:
        """Writes every metric of the row as `split/metric`."""
        now, step = time.time(), row["step"]
        for tag, value in _tagged(row).items():
            summary = self._scalar(tag, value)
            self._writer.write_event(self._event(wall_time=now, step=step, summary=summary))
        self._writer.flush()

    def close(self) -> None:
        """Closes the event file."""
        self._writer.close()


class WeightsAndBiases:
    """Sends rows to Weights & Biases (`pip install '.[wandb]'`).

    The run is listed there in a project, with its config; a resumed training goes on under the same
    identity.
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
        self._run.log({**_tagged(row), "step": row["step"]})

    def close(self) -> None:
        """Ends the run."""
        self._run.finish()


def require_wandb() -> None:
    """Raises a `ConfigError` where wandb is not installed."""
    if importlib.util.find_spec("wandb") is None:
        raise ConfigError(
            "config.log.wandb_project is set, but wandb is not installed; run pip install "
            "'.[wandb]' in the checkout, or leave the field out.",
            where="config.log.wandb_project",
        )


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The whole rows of a metrics file, without a last line that was cut off.

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


def keep_rows(path: Path, last_step: int, *, eval_pending: bool = False) -> None:
    """Drops the rows after `last_step`, atomically.

    Also the row of a pending evaluation of that step, whose writer was killed before a checkpoint
    recorded it.
    """
    pending = (last_step, "validation") if eval_pending else None
    rows = [row for row in read_rows(path) if row["step"] <= last_step]
    rows = [row for row in rows if (row["step"], row["split"]) != pending]
    write_text(path, "".join(map(_line, rows)))


def metric_names(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Names of the task's metrics in some rows: the loss first, the others as they come."""
    names = dict.fromkeys(name for row in rows for name in row if name not in NO_METRICS)
    return sorted(names, key=lambda name: name != "loss")


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(finite_or_none(row), allow_nan=False) + "\n"


def _tagged(row: Mapping[str, Any]) -> dict[str, float]:
    return {f"{row['split']}/{name}": value for name, value in row.items() if name not in PLACE}


def open_metric_writers(
    config: ExperimentConfig, folder: RunDir, first_step: int, *, eval_pending: bool
) -> list[MetricWriter]:
    """The writers that a config asks for, of a run that goes on from `first_step`."""
    metric_writers: list[MetricWriter] = [
        JsonLines(folder.path, first_step, eval_pending=eval_pending)
    ]
    if config.log.tensorboard:
        metric_writers.append(TensorBoard(folder.path, first_step))
    if config.log.wandb_project is not None:
        # Kept in the record, so that a folder that was moved goes on in the same run there.
        identity = read_record(folder.path).get("wandb_id") or secrets.token_hex(8)
        folder.update_record(wandb_id=identity)
        metric_writers.append(
            WeightsAndBiases(folder.path, config.log.wandb_project, identity, to_dict(config))
        )
    return metric_writers
