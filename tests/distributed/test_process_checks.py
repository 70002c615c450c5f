"""Processes that would not do the same are refused, with what they differ in."""

import pytest
from refusals import refused

from cnn_lab.core.errors import ConfigError
from cnn_lab.distributed.processes import (
    SINGLE_PROCESS,
    Processes,
    check_same,
    check_same_config,
    check_same_program,
)


class Two(Processes):
    """Of which the other one has other values of some names."""

    count = 2

    def __init__(self, **others):
        self._others = others

    def all_gather(self, value):
        return [value, {**value, **{k: v for k, v in self._others.items() if k in value}}]


def test_one_alone_and_those_that_agree_go_on():
    for those in (SINGLE_PROCESS, Two()):
        check_same(those, {"fingerprint of its data": "abc"}, "share them")
        check_same_program(those, {"jax": "1.0"})
        check_same_config(those, {"seed": 0})


def test_what_differs_is_named_with_both_values():
    text = r"^Process 1 has another colour than process 0 \(blue and red\); paint it\.$"
    with pytest.raises(ConfigError, match=text) as caught:
        check_same(Two(colour="blue"), {"size": 3, "colour": "red"}, "paint it")
    assert (caught.value.where, caught.value.found) == ("colour", "blue")
    with pytest.raises(
        ConfigError, match=r"another fingerprint than process 0 \(0{12}\.\.\. and ab"
    ):
        check_same(Two(fingerprint="0" * 41), {"fingerprint": "ab"}, "share them")


@pytest.mark.parametrize("field", ["seed", "mesh.num_devices"])
def test_the_field_that_differs_is_named(field):
    with refused(ConfigError, where=f"config.{field}", found=7):
        check_same_config(Two(**{f"config.{field}": 7}), {"seed": 0, "mesh": {"num_devices": None}})


def test_fields_that_one_process_alone_has_differ_and_exempt_ones_may():
    class Other(Two):
        def all_gather(self, value):
            return [value, {**value, "config.model.options.width": 2}]

    with refused(ConfigError, where="config.model.options.width", found=2):
        check_same_config(Other(), {"model": {"name": "a"}})
    other, own = Two(**{"config.source": "/there"}), {"source": "/here"}
    with refused(ConfigError, where="config.source", found="/there"):
        check_same_config(other, own)
    check_same_config(other, own, exempt=("config.source",))


def test_another_setting_that_changes_numbers_is_named():
    with refused(ConfigError, where="jax_enable_x64", found="True"):
        check_same_program(Two(jax_enable_x64="True"), {})


def test_flags_of_the_compiler_must_be_the_same_but_for_where_dumps_go(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_b=2 --xla_dump_to=/tmp/mine")
    with refused(ConfigError, where="--xla_b of XLA_FLAGS", found="3"):
        check_same_program(Two(**{"--xla_b of XLA_FLAGS": "3"}), {})
    check_same_program(Two(**{"--xla_dump_to of XLA_FLAGS": "/tmp/other"}), {})


@pytest.mark.parametrize("what", ["cnn_lab's code", "jax"])
def test_another_code_or_jax_is_named(what):
    with refused(ConfigError, where=f"version of {what}", found="0.1"):
        check_same_program(Two(**{f"version of {what}": "0.1"}), {"jax": "1.0"})
