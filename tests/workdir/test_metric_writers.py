"""Metric rows on disk, also after a session that was cut off."""

import importlib.machinery
import json
import math
import re
import sys
import types

import pytest

from cnn_lab.core.errors import ConfigError
from cnn_lab.workdir.metric_writers import (
    METRICS_FILE,
    JsonLines,
    TensorBoard,
    WeightsAndBiases,
    keep_rows,
    metric_names,
    read_rows,
)

ROWS = [{"step": s, "epoch": s / 2, "split": "train", "loss": 1.0 / s} for s in (1, 2, 3)]
WHOLE = "".join(json.dumps(row) + "\n" for row in ROWS)


def test_a_missing_file_has_no_rows(tmp_path):
    assert read_rows(tmp_path / "none.jsonl") == []


@pytest.mark.parametrize("cut", [1, 5, len(json.dumps(ROWS[2])), len(json.dumps(ROWS[2])) + 1])
def test_a_last_line_that_was_cut_off_is_left_out(tmp_path, cut):
    path = tmp_path / METRICS_FILE
    path.write_text(WHOLE[:-cut])
    assert read_rows(path) == ROWS[:2]
    path.write_text(WHOLE)
    assert read_rows(path) == ROWS


@pytest.mark.parametrize("last_step", [0, 1, 2, 9])
def test_rows_after_a_step_are_dropped(tmp_path, last_step):
    path = tmp_path / METRICS_FILE
    path.write_text(WHOLE + '{"step": 4, "lo')
    keep_rows(path, last_step)
    kept = ROWS[: min(last_step, 3)]
    assert path.read_text() == "".join(json.dumps(row) + "\n" for row in kept)
    assert list(tmp_path.iterdir()) == [path]


def test_the_row_of_a_pending_evaluation_is_dropped(tmp_path):
    path = tmp_path / METRICS_FILE
    pending = {"step": 3, "epoch": 1.5, "split": "validation", "loss": 1.0}
    path.write_text(WHOLE + json.dumps(pending) + "\n")
    keep_rows(path, 3)
    assert read_rows(path) == [*ROWS, pending]
    keep_rows(path, 3, eval_pending=True)
    assert read_rows(path) == ROWS


def test_a_resumed_run_appends_whole_rows_after_the_restored_step(tmp_path):
    (tmp_path / METRICS_FILE).write_text(WHOLE + '{"step": 4, "lo')
    sink = JsonLines(tmp_path, resume_step=2)
    sink.write({**ROWS[2], "loss": 9.0})
    assert read_rows(tmp_path / METRICS_FILE) == [*ROWS[:2], {**ROWS[2], "loss": 9.0}]  # not closed
    sink.close()


def test_a_fresh_run_starts_a_fresh_file(tmp_path):
    (tmp_path / METRICS_FILE).write_text(WHOLE)
    JsonLines(tmp_path, resume_step=0).close()
    assert (tmp_path / METRICS_FILE).read_text() == ""


def events(folder) -> list:
    """The events of all files in the order in which TensorBoard reads them: by name."""
    from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]

    found = []
    for path in sorted((folder / "tensorboard").iterdir()):
        data, at = path.read_bytes(), 0
        while at < len(data):  # length (8), its checksum (4), record, its checksum (4)
            size = int.from_bytes(data[at : at + 8], "little")
            found.append(Event.FromString(data[at + 12 : at + 12 + size]))
            at += size + 16
    return found


def scalars(folder) -> list[tuple[int, str, float]]:
    """(step, tag, value) of what TensorBoard shows: a start drops its step and all after it."""
    shown = []
    for event in events(folder):
        if event.HasField("session_log"):
            shown = [row for row in shown if row[0] < event.step]
        shown += [(event.step, v.tag, v.simple_value) for v in event.summary.value]
    return shown


def test_tensorboard_holds_every_metric_before_it_is_closed(tmp_path):
    sink = TensorBoard(tmp_path, resume_step=0)
    sink.write({"step": 3, "epoch": 0.5, "split": "train", "loss": 0.25, "accuracy": 1.0})
    assert scalars(tmp_path) == [(3, "train/loss", 0.25), (3, "train/accuracy", 1.0)]
    sink.close()
    resumed = TensorBoard(tmp_path, resume_step=3)
    resumed.write({"step": 4, "epoch": 1.0, "split": "validation", "loss": 0.5})
    resumed.close()
    assert scalars(tmp_path)[2:] == [(4, "validation/loss", 0.5)]


@pytest.mark.parametrize("saved_step", [0, 1])
def test_tensorboard_shows_the_rows_of_a_killed_session_once(tmp_path, monkeypatch, saved_step):
    monkeypatch.setattr("tensorboardX.event_file_writer.time.time", lambda: 1.0)  # the same second
    for session, resume_step in enumerate((0, *(saved_step,) * 11)):
        sink = TensorBoard(tmp_path, resume_step)
        for step in range(resume_step + 1, 4):
            sink.write({"step": step, "epoch": 0.5, "split": "train", "loss": float(session)})
        sink.close()
    assert len(list((tmp_path / "tensorboard").iterdir())) == 12
    expected = [(1, 0.0), (2, 11.0), (3, 11.0)] if saved_step else [(s, 11.0) for s in (1, 2, 3)]
    assert scalars(tmp_path) == [(step, "train/loss", loss) for step, loss in expected]


def test_weights_and_biases_that_is_not_installed_is_said_so(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    text = (
        "config.log.wandb_project is set, but wandb is not installed; run pip install "
        "'.[wandb]' in the checkout, or leave the field out."
    )
    with pytest.raises(ConfigError, match=f"^{re.escape(text)}$"):
        WeightsAndBiases(tmp_path, "project", "0123", {})


class FakeWandb(types.ModuleType):
    """Remembers what it was asked for."""

    __spec__ = importlib.machinery.ModuleSpec("wandb", None)

    def __init__(self):
        super().__init__("wandb")
        self.__spec__ = FakeWandb.__spec__
        self.asked = {}

    def init(self, **arguments):
        self.asked = arguments
        return self


def test_weights_and_biases_goes_on_under_the_identity_of_the_run(tmp_path, monkeypatch):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    WeightsAndBiases(tmp_path, "project", "0123", {"seed": 1})
    assert (fake.asked["id"], fake.asked["resume"]) == ("0123", "allow")
    assert (fake.asked["project"], fake.asked["config"]) == ("project", {"seed": 1})


def test_what_is_not_finite_is_null_and_read_as_none(tmp_path):
    path = tmp_path / METRICS_FILE
    sink = JsonLines(tmp_path, resume_step=0)
    sink.write({**ROWS[0], "loss": math.nan, "accuracy": -math.inf})
    sink.close()
    row = {**ROWS[0], "loss": None, "accuracy": None}
    assert json.loads(path.read_text(), parse_constant=pytest.fail) == row
    path.write_text(path.read_text().replace("null", "NaN"))  # as files of before have it
    assert read_rows(path) == [row]
    keep_rows(path, 3)
    assert "NaN" not in path.read_text()
    assert read_rows(path) == [row]


def test_a_crash_while_rows_are_dropped_loses_none(tmp_path, monkeypatch):
    path = tmp_path / METRICS_FILE
    path.write_text(WHOLE)

    def crash(_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("cnn_lab.core.files.os.fsync", crash)
    with pytest.raises(OSError, match="Input/output"):
        keep_rows(path, 1)
    assert path.read_text() == WHOLE
    assert list(tmp_path.iterdir()) == [path]


def test_the_loss_is_the_first_metric_and_rates_are_none():
    place = {"step": 1, "epoch": 0.5, "split": "train"}
    rates = {"learning_rate": 0.1, "gradient_norm": 1.0, "examples_per_second": 9.0}
    rows = [{**place, "mean_iou": 0.5, "loss": 1.0, **rates}, {**place, "dice": 0.5}]
    assert metric_names(rows) == ["loss", "mean_iou", "dice"]
    assert metric_names([]) == []
