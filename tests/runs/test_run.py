"""A run from config to record: which weights are best, where it lives, what ends it."""

import errno
import json
import math
import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Literal

import flax.linen as nn
import jax
import pytest
from refusals import refused
from run_folders import SignalAt, state_digests, validation, without_rates

from cnn_lab.checkpoint.reader import CheckpointReader
from cnn_lab.checkpoint.writer import Checkpoints
from cnn_lab.cli import runtime
from cnn_lab.cli.main import main
from cnn_lab.config import (
    DataConfig,
    EarlyStoppingConfig,
    EvaluateConfig,
    ExperimentConfig,
    LogConfig,
    MeshConfig,
    ModelConfig,
    OptimConfig,
    SelectionConfig,
    TrainConfig,
)
from cnn_lab.config.node import to_dict
from cnn_lab.core.errors import CheckpointError, DataError, SystemLimitError
from cnn_lab.experiment.experiment import Experiment
from cnn_lab.experiment.restore import restore_run
from cnn_lab.models.heads import Classifier, PooledHead
from cnn_lab.models.registry import MODELS, ModelEntry
from cnn_lab.report.run import write_report
from cnn_lab.runs import train
from cnn_lab.runs.train import run_training
from cnn_lab.training import stepper
from cnn_lab.workdir import metric_writers
from cnn_lab.workdir.metric_writers import METRICS_FILE, TensorBoard, read_rows
from cnn_lab.workdir.preemption import STOPPING, StopSignals
from cnn_lab.workdir.run_dir import LOCK_FILES, count_test_opening, read_record


def small(**changes) -> ExperimentConfig:
    fields = {
        "data": DataConfig(num_train=64, num_validation=64),
        "model": ModelConfig(name="linear"),
        "optim": OptimConfig(name="sgd", learning_rate=0.05),
        "train": TrainConfig(num_epochs=4, batch_size=32),
    }
    return ExperimentConfig(**{**fields, **changes})


@pytest.mark.parametrize(("metric", "choose"), [("loss", min), ("accuracy", max)])
def test_the_best_is_best_in_the_direction_of_the_metric(metric: str, choose, tmp_path: Path):
    config = small(selection=SelectionConfig(metric=metric))
    result = run_training(config, tmp_path / "run", lambda _: None)
    values = validation(tmp_path / "run", metric)
    assert len(set(values.values())) > 1
    assert result.progress.selection.best_value == choose(values.values())
    step = result.progress.selection.best_step
    assert step in Checkpoints(tmp_path / "run" / "checkpoints").steps()


def test_openings_of_test_at_once_are_all_counted(tmp_path: Path):
    (tmp_path / "run.json").write_text('{"status": "finished"}')
    openings = [
        threading.Thread(target=count_test_opening, args=(tmp_path, {"accuracy": 0.5}))
        for _ in range(20)
    ]
    for thread in openings:
        thread.start()
    for thread in openings:
        thread.join()
    assert len(read_record(tmp_path)["test_openings"]) == 20


@pytest.mark.parametrize(
    "number", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGTERM]
)
def test_a_signal_to_a_training_with_workers_saves(number: int, tmp_path: Path, capfd):
    """The run gets the signal after its third row, while workers read ahead."""

    class Stop:
        rows = 0

        def write(self, row) -> None:
            self.rows += 1
            if self.rows == 3:
                os.kill(os.getpid(), number)

        def close(self) -> None:
            pass

    data = DataConfig(num_train=64, num_validation=64, loader="streaming", num_workers=1)
    config = small(data=data, evaluate=EvaluateConfig(batch_size=32))
    result = run_training(config, tmp_path / "run", lambda _: None, metric_writers=[Stop()])
    assert result.status == "interrupted"
    assert STOPPING in capfd.readouterr().err
    step = result.progress.step
    assert Checkpoints(tmp_path / "run" / "checkpoints").steps()[-1] == step == 4
    config.data.num_workers = 0  # the rest is read without them
    result = run_training(config, tmp_path / "run", lambda _: None)
    assert (result.status, result.progress.step) == ("finished", 8)
    assert list(validation(tmp_path / "run", "loss")) == [2, 4, 6, 8]


def test_where_calls_are_cut_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    config = small(train=TrainConfig(num_epochs=2, batch_size=4))
    config.model = ModelConfig(name="mlp", options={"hidden": (8,), "dropout_rate": 0.3})
    run_training(config, tmp_path / "as it comes", lambda _: None)
    monkeypatch.setattr(stepper, "SECONDS_PER_CALL", 1e-9)
    run_training(config, tmp_path / "one by one", lambda _: None)
    monkeypatch.setattr(stepper, "SECONDS_PER_CALL", 1e9)
    monkeypatch.setattr(stepper, "GROWTH", 1000)
    run_training(config, tmp_path / "as many as fit", lambda _: None)
    folders = sorted(tmp_path.iterdir())
    assert len(folders) == 3
    for folder in folders[1:]:
        assert state_digests(folder) == state_digests(folders[0])
        assert without_rates(folder) == without_rates(folders[0])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("place", ["build_experiment", "CompiledPhase"])
def test_a_signal_before_the_loop_leaves_nothing_behind(
    number: int, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(train, place, lambda *_, **__: signal.raise_signal(number))
    with pytest.raises(KeyboardInterrupt):
        run_training(small(), tmp_path / "runs" / "a", lambda _: None)
    assert not list(tmp_path.iterdir())
    (tmp_path / "b").mkdir()
    with pytest.raises(KeyboardInterrupt):
        run_training(small(), tmp_path / "b", lambda _: None)
    assert {path.name for path in (tmp_path / "b").iterdir()} <= LOCK_FILES
    monkeypatch.undo()
    assert run_training(small(), tmp_path / "b", lambda _: None).status == "finished"


def test_a_start_that_fails_leaves_nothing_behind(tmp_path: Path):
    missing = small(data=DataConfig(name=f"folder:{tmp_path}/nowhere"))
    with refused(DataError):
        run_training(missing, tmp_path / "runs" / "a", lambda _: None)
    assert not list(tmp_path.iterdir())


class Raises:
    """Fails when the second row is written."""

    def __init__(self, error: Exception):
        self.error, self.rows = error, 0

    def write(self, row) -> None:
        self.rows += 1
        if self.rows == 2:
            raise self.error

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (MemoryError(), "The memory does not suffice; lower config.train.batch_size"),
        (
            OSError(errno.EMFILE, os.strerror(errno.EMFILE)),
            "A file cannot be opened (Too many open files); allow more open files (ulimit -n)",
        ),
        (
            OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
            "{workdir} cannot be used (No space left on device); free space",
        ),
    ],
)
def test_what_the_computer_refuses_in_a_training_is_told_and_noted(error, told, tmp_path: Path):
    workdir = tmp_path / "run"
    with pytest.raises(SystemLimitError) as caught:
        run_training(small(), workdir, lambda _: None, metric_writers=[Raises(error)])
    assert str(caught.value).startswith(told.format(workdir=workdir))
    record = read_record(workdir)
    assert (record["status"], record["sessions"][-1]["status"]) == ("failed", "failed")
    assert record["error"] == str(caught.value)
    assert run_training(small(), workdir, lambda _: None).status == "finished"
    record = read_record(workdir)
    assert [s["status"] for s in record["sessions"]] == ["failed", "finished"]
    assert record["error"] is None


def test_a_bug_in_a_training_is_noted_too(tmp_path: Path):
    with pytest.raises(KeyError):
        run_training(
            small(), tmp_path / "run", lambda _: None, metric_writers=[Raises(KeyError("x"))]
        )
    assert read_record(tmp_path / "run")["sessions"][-1]["status"] == "failed"
    assert read_record(tmp_path / "run")["error"] == "KeyError: 'x'"


def test_a_slow_save_lowers_no_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    save, seconds = Checkpoints.save, 0.5

    def slow(*arguments, **options) -> None:
        time.sleep(seconds)
        save(*arguments, **options)

    monkeypatch.setattr(Checkpoints, "save", slow)
    run_training(small(), tmp_path / "run", lambda _: None)
    rows = read_rows(tmp_path / "run" / METRICS_FILE)
    rates = [row["examples_per_second"] for row in rows if row["split"] == "train"]
    assert len(rates) == 4
    assert min(rates) > 64 / seconds


def test_an_interruption_before_the_first_step_promises_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    monkeypatch.setattr(runtime, "start", lambda _: None)
    (tmp_path / "config.json").write_text(json.dumps(to_dict(small())))
    command = ["train", f"--config={tmp_path / 'config.json'}", f"--workdir={tmp_path / 'run'}"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StopSignals, "received", lambda _: True)  # at once
        assert main(command) == 0
    output = capsys.readouterr().out
    assert "Interrupted before the first step, so nothing was trained. Begin again with:" in output
    assert "saved" not in output
    assert main(command) == 0
    assert "Run finished at step 8." in capsys.readouterr().out


def record_of(workdir: Path) -> dict[str, Any]:
    """The newest checkpoint's record without its one measurement of time."""
    reader = CheckpointReader(workdir / "checkpoints")
    record = reader.read_record(reader.steps()[-1])
    del record["sha256"], record["progress"]["seconds"]
    return record


def stopping_early() -> ExperimentConfig:
    """Checks that begin to fail before the last epoch, so that they are part of what resumes."""
    config = small(selection=SelectionConfig(metric="accuracy"))
    config.early_stopping = EarlyStoppingConfig(patience=3, min_delta=0.5)
    config.train.num_epochs = 6
    config.evaluate.batch_size = 16
    return config


@pytest.mark.parametrize("step", [2, 4, 8])  # 8 is the last one: the run stops early there
def test_an_evaluation_that_was_interrupted_is_owed(step: int, tmp_path: Path):
    config = stopping_early()
    whole = run_training(config, tmp_path / "whole", lambda _: None)
    assert (whole.status, whole.progress.step) == ("stopped early", 8)
    workdir = tmp_path / "cut"
    result = run_training(config, workdir, lambda _: None, metric_writers=[SignalAt(step, "train")])
    assert (result.status, result.progress.step) == ("interrupted", step)
    assert record_of(workdir)["progress"]["eval_pending"]
    assert step not in validation(workdir, "loss")
    # Killed after the row of the owed evaluation, before the checkpoint says that it was made.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "amend", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run_training(config, workdir, lambda _: None)
    assert step in validation(workdir, "loss")
    result = run_training(config, workdir, lambda _: None)
    assert result.status == "stopped early"
    assert without_rates(workdir) == without_rates(tmp_path / "whole")
    assert record_of(workdir) == record_of(tmp_path / "whole")
    steps = [Checkpoints(folder / "checkpoints").steps() for folder in tmp_path.iterdir()]
    assert steps[0] == steps[1]


def test_a_last_evaluation_may_be_owed_twice(tmp_path: Path):
    run_training(small(), tmp_path / "whole", lambda _: None)
    workdir = tmp_path / "cut"
    result = run_training(small(), workdir, lambda _: None, metric_writers=[SignalAt(8, "train")])
    assert (result.status, result.progress.step) == ("interrupted", 8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StopSignals, "received", lambda _: True)  # at once
        result = run_training(small(), workdir, lambda _: None)
    assert (result.status, result.progress.step) == ("interrupted", 8)
    assert run_training(small(), workdir, lambda _: None).status == "finished"
    assert without_rates(workdir) == without_rates(tmp_path / "whole")
    assert record_of(workdir) == record_of(tmp_path / "whole")


def test_a_changed_record_is_damage_for_training_and_for_use(tmp_path: Path, caplog):
    workdir = tmp_path / "run"
    run_training(small(), workdir, lambda _: None)
    used = restore_run(workdir, "latest").network.preprocess
    file = workdir / "checkpoints" / "8" / "record" / "metadata"
    text, count = re.subn(r'"mean": \[0\.', '"mean": [9.', file.read_text())
    assert count == 1
    file.write_text(text)
    trained = restore_run(workdir, "latest")
    assert (trained.step, trained.network.preprocess) == (6, used)
    with refused(CheckpointError, where="--checkpoint", found=8):
        restore_run(workdir, "8")
    (workdir / "run.json").write_text("{}")
    said = []
    run_training(small(), workdir, said.append)
    assert "from step 6" in said[0]


class _Normalised(nn.Module):
    """A convolution and a batch normalisation, whose statistics are no parameters."""

    @nn.compact
    def __call__(self, images, *, train: bool):
        x = nn.Conv(4, (3, 3), name="conv")(images)
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9, name="norm")(x)
        return {"maps": nn.relu(x)}


def _normalised(num_classes: int) -> Classifier:
    return Classifier(_Normalised(), PooledHead(num_classes))


def test_batch_statistics_resume_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    entry = ModelEntry(_normalised, "a test's", "none", (8, 8, 1), 0)
    monkeypatch.setitem(MODELS, "normalised", entry)
    config = small(model=ModelConfig(name="normalised"))
    config.train.batch_size, config.train.log_every_steps = 16, 1
    run_training(config, tmp_path / "whole", lambda _: None)
    for step in (3, 8, 10):  # in the middle of an epoch, and at the end of one
        metric_writers = [SignalAt(step, "train")]
        result = run_training(
            config, tmp_path / "cut", lambda _: None, metric_writers=metric_writers
        )
        assert (result.status, result.progress.step) == ("interrupted", step)
    assert run_training(config, tmp_path / "cut", lambda _: None).status == "finished"
    digests = state_digests(tmp_path / "whole")
    assert {"mean", "var"} == {p.rpartition("/")[2] for p in digests if "batch_stats" in p}
    assert state_digests(tmp_path / "cut") == digests
    assert without_rates(tmp_path / "cut") == without_rates(tmp_path / "whole")
    reader = CheckpointReader(tmp_path / "cut" / "checkpoints")
    first, last = reader.read_record(reader.steps()[0]), reader.read_record(16)
    for path in digests:
        if "batch_stats" in path:
            assert first["digests"][path] != last["digests"][path]


PROCESS = """
import json, multiprocessing, os, signal, sys, time
from pathlib import Path

def main():
    import jax
    jax.config.update("jax_num_cpu_devices", 4)
    from cnn_lab.cli import runtime
    from cnn_lab.config import ExperimentConfig
    from cnn_lab.config.node import from_dict
    from cnn_lab.runs.train import run_training
    runtime.start_logging()

    class Stop:
        def write(self, row):
            if (row["step"], row["split"]) == (4, "train"):
                print([child.pid for child in multiprocessing.active_children()], flush=True)
                exec(sys.argv[3])
                time.sleep(0.5)

        def close(self):
            pass

    config = from_dict(ExperimentConfig, json.loads(sys.argv[2]))
    print(run_training(config, Path(sys.argv[1]), lambda _: None, metric_writers=[Stop()]).status)

if __name__ == "__main__":
    main()
"""


def in_a_group(tmp_path: Path, config: ExperimentConfig, act: str) -> tuple[int, list[str], str]:
    """Trains in a process group of its own, which does `act` at the second row of training."""
    script = tmp_path / "training.py"
    script.write_text(PROCESS)
    errors = tmp_path / "errors.txt"  # no pipe: workers that outlive their parent hold it open
    with errors.open("w") as stderr, (tmp_path / "output.txt").open("w") as stdout:
        status = subprocess.run(
            [sys.executable, script, tmp_path / "cut", json.dumps(to_dict(config)), act],
            cwd=Path(train.__file__).parents[2],
            env={**os.environ, "PYTHONPATH": str(Path(train.__file__).parents[2])},
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
            timeout=120,
            check=False,
        ).returncode
    output = (tmp_path / "output.txt").read_text().splitlines()
    return status, [line for line in output if "step" not in line], errors.read_text()


def process_config(loader: Literal["in_memory", "streaming"]) -> ExperimentConfig:
    data = DataConfig(num_train=64, num_validation=256, loader=loader, num_workers=1)
    return small(data=data, evaluate=EvaluateConfig(batch_size=32))


def gone(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return True
    return status.rpartition(")")[2].split()[0] == "Z"


@pytest.mark.parametrize("loader", ["in_memory", "streaming"])
def test_a_signal_to_the_whole_group_in_an_evaluation_saves(
    loader: Literal["in_memory", "streaming"], tmp_path: Path
):
    config = process_config(loader)
    act = "os.killpg(0, signal.SIGTERM)"
    status, output, errors = in_a_group(tmp_path, config, act)
    assert (status, output[-1]) == (0, "interrupted"), errors
    assert errors.count(STOPPING) == 1
    assert "Traceback" not in errors
    children = json.loads(output[0])
    assert len(children) == 2 * (loader == "streaming")  # one trains, one validates
    assert all(gone(child) for child in children)
    assert record_of(tmp_path / "cut")["progress"]["eval_pending"]
    assert run_training(config, tmp_path / "cut", lambda _: None).status == "finished"
    config.data.num_workers = 0  # which changes nothing
    run_training(config, tmp_path / "whole", lambda _: None)
    assert without_rates(tmp_path / "cut") == without_rates(tmp_path / "whole")
    assert record_of(tmp_path / "cut") == record_of(tmp_path / "whole")


def test_workers_end_with_a_training_that_is_killed(tmp_path: Path):
    act = "os.kill(os.getpid(), signal.SIGKILL)"
    status, output, _ = in_a_group(tmp_path, process_config("streaming"), act)
    assert status == -signal.SIGKILL
    children = json.loads(output[0])
    assert len(children) == 2
    deadline = time.monotonic() + 20
    while not all(gone(child) for child in children):
        assert time.monotonic() < deadline, "workers wait for ever"
        time.sleep(0.1)


class NaNs:
    """An evaluation whose metrics are not finite from the second on."""

    count = 0

    def compile(self, _) -> Future[None]:
        future: Future[None] = Future()
        future.set_result(None)
        return future

    def __call__(self, *_) -> dict[str, float]:
        self.count += 1
        return {"loss": 1.0 if self.count == 1 else math.nan, "accuracy": math.nan}


def test_an_evaluation_that_is_not_finite_is_recorded_and_never_the_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(Experiment, "evaluator", lambda _: NaNs())
    config = small(selection=SelectionConfig(metric="loss"))
    config.early_stopping = EarlyStoppingConfig(patience=2)
    result = run_training(config, tmp_path / "run", lambda _: None)
    assert (result.status, result.progress.step) == ("stopped early", 6)
    selection = result.progress.selection
    assert (selection.best_value, selection.best_step, selection.stale_checks) == (1.0, 2, 2)
    for name in ("metrics.jsonl", "run.json"):
        assert "NaN" not in (tmp_path / "run" / name).read_text()
    assert validation(tmp_path / "run", "loss") == {2: 1.0, 4: None, 6: None}
    page = write_report(tmp_path / "run").page.read_text()
    assert page.count("not finite") == 5


def test_a_run_traces_its_network_once_a_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    traces: list[bool] = []

    class Backbone(nn.Module):
        @nn.compact
        def __call__(self, images, *, train: bool):
            traces.append(train)
            return {"maps": nn.Conv(2, (3, 3), name="conv")(images)}

    make = lambda num_classes: Classifier(Backbone(), PooledHead(num_classes))  # noqa: E731
    monkeypatch.setitem(MODELS, "traced", ModelEntry(make, "a test's", "none", (8, 8, 1), 0))
    config = small(model=ModelConfig(name="traced"))
    assert run_training(config, tmp_path / "run", lambda _: None).status == "finished"
    assert sorted(traces) == [False, False, True]  # initial values, validation, training


def test_all_of_a_run_is_traced_as_the_caller_has_set_jax(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    traces: list[tuple[bool, str | None]] = []

    class Backbone(nn.Module):
        @nn.compact
        def __call__(self, images, *, train: bool):
            traces.append((train, jax.config.jax_default_matmul_precision))  # pyright: ignore[reportAttributeAccessIssue]
            return {"maps": nn.Conv(2, (3, 3), name="conv")(images)}

    make = lambda num_classes: Classifier(Backbone(), PooledHead(num_classes))  # noqa: E731
    monkeypatch.setitem(MODELS, "traced", ModelEntry(make, "a test's", "none", (8, 8, 1), 0))
    with jax.default_matmul_precision("highest"):
        run_training(small(model=ModelConfig(name="traced")), tmp_path / "run", lambda _: None)
    assert set(traces) == {(False, "highest"), (True, "highest")}


class Compiling:
    """Stands in for JAX's compilation of a validation program, in the thread that it happens in."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: Exception | None = None):
        self.released, self.threads = threading.Event(), list[threading.Thread]()
        self._error, self._compile = error, jax.stages.Lowered.compile
        monkeypatch.setattr(jax.stages.Lowered, "compile", lambda lowered: self(lowered))

    def __call__(self, lowered: jax.stages.Lowered) -> jax.stages.Compiled:
        if "@jit_evaluate" in lowered.as_text()[:200]:
            self.threads.append(threading.current_thread())
            assert self.released.wait(60), "the training waited for it"
            if self._error is not None:
                raise self._error
        return self._compile(lowered)


def test_validation_is_compiled_while_the_training_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    compiling = Compiling(monkeypatch)

    def log(line: str) -> None:
        if "compiled in" in line:
            compiling.released.set()

    assert run_training(small(), tmp_path / "run", log).status == "finished"
    assert len(compiling.threads) == 1
    assert len(validation(tmp_path / "run", "loss")) == 4


def test_validation_that_does_not_compile_ends_the_run_with_that_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    error = ValueError("no such operation")
    compiling = Compiling(monkeypatch, error)

    def log(line: str) -> None:
        if "compiled in" in line:
            compiling.released.set()

    with pytest.raises(ValueError, match="no such operation") as raised:
        run_training(small(), tmp_path / "run", log)
    assert raised.value is error
    assert len(compiling.threads) == 1


@pytest.mark.parametrize("step", [1, 2])  # after the second one it waits for the compilation
def test_an_interrupt_does_not_wait_for_a_compilation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
):
    compiling = Compiling(monkeypatch)
    config = small()
    config.train.log_every_steps = 1
    result = run_training(config, tmp_path / "run", lambda _: None, [SignalAt(step, "train")])
    assert (result.status, result.progress.step) == ("interrupted", step)
    (thread,) = compiling.threads
    assert thread.is_alive()
    compiling.released.set()
    thread.join()
    assert run_training(config, tmp_path / "run", lambda _: None).status == "finished"
    assert len(validation(tmp_path / "run", "loss")) == 4


def test_neither_does_one_that_comes_while_it_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    compiling = Compiling(monkeypatch)
    interrupt = threading.Timer(2.0, os.kill, (os.getpid(), signal.SIGINT))

    def log(line: str) -> None:
        if "compiled in" in line:
            interrupt.start()

    result = run_training(small(), tmp_path / "run", log)
    assert (result.status, result.progress.step) == ("interrupted", 2)
    compiling.released.set()


def test_a_limit_on_silence_counts_no_compilation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    compiling, lines = Compiling(monkeypatch), list[str]()

    def release() -> None:
        assert not any("compiled in" in line for line in lines)
        compiling.released.set()

    later = threading.Timer(3.0, release)
    config = small(mesh=MeshConfig(hang_seconds=60))
    later.start()
    assert run_training(config, tmp_path / "run", lines.append).status == "finished"
    assert compiling.released.is_set()


def test_a_moved_folder_keeps_its_identity_and_the_next_one_gets_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked = []

    class Spy(TensorBoard):
        def __init__(self, workdir, project, identity, config):
            asked.append(identity)
            super().__init__(workdir, 0)

    monkeypatch.setattr(metric_writers, "WeightsAndBiases", Spy)
    monkeypatch.setattr(train, "require_wandb", lambda: None)
    config = small(log=LogConfig(tensorboard=False, wandb_project="project"))
    config.train.num_epochs = 1
    run_training(config, tmp_path / "a", lambda _: None)
    record = read_record(tmp_path / "a")
    assert record["wandb_id"] == asked[0]
    (tmp_path / "a" / "run.json").write_text(json.dumps({**record, "status": "interrupted"}))
    (tmp_path / "a").rename(tmp_path / "b")
    run_training(config, tmp_path / "b", lambda _: None)
    run_training(config, tmp_path / "a", lambda _: None)
    assert asked[1] == asked[0]
    assert asked[2] != asked[0]
    assert all(len(identity) == 16 for identity in asked)
