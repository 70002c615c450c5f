"""Registration beside the thing, from within the package and from outside."""

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from refusals import refused

from cnn_lab.core.errors import ConfigError
from cnn_lab.core.registry import Registry
from cnn_lab.optim.optimizers import OPTIMIZERS


@dataclasses.dataclass(frozen=True)
class Entry:
    """A function and a fact about it."""

    function: Callable[..., Any]
    is_quick: bool = False


@pytest.fixture
def registry() -> Registry[Entry]:
    found = Registry("loss", "cnn_lab.tasks", Entry)

    @found.register(is_quick=True)
    def zero(share: float = 0.5) -> float:
        return share

    return found


def test_an_entry_holds_the_function_and_the_facts(registry):
    assert registry["zero"].is_quick
    assert registry["zero"].function(0.25) == 0.25
    assert registry.lookup("zero") is registry["zero"]


def test_names_are_in_alphabetical_order(registry):
    registry.register(name="another")(lambda: None)
    assert list(registry) == ["another", "zero"]


def test_an_unknown_name_offers_the_nearest(registry):
    where = "config.task.loss"
    with refused(ConfigError, where=where, found="zeros", nearest=("zero",)):
        registry.lookup("zeros", where)


def test_a_name_is_taken_once(registry):
    def other() -> None: ...

    with refused(ConfigError, where=f"{__name__}.{other.__qualname__}", found="zero"):
        registry.register(name="zero")(other)


def test_the_same_definition_may_be_read_again(registry):
    # As a notebook's cell is.
    for value in (1, 2):

        @registry.register()
        def mine(share: float = value) -> float:
            return share

    assert registry["mine"].function() == 2


def test_an_option_without_annotation_is_refused_by_name(registry):
    def bare(logits, margin=1.0):
        return logits, margin

    with refused(ConfigError, where=f"{__name__}.{bare.__qualname__}", found="margin"):
        registry.register()(bare)
    assert "bare" not in registry


def test_an_unknown_fact_is_refused(registry):
    with pytest.raises(TypeError, match="is_slow"):
        registry.register(is_slow=True)(lambda: None)


def test_a_name_of_the_package_is_not_taken_from_outside():
    text = r"'muon' exists already \(cnn_lab\.optim\.optimizers\.muon\)"
    with pytest.raises(ConfigError, match=text):
        OPTIMIZERS.register(name="muon")(lambda rate: rate)


OUTSIDE = """
import jax.numpy as jnp
from cnn_lab.config import ExperimentConfig, TaskConfig
from cnn_lab.tasks.losses import LOSSES

@LOSSES.register()
def shifted(logits, targets, shift: float = 1.0):
    return jnp.sum(logits, axis=-1) + shift

from cnn_lab.core.targets import TargetSpec
from cnn_lab.experiment.network import make_task

config = ExperimentConfig(task=TaskConfig(loss="shifted", loss_options={"shift": 3.0}))
task = make_task(config, TargetSpec("class", ("a", "b")), {})
assert task.losses(jnp.ones((2, 2)), {"label": jnp.zeros(2, jnp.int32)}).tolist() == [5, 5]
assert {"hinge", "shifted"} < set(LOSSES)
"""


def test_a_loss_from_outside_is_known_by_its_name():
    # A process of its own, so that no other test finds the loss.
    subprocess.run([sys.executable, "-c", OUTSIDE], check=True)
