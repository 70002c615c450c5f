"""A batch shared by devices, and a state that lies in parts: the same is learned."""

import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_models import SMALL

from cnn_lab.core import trees
from cnn_lab.models.catalog import MODELS
from cnn_lab.tasks import classification
from cnn_lab.train import layout as layouts
from cnn_lab.train.dispatch import compile_train
from cnn_lab.train.gradient import make_gradient, per_device
from cnn_lab.train.layout import Layout, make_layout
from cnn_lab.train.state import make_init
from cnn_lab.train.step import make_train_step

BATCH, STEPS, CLASSES = 16, 3, 10
TASK = classification("cross_entropy")


@pytest.fixture(autouse=True)
def _small_arrays_lie_in_parts_too(monkeypatch):
    monkeypatch.setattr(layouts, "SMALLEST_SHARDED", 16)


@functools.cache
def module_of(name: str):
    return MODELS[name].make(CLASSES, **SMALL[name][0])


@functools.cache
def normalised() -> list[str]:
    """Models with batch normalisation that tell classes apart."""

    def statistics(name: str) -> bool:
        images = jnp.zeros((1, *SMALL[name][1]))
        init = functools.partial(module_of(name).init, train=False)
        return "batch_stats" in jax.eval_shape(init, jax.random.key(0), images)

    return [name for name in SMALL if MODELS[name].outputs == "logits" and statistics(name)]


def batch_of(image_shape: tuple[int, int, int]) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    weight = np.ones((STEPS, BATCH), np.float32)
    weight[-1, -3:] = 0  # the last batch of an epoch is filled up
    return {
        "image": random.normal(size=(STEPS, BATCH, *image_shape)).astype(np.float32),
        "label": random.integers(0, CLASSES, (STEPS, BATCH)).astype(np.int32),
        "weight": weight,
    }


class Trained:
    """A few steps of a small model on some devices."""

    def __init__(self, name: str, layout: Layout, statistics: str = "global"):
        module, image_shape = module_of(name), SMALL[name][1]
        optimizer = optax.sgd(1e-2, momentum=0.9)
        gradient = make_gradient(module, TASK)
        if statistics == "per_device":
            gradient = per_device(gradient, layout)
        step = make_train_step(module, TASK, optimizer, gradient=gradient)
        init = make_init(module, optimizer, image_shape)
        shapes = layout.placed(jax.eval_shape(init, jax.random.key(0)))
        feeds = batch_of(image_shape)
        program: Any = compile_train(
            step, lambda _, feed, key: feed, layout, shapes, {}, feeds
        ).call
        state = jax.device_put(jax.jit(init)(jax.random.key(0)), layout.shardings(shapes))
        self.bytes_before = layout.bytes_of(shapes)
        scalars = layout.put_everywhere((np.int32(0), np.int32(STEPS)))
        self.state, history, _ = program(state, {}, layout.put_batches(feeds), *scalars, {})
        self.losses = np.asarray(history["loss"][0]) / np.asarray(history["loss"][1])
        self.text = program.as_text()
        self.memory = program.memory_analysis()


def exchanges(text: str) -> dict[str, int]:
    names = ("all-reduce", "all-gather", "all-to-all", "reduce-scatter", "collective-permute")
    return {n: len(re.findall(rf"[ )}}]{n}(?:-start)?\(", text)) for n in names}


alone = functools.cache(lambda name: Trained(name, make_layout(1)))


@pytest.mark.parametrize("name", normalised())
def test_shared_by_slices_and_in_parts_the_same_is_learned(name):
    layout = make_layout(4, num_slices=2, shards_state=True)
    several = Trained(name, layout)
    print(name, np.abs(several.losses / alone(name).losses - 1).max())
    wanted = trees.flatten(jax.device_get(alone(name).state))
    for path, leaf in trees.flatten(jax.device_get(several.state)).items():
        if path == "key":
            continue
        d = np.abs(leaf - wanted[path]).max() if leaf.size else 0
        if d > 1e-5:
            print("  ", path, d, np.abs(wanted[path]).max())
