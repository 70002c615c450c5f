"""Reads the folders of runs, and interrupts trainings, for tests."""

import json
import os
import signal
from pathlib import Path
from typing import Any

from cnn_lab.checkpoint.reader import CheckpointReader


def validation(workdir: Path, metric: str) -> dict[int, float]:
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return {row["step"]: row[metric] for row in rows if row["split"] == "validation"}


def state_digests(workdir: Path) -> dict[str, str]:
    """Digests of every leaf of the newest checkpoint."""
    reader = CheckpointReader(workdir / "checkpoints")
    return reader.read_record(reader.steps()[-1])["digests"]


def without_rates(workdir: Path) -> list[dict[str, Any]]:
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [
        {name: value for name, value in json.loads(line).items() if name != "examples_per_second"}
        for line in lines
    ]


class SignalAt:
    """Sends SIGTERM to its own process when a given row is written."""

    def __init__(self, step: int, split: str):
        self.place = (step, split)

    def write(self, row) -> None:
        if (row["step"], row["split"]) == self.place:
            os.kill(os.getpid(), signal.SIGTERM)

    def close(self) -> None:
        pass
