"""What is told of a step that was not finite."""

import re
from typing import Any, ClassVar

import jax
import numpy as np
import optax
import pytest

from cnn_lab.models.simple import mlp
from cnn_lab.tasks.classification import classification
from cnn_lab.tasks.task import Task
from cnn_lab.training.diagnose import explain_non_finite
from cnn_lab.training.state import make_init

MODEL, TASK = mlp(10, (4,)), classification("cross_entropy")
IDS = [17, 4, 256, 3]


@pytest.fixture(scope="module")
def state():
    return make_init(MODEL, optax.sgd(0.1), (2, 2, 1))(jax.random.key(0))


def explain(state, task: Task = TASK) -> str:
    images = np.ones((4, 2, 2, 1), np.float32)
    images[2] = np.nan
    labels, weights = np.zeros(4, np.int32), np.ones(4, np.float32)
    batch = jax.device_put({"image": images, "label": labels, "weight": weights})
    error = explain_non_finite(
        MODEL, task, state, lambda: batch, example_ids=IDS, step=41, advice="Look at them."
    )
    return str(error)


def test_the_step_the_place_and_the_examples_are_named(state):
    assert explain(state) == (
        "Step 42 is not finite: the first non-finite value is in the input "
        "image; examples 256 of the training split have a non-finite loss. Look at them."
    )


def test_micro_batches_are_repeated_as_they_were(state):
    images = np.ones((4, 2, 2, 1), np.float32)
    images[3] = np.nan  # in the second of two parts, which are 0 and 2, 1 and 3
    batch = {"image": images, "label": np.zeros(4, np.int32), "weight": np.ones(4, np.float32)}
    seen = []

    class Watched(Unrepeatable):
        def losses(self, outputs, batch):
            seen.append(batch["image"].shape)
            return TASK.losses(outputs, batch)

    error = explain_non_finite(
        MODEL,
        Watched(ValueError()),
        state,
        lambda: jax.device_put(batch),
        example_ids=IDS,
        step=41,
        num_micro_batches=2,
        advice="Look at them.",
    )
    assert "in the input image; examples 3 of the training split have" in str(error)
    assert seen == [(2, 2, 2, 1)] * 2


def test_a_finite_gradient_leaves_the_optimizer_to_blame(state):
    batch = {"image": np.ones((4, 2, 2, 1), np.float32), "label": np.zeros(4, np.int32)}
    batch = jax.device_put({**batch, "weight": np.ones(4, np.float32)})
    error = explain_non_finite(
        MODEL, TASK, state, lambda: batch, example_ids=IDS, step=41, advice="Look at them."
    )
    assert str(error) == (
        "Step 42 is not finite, though its loss and gradient are when they are computed again: "
        "they overflowed narrowly, or what was made of them did. Look at them."
    )


class Unrepeatable:
    """A task whose losses cannot be had outside the compiled program."""

    better: ClassVar = TASK.better
    has_classes: ClassVar[bool] = TASK.has_classes
    metrics = staticmethod(TASK.metrics)

    def __init__(self, error: Exception):
        self._error = error

    def losses(self, outputs, batch) -> Any:
        raise self._error


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            RuntimeError("RESOURCE_EXHAUSTED: Out of memory\nlong dump"),
            "RESOURCE_EXHAUSTED: Out of memory",
        ),
        (MemoryError(), ""),
        (ValueError("x" * 999), "x" * 200),
    ],
    ids=["out of memory", "no text", "long"],
)
def test_a_step_that_cannot_be_repeated_is_still_named(state, error, reason):
    found = explain(state, task=Unrepeatable(error))
    text = (
        "Step 42 is not finite: the step could not be repeated "
        f"({type(error).__name__}{': ' if reason else ''}{reason}); examples 17, 4, 256, 3 of the "
        "training split were in the batch. Look at them."
    )
    assert re.fullmatch(re.escape(text), found), found


def test_a_batch_that_cannot_be_made_again_hides_nothing(state):
    def refuse():
        raise OSError(5, "Input/output error")

    error = explain_non_finite(
        MODEL, TASK, state, refuse, example_ids=IDS, step=41, advice="Look at them."
    )
    assert str(error).startswith(
        "Step 42 is not finite: the step could not be repeated (OSError: "
        "[Errno 5] Input/output error); examples 17, 4, 256, 3 of"
    )
