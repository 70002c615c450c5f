"""Several processes that train as one: the same bits, one end, and one sentence for a mistake."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from launching import (
    ROOT,
    alone,
    checkpoint_in,
    children,
    digests,
    environment,
    kill,
    launched,
    until,
)

LENET = "--config=experiments/digits/lenet5.py"
EPOCHS = 6


def train(*arguments: str) -> tuple[str, ...]:
    return ("train", LENET, f"--config.train.num_epochs={EPOCHS}", *arguments)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, data_dir):
    """The run of one process with two devices."""
    workdir = tmp_path_factory.mktemp("alone") / "run"
    alone(*train(f"--workdir={workdir}"), devices=2)
    return workdir


def rows(workdir: Path) -> list[str]:
    """Metrics without what depends on the clock."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [line.partition(', "examples_per_second"')[0] for line in lines]


def test_two_processes_train_what_one_does_bit_for_bit_and_stop_and_go_on_as_one(
    undisturbed, tmp_path
):
    workdir, logs = tmp_path / "run", tmp_path / "logs"
    group = launched(*train(f"--workdir={workdir}"), processes=2, logs=logs)
    until(lambda: checkpoint_in(workdir))
    group.send_signal(signal.SIGTERM)
    output, _ = group.communicate(timeout=120)
    assert group.returncode == 0, output
    assert "[0] Interrupted at step" in output
    assert "error" not in (logs / "process1.log").read_text()
    step, _ = digests(workdir)
    assert step < digests(undisturbed)[0]
    again = launched(*train(f"--workdir={workdir}"), processes=2, logs=logs)
    output, _ = again.communicate(timeout=120)
    assert again.returncode == 0, output
    assert f"[0] Resuming {workdir} from step {step}." in output
    assert digests(workdir) == digests(undisturbed)
    assert rows(workdir) == rows(undisturbed)


def test_when_one_is_killed_the_launcher_says_so_and_all_are_started_again(undisturbed, tmp_path):
    workdir, logs = tmp_path / "run", tmp_path / "logs"
    group = launched(*train(f"--workdir={workdir}"), processes=2, logs=logs, max_restarts=1)
    until(lambda: checkpoint_in(workdir))
    kill(children(group)[1])
    output, _ = group.communicate(timeout=180)
    assert group.returncode == 0, output
    assert "launch: process 1 was killed by signal 9" in output
    assert "launch: restart 1 of 1: status 137" in output
    assert "Traceback" not in output
    assert digests(workdir) == digests(undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("lost", [0, 2])
def test_when_one_of_three_is_killed_the_others_end_and_the_launcher_says_who_and_how_to_go_on(
    tmp_path, data_dir, lost
):
    workdir, logs = tmp_path / "run", tmp_path / "logs"
    command = train(f"--workdir={workdir}", "--config.train.batch_size=48")
    group = launched(*command, "--config.train.num_epochs=200", processes=3, logs=logs)
    until(lambda: checkpoint_in(workdir) or group.poll() is not None)
    kill(children(group)[lost])
    output, _ = group.communicate(timeout=60)
    assert group.returncode == 137
    assert f"launch: process {lost} was killed by signal 9" in output
    assert f"launch: status 137, logs in {logs}; what was saved before is intact: run" in output
    assert "Traceback" not in output


@pytest.mark.slow
def test_a_process_that_hangs_ends_the_others_with_their_stacks(tmp_path, data_dir):
    workdir, logs = tmp_path / "run", tmp_path / "logs"
    command = train(f"--workdir={workdir}", "--config.mesh.hang_seconds=15")
    group = launched(*command, processes=2, logs=logs)
    until(lambda: checkpoint_in(workdir) or group.poll() is not None)
    os.kill(children(group)[1], signal.SIGSTOP)
    output, _ = group.communicate(timeout=90)
    assert group.returncode == 75
    assert "[0] error: nothing has come back from the devices for" in output
    assert "most recent call first" in (logs / "process0.log").read_text()
    assert "launch: process 1 did not end or answer; killing it" in output


@pytest.mark.slow
def test_a_signal_in_an_evaluation_of_two_saves_at_once_and_it_is_caught_up_on(
    undisturbed, tmp_path
):
    """Which takes most of the time here: batches of two images, one a call."""
    own = ("--config.evaluate.batch_size=2", "--config.data.loader=streaming")
    workdir, logs = tmp_path / "run", tmp_path / "logs"
    whole = launched(*train(f"--workdir={tmp_path / 'whole'}", *own), processes=2, logs=logs)
    output, _ = whole.communicate(timeout=180)
    assert whole.returncode == 0, output
    stopped = 0
    for attempt in range(8):
        group = launched(*train(f"--workdir={workdir}", *own), processes=2, logs=tmp_path / "l")
        begun = len(rows_in(workdir))
        until(lambda: group.poll() is not None or len(rows_in(workdir)) > begun)  # noqa: B023
        time.sleep(0.05 * attempt)
        group.send_signal(signal.SIGTERM)
        output, _ = group.communicate(timeout=120)
        assert group.returncode == 0, output
        assert "Traceback" not in output
        stopped += "Interrupted at step" in output
        if "Run finished" in output or "Nothing to do" in output:
            break
    last = launched(*train(f"--workdir={workdir}", *own), processes=2, logs=tmp_path / "l")
    output, _ = last.communicate(timeout=180)
    assert last.returncode == 0, output
    assert stopped
    assert digests(workdir) == digests(tmp_path / "whole")
    assert rows(workdir) == rows(tmp_path / "whole")


def rows_in(workdir: Path) -> list[str]:
    return rows(workdir) if (workdir / "metrics.jsonl").exists() else []


def slurm(rank: int, port: int) -> dict[str, str]:
    """Variables of a task of two (jax takes the port from the number of the job)."""
    return {
        "SLURM_JOB_ID": str(port),
        "SLURM_NTASKS": "2",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_STEP_NUM_NODES": "1",
        "SLURM_PROCID": str(rank),
        "SLURM_LOCALID": str(rank),
    }


def cloud_tpu(rank: int, port: int) -> dict[str, str]:
    """Variables of a worker of two, as GKE sets them; and that there is a TPU at all."""
    return {
        "JAX_FORCE_TPU_INIT": "1",
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_WORKER_HOSTNAMES": "localhost,localhost",
        "TPU_WORKER_ID": str(rank),
        "MEGASCALE_COORDINATOR_ADDRESS": "localhost",
        "MEGASCALE_NUM_SLICES": "1",
        "MEGASCALE_SLICE_ID": "0",
        "JAX_COORDINATOR_PORT": str(port),
    }


@pytest.mark.slow
@pytest.mark.parametrize("variables", [slurm, cloud_tpu])
def test_the_variables_of_a_cluster_are_enough(tmp_path, data_dir, variables):
    workdir, port = tmp_path / "run", free_port()
    command = train(f"--workdir={workdir}", "--cluster", "--config.train.num_epochs=2")
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "cnn_lab.cli.main", *command],
            env={**environment(1), **variables(rank, port)},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    said = [process.communicate(timeout=120) for process in started]
    assert [process.returncode for process in started] == [0, 0], said
    assert "in_memory, on 2 cpu devices; compiled in" in said[0][0]
    assert digests(workdir)[0] == 36


def failing(
    tmp_path: Path, *flags: tuple[str, ...], seconds: int = 120, devices: tuple[int, ...] = (1, 1)
) -> list[tuple[int, str]]:
    """Status and words of processes that are started with flags of their own."""
    started = [
        subprocess.Popen(
            [
                sys.executable,
                "-m",
                "cnn_lab.cli.main",
                *train(*own, *(() if has_workdir(own) else (f"--workdir={tmp_path / 'run'}",))),
            ],
            env=environment(number),
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for own, number in zip(flags, devices, strict=False)
    ]
    said = [process.communicate(timeout=seconds)[1] for process in started]
    for text in said:  # of Python, of JAX's runtime
        assert "Traceback" not in text
        assert "Check failure" not in text
    return [(p.returncode, text) for p, text in zip(started, said, strict=True)]


def has_workdir(flags: tuple[str, ...]) -> bool:
    return any(flag.startswith("--workdir=") for flag in flags)


def joined(port: int, *more: tuple[str, ...]) -> list[tuple[str, ...]]:
    at = (f"--coordinator=localhost:{port}", "--num_processes=2")
    return [(*at, f"--process_id={index}", *own) for index, own in enumerate(more)]


def answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("localhost", port), timeout=1):
        return True
    return False


def free_port() -> int:
    with socket.create_server(("", 0)) as server:
        return server.getsockname()[1]


@pytest.mark.parametrize(
    ("mine", "text"),
    [
        (
            ("--config.optim.learning_rate=0.5",),
            "Process 1 has another config.optim.learning_rate than process 0 (0.5 and 0.002); give",
        ),
        (
            ("--workdir=/tmp/elsewhere",),
            "The --workdir of process 1 is not the folder of process 0,",
        ),
    ],
    ids=["config", "workdir"],
)
def test_processes_that_would_not_do_the_same_are_refused(tmp_path, data_dir, mine, text):
    ended = failing(tmp_path, *joined(free_port(), (), mine))
    for status, said in ended:
        assert status == 2, said
        assert text in said
        assert said.count("error:") == 1
    assert not (tmp_path / "run").exists()


def test_a_mistake_that_the_first_one_alone_finds_is_told_by_all(tmp_path, data_dir):
    (tmp_path / "run").write_text("no folder")
    for index, (status, said) in enumerate(failing(tmp_path, *joined(free_port(), (), ()))):
        assert status == 2, said
        assert "is a file; give the path of a folder as --workdir." in said
        assert said.count("error:") == 1
        assert ("error: process 0 of 2 ended: " in said) == (index == 1)


@pytest.mark.slow
def test_processes_with_other_numbers_of_devices_are_refused(tmp_path, data_dir):
    for status, said in failing(tmp_path, *joined(free_port(), (), ()), devices=(3, 1)):
        assert status == 2, said
        assert "equally many devices; found 3 in process 0, 1 in process 1. Look for" in said


@pytest.mark.slow
def test_a_signal_is_answered_while_the_others_are_waited_for(tmp_path):
    port = free_port()
    first = joined(port, (), ())[0]
    command = [sys.executable, "-m", "cnn_lab.cli.main", *train(*first, "--interrupted_status=75")]
    process = subprocess.Popen(
        command, env=environment(1), cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    until(lambda: answers(port))
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=5)
    assert process.returncode == 75, said
    assert said.strip() == "interrupted; what was saved before is intact."


@pytest.mark.slow
@pytest.mark.parametrize("lost", [0, 1])
def test_a_process_that_answers_no_more_ends_the_others(tmp_path, data_dir, lost):
    """As where its machine lost power: no connection is closed, but heartbeats fail."""
    logs = tmp_path / "logs"
    command = train(f"--workdir={tmp_path / 'run'}", "--config.train.num_epochs=1000")
    group = launched(*command, processes=2, logs=logs)
    until(lambda: checkpoint_in(tmp_path / "run") or group.poll() is not None)
    other = Path(f"/proc/{children(group)[1 - lost]}")
    os.kill(children(group)[lost], signal.SIGSTOP)
    until(lambda: not other.exists(), seconds=60)
    output, _ = group.communicate(timeout=60)
    assert group.returncode in (75, 134)  # as a collective fails, or JAX's runtime ends it
    assert f"launch: process {lost} did not end or answer; killing it" in output
    assert "run the same command again to go on from there" in output


def test_nobody_at_the_coordinators_address_is_told_in_time(tmp_path):
    alone = joined(free_port(), (), ())[1]
    ((status, said),) = failing(tmp_path, (*alone, "--join_seconds=2"))
    assert status == 75
    assert "Process 1 of 2 found nobody at --coordinator=localhost:" in said


def test_a_process_that_never_comes_is_told_in_time(tmp_path):
    first = joined(free_port(), (), ())[0]
    ((status, said),) = failing(tmp_path, (*first, "--join_seconds=3"))
    assert status == 75
    assert "Process 0 of 2 waited 3 s at --coordinator=localhost:" in said
    assert "start the others, each with a --process_id of its own, or raise" in said
