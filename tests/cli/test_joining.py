"""Flags by which processes find each other, and refusals of processes that differ."""

import dataclasses

import pytest
from absl import flags
from refusals import refused

from cnn_lab.cli import joining
from cnn_lab.cli.commands.train import parse_steps
from cnn_lab.cli.flags import parse
from cnn_lab.config import ExperimentConfig, MeshConfig, TransferConfig
from cnn_lab.config.node import to_dict
from cnn_lab.core.errors import ConfigError
from cnn_lab.distributed.processes import SINGLE_PROCESS, Processes, check_same_config


def values_of(*arguments: str) -> flags.FlagValues:
    return parse("train", joining.FLAGS, arguments).flags


ALL = ("--coordinator=node1:8476", "--num_processes=4", "--process_id=3")


def test_without_flags_a_process_is_alone():
    assert joining.check(values_of()) == 1
    assert joining.check(values_of(*ALL)) == 4
    assert joining.check(values_of("--cluster")) == 0


@pytest.mark.parametrize(
    ("arguments", "where", "found"),
    [
        (ALL[:2], "--process_id", None),
        (ALL[1:], "--coordinator", None),
        ((*ALL, "--cluster"), "--cluster", None),
        ((*ALL[:2], "--process_id=4"), "--process_id", 4),
        (("--coordinator=node1", *ALL[1:]), "--coordinator", "node1"),
        (("--coordinator=node1:99999", *ALL[1:]), "--coordinator", "node1:99999"),
        ((*ALL, "--join_seconds=0"), "--join_seconds", "0"),
        (("--interrupted_status=300",), "--interrupted_status", "300"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_flags_that_do_not_go_together_are_refused(arguments, where, found):
    with refused(ConfigError, where=where, found=found):
        joining.check(values_of(*arguments))


def test_devices_are_those_of_all_processes_together():
    def local(asked: int | None, count: int) -> int | None:
        config = ExperimentConfig(mesh=MeshConfig(num_devices=asked))
        config.train.batch_size = 64
        return joining.local_devices(config, count)

    assert local(None, 4) is None
    assert local(8, 4) == 2
    assert local(8, 0) == 8  # how many there are is up to the cluster
    assert local(100_000, 1) == 64


def test_the_steps_of_a_trace_are_two_numbers():
    assert parse_steps("10:15") == (10, 15)
    for text in ("10", "15:10", "a:b", ":5", "5:5", "-1:5"):
        with refused(ConfigError, where="--profile_steps", found=text):
            parse_steps(text)


class Two(Processes):
    """Of which the other one has other values of some names."""

    count = 2

    def __init__(self, **others):
        self._others = others

    def all_gather(self, value):
        return [value, {**value, **{k: v for k, v in self._others.items() if k in value}}]


def test_processes_that_agree_go_on_and_a_runtime_field_that_differs_is_named():
    config = dataclasses.replace(ExperimentConfig(), seed=0)
    for those in (SINGLE_PROCESS, Two()):
        joining.check_same_command(those, config)
    with refused(ConfigError, where="config.mesh.num_devices", found=7):
        joining.check_same_command(Two(**{"config.mesh.num_devices": 7}), config)
    elsewhere = Two(**{"config.transfer.source": "/elsewhere"})
    check_same_config(elsewhere, to_dict(config), exempt=("config.transfer.source",))


def test_what_one_process_fits_is_nothing_for_two():
    config = dataclasses.replace(ExperimentConfig(), transfer=TransferConfig(strategy="logistic"))
    with refused(ConfigError, where="config.transfer.strategy", found="logistic"):
        joining.check_same_command(Two(), config)


def test_another_flag_is_named():
    with refused(ConfigError, where="--profile_steps", found="3:5"):
        joining.check_same_command(
            Two(**{"--profile_steps": "3:5"}), ExperimentConfig(), {"profile_steps": "10:15"}
        )
