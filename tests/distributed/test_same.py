"""Processes that would not do the same are refused, with what they differ in."""

import dataclasses
import threading

import jax
import pytest

from cnn_lab.cli.joining import _settings, check_alike
from cnn_lab.config import ExperimentConfig, TransferConfig
from cnn_lab.core.errors import ConfigError
from cnn_lab.distributed import processes
from cnn_lab.distributed.processes import SINGLE_PROCESS, Processes, check_same, check_same_data


class Two(Processes):
    """Of which the other one gives what `other` makes of this one's value."""

    count = 2

    def __init__(self, other):
        self._other = other

    def all_gather(self, value):
        return [value, self._other(value)]


def test_one_alone_and_those_that_agree_go_on():
    for those in (SINGLE_PROCESS, Two(lambda value: value)):
        check_same_data(those, "abc")
        check_alike(those, ExperimentConfig())


def test_other_data_are_named():
    with pytest.raises(ConfigError, match=r"Process 1 has another fingerprint of its data than"):
        check_same_data(Two(lambda value: value[::-1]), "0123456789abcdef0123")
    text = r"^Process 1 has another colour than process 0 \(blue and red\); paint it\.$"
    with pytest.raises(ConfigError, match=text):
        check_same(Two(lambda _: "blue"), "colour", "red", "paint it")


@pytest.mark.parametrize("field", ["seed", "mesh"])
def test_the_field_that_differs_is_named_runtime_ones_too(field):
    def other(value):
        if not isinstance(value, dict):
            return value
        return {**value, field: 7 if field == "seed" else {**value["mesh"], "num_devices": 7}}

    where = {"seed": "seed is 7 and 0", "mesh": "mesh.num_devices is 7 and None"}[field]
    text = f"Process 1 has another config than process 0: config.{where}; give all of them the same"
    with pytest.raises(ConfigError, match=text):
        check_alike(Two(other), dataclasses.replace(ExperimentConfig(), seed=0))


def test_another_setting_that_changes_numbers_is_named():
    def other(value):
        if isinstance(value, list):
            return ["jax_enable_x64=True", *(v for v in value if "enable_x64" not in v)]
        return value

    text = r"^jax_enable_x64=False is set for process 1 or for process 0, and not for both; give"
    with pytest.raises(ConfigError, match=text):
        check_alike(Two(other), ExperimentConfig())


def test_flags_of_the_compiler_must_be_the_same_but_for_where_dumps_go(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_b=2 --xla_dump_to=/tmp/mine --xla_a=1")
    flags = [value for value in _settings() if value.endswith(" of XLA_FLAGS")]
    assert flags == ["--xla_a=1 of XLA_FLAGS", "--xla_b=2 of XLA_FLAGS"]


def test_what_one_process_fits_is_nothing_for_two():
    config = dataclasses.replace(ExperimentConfig(), transfer=TransferConfig(strategy="logistic"))
    text = r"strategy=logistic is fitted by one process, not by 2; start one, or take the strategy"
    with pytest.raises(ConfigError, match=text):
        check_alike(Two(lambda value: value), config)


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
    assert processes.is_loss(error) == lost
    assert not processes.is_loss(ValueError(text))


def test_another_process_is_not_waited_for_without_end(monkeypatch, capfd):
    """One whose disk never answers still gives signs of life."""
    told, waits = [], threading.Event()

    class Waiting(processes.JaxProcesses):
        def hangs(self, text):
            told.append(text)
            waits.set()

    monkeypatch.setattr(processes, "WAIT_SECONDS", 0.1)
    monkeypatch.setattr(Waiting, "_gathered", lambda *_: waits.wait(20) and ["late"])
    assert Waiting().all_gather("here") == ["late"]
    assert [text[:53] for text in told] == ["process 0 of 1 has waited 0 s for another one (the st"]
    assert "most recent call first" in capfd.readouterr().err


def test_another_code_or_jax_is_named():
    def other(value):
        return "0" * 64 if isinstance(value, str) and len(value) == 64 else value

    with pytest.raises(ConfigError, match="another version of cnn_lab's code than process 0"):
        check_alike(Two(other), ExperimentConfig())
    with pytest.raises(ConfigError, match=r"another version of jax than process 0 \(0.1 and"):
        check_alike(Two(lambda _: "0.1"), ExperimentConfig())


def test_another_flag_is_named():
    other = Two(lambda value: "3:5" if value == "10:15" else value)
    text = r"^Process 1 has another --profile_steps than process 0 \(3:5 and 10:15\); give all"
    with pytest.raises(ConfigError, match=text):
        check_alike(other, ExperimentConfig(), {"profile_steps": "10:15"})
