"""Values that processes exchange through a key-value store, and how they end each other."""

import contextlib
import json
import threading

import jax
import pytest

from cnn_lab.core.errors import LOST_STATUS
from cnn_lab.distributed import processes
from cnn_lab.distributed.processes import JaxProcesses, is_loss


class Store:
    """The key-value store of a runtime with some processes, in this one."""

    def __init__(self, count: int):
        self.values: dict[str, str] = {}
        self.reads: list[int] = []  # how many values there were
        self._barrier = threading.Barrier(count)

    def key_value_set(self, key: str, value: str, allow_overwrite: bool = False) -> None:
        if key in self.values and not allow_overwrite:
            raise jax.errors.JaxRuntimeError("ALREADY_EXISTS")
        self.values[key] = value

    def key_value_dir_get(self, key: str) -> list[tuple[str, str]]:
        found = [(name, value) for name, value in self.values.items() if name.startswith(f"{key}/")]
        self.reads.append(len(found))
        return found

    def wait_at_barrier(self, barrier_id: str, timeout_in_ms: int) -> None:
        del barrier_id
        try:
            self._barrier.wait(min(timeout_in_ms / 1000, 20))
        except threading.BrokenBarrierError:
            raise jax.errors.JaxRuntimeError("DEADLINE_EXCEEDED: Barrier timed out.") from None


class Ended(BaseException):
    """The end of a process, with its status."""


@pytest.fixture
def store(monkeypatch):
    """The store of two processes, whose end is an exception here."""

    def end(status: int) -> None:
        raise Ended(status)

    jax.devices()  # of this process alone, before there seems to be a runtime
    for name in ("POLL_SECONDS", "TIDY_SECONDS", "VERDICT_SECONDS", "LEAVE_SECONDS"):
        monkeypatch.setattr(processes, name, 0.01)
    monkeypatch.setattr(processes, "_ending", threading.Lock())
    monkeypatch.setattr(processes.os, "_exit", end)
    store = Store(2)
    monkeypatch.setattr(processes.distributed.global_state, "client", store)
    return store


def process(index: int) -> JaxProcesses:
    found = JaxProcesses()
    found.index, found.count = index, 2
    return found


def test_values_come_in_the_order_of_processes_round_after_round(store, monkeypatch):
    rounds = {"one": iter(range(100)), "two": iter(range(100))}  # of each its own, as really

    class Own:
        def __next__(self):
            return next(rounds[threading.current_thread().name])

    monkeypatch.setattr(processes, "_rounds", Own())
    gathered = {}

    def work(index: int) -> None:
        those = process(index)
        gathered[index] = [those.all_gather([index, number]) for number in range(50)]

    threads = [threading.Thread(target=work, args=(i,), name=n) for i, n in enumerate(rounds)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert gathered[0] == gathered[1] == [[[0, n], [1, n]] for n in range(50)]
    assert max(store.reads) == 2  # nothing piles up


def test_another_process_is_not_waited_for_without_end(store, monkeypatch, capfd):
    """One whose disk never answers still sends heartbeats."""
    monkeypatch.setattr(processes, "WAIT_SECONDS", 0.1)
    with pytest.raises(Ended) as ended:
        process(0).all_gather("here")
    assert ended.value.args == (LOST_STATUS,)
    said = capfd.readouterr().err
    assert "error: process 0 of 2 has waited 0 s for another one (the stacks above say" in said
    assert "most recent call first" in said
    assert json.loads(store.values["cnn_lab/verdict/first"])[::2] == [0, LOST_STATUS]


def test_the_end_of_one_process_is_that_of_the_others(store, monkeypatch, capfd):
    with pytest.raises(Ended) as ended:
        process(1).end("mine\n", "why", 2)
    assert ended.value.args == (2,)
    monkeypatch.setattr(processes, "_ending", threading.Lock())  # of another process
    with pytest.raises(Ended) as ended:
        process(0).watch()
    assert ended.value.args == (2,)
    assert capfd.readouterr().err == "mine\nerror: process 1 of 2 ended: why\n"


def test_a_process_that_left_looks_for_no_end(store):
    those = process(0)
    with contextlib.suppress(Ended):
        process(1).end("", "why", 2)
    those._left.set()
    those.watch()


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (ValueError("UNKNOWN: Gloo AllGather failed: reset"), 75, "error: another one of 2 proces"),
        (KeyError("a bug"), 1, "KeyError: 'a bug'\n"),
    ],
)
def test_a_bug_keeps_its_traceback_and_a_loss_is_a_sentence(store, capfd, error, status, text):
    with pytest.raises(Ended) as ended:
        process(0).end_after(error)
    assert ended.value.args == (status,)
    assert text in capfd.readouterr().err
    assert json.loads(store.values["cnn_lab/verdict/first"])[2] == status


@pytest.mark.parametrize(
    ("text", "lost"),
    [
        ("UNKNOWN: Gloo all-reduce failed: Connection closed by peer", True),
        ("INTERNAL: NCCL operation failed", True),
        ("INVALID_ARGUMENT: Executable expected another shape", False),
        ("RESOURCE_EXHAUSTED: Out of memory allocating 4 bytes", False),
    ],
)
def test_devices_fail_for_want_of_another_process_unless_all_fail_alike(text, lost):
    error = TimeoutError("at a barrier")
    error.__cause__ = jax.errors.JaxRuntimeError(text)
    assert is_loss(error) == lost
    assert is_loss(ValueError(text)) == ("Gloo" in text)  # which CPUs' collectives raise
