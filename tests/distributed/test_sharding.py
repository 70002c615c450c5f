"""A batch shared by devices, and a state that lies in parts: the same is learned."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_models import SMALL

from cnn_lab.analysis.cost import collectives_in
from cnn_lab.core import trees
from cnn_lab.distributed import mesh as layouts
from cnn_lab.distributed.mesh import DeviceMesh, make_mesh
from cnn_lab.models.registry import MODELS
from cnn_lab.tasks.classification import classification
from cnn_lab.training.gradient import make_gradient, per_device
from cnn_lab.training.state import make_init
from cnn_lab.training.step import make_train_step
from cnn_lab.training.stepper import compile_train

BATCH, STEPS, CLASSES = 16, 1, 10
TASK = classification("cross_entropy")
QUICK = ("vgg11_bn",)  # to compile
SLOW = (
    "densenet_cifar",
    "efficientnet_b0",
    "googlenet",
    "inception_v3",
    "mobilenet_v2",
    "plain20",
    "resnet18",
    "resnet20",
    "resnext50_32x4d",
    "wide_resnet28_10",
)


@pytest.fixture(autouse=True)
def _small_arrays_lie_in_parts_too(monkeypatch):
    monkeypatch.setattr(layouts, "MIN_SHARDED_VALUES", 16)


def as_it_is(device_arrays, raw_batch, key):
    return raw_batch


@functools.cache
def module_of(name: str):
    return MODELS[name].make(CLASSES, **SMALL[name][0])


def batch_of(image_shape: tuple[int, int, int]) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    weight = np.ones((STEPS, BATCH), np.float32)
    weight[-1, -3:] = 0  # as where the last batch of an epoch is filled up
    return {
        "image": random.normal(size=(STEPS, BATCH, *image_shape)).astype(np.float32),
        "label": random.integers(0, CLASSES, (STEPS, BATCH)).astype(np.int32),
        "weight": weight,
    }


class RestoredRun:
    """A step of a small model on some devices."""

    def __init__(self, name: str, mesh: DeviceMesh, statistics: str = "global"):
        module, image_shape = module_of(name), SMALL[name][1]
        optimizer = optax.sgd(1e-2, momentum=0.9)
        gradient = make_gradient(module, TASK)
        if statistics == "per_device":
            gradient = per_device(gradient, mesh)
        step = make_train_step(module, TASK, optimizer, gradient=gradient)
        init = make_init(module, optimizer, image_shape)
        shapes = mesh.with_shardings(jax.eval_shape(init, jax.random.key(0)))
        raw_batches = batch_of(image_shape)
        program: Any = compile_train(step, as_it_is, mesh, shapes, {}, raw_batches).call
        state = jax.device_put(jax.jit(init)(jax.random.key(0)), mesh.shardings(shapes))
        self.bytes_before = mesh.bytes_of(shapes)
        scalars = mesh.put((np.int32(0), np.int32(STEPS)))
        self.state, history, _ = program(
            state, {}, mesh.put(raw_batches, mesh.batches), *scalars, {}
        )
        self.losses = np.asarray(history["loss"][0]) / np.asarray(history["loss"][1])
        self.text = program.as_text()


def exchanges(text: str) -> dict[str, int]:
    return {kind: found.count for kind, found in collectives_in(text).items()}


alone = functools.cache(lambda name: RestoredRun(name, make_mesh(1)))
whole_on_four = functools.cache(lambda: RestoredRun("vgg11_bn", make_mesh(4)))


def assert_alike(found: RestoredRun, wanted: RestoredRun) -> None:
    """The same after a step, up to the order of sums; later ones take other sides of kinks."""
    np.testing.assert_allclose(found.losses, wanted.losses, rtol=5e-6)
    leaves = trees.flatten(jax.device_get(wanted.state))
    assert (
        jax.random.key_data(found.state.key).tolist()
        == jax.random.key_data(wanted.state.key).tolist()
    )
    for path, leaf in trees.flatten(jax.device_get(found.state)).items():
        if path != "key":  # gradients of scales which the next layer divides out are all rounding
            margin = 1e-4 * np.abs(leaves[path]).max() + 2e-6
            np.testing.assert_allclose(leaf, leaves[path], rtol=0, atol=margin, err_msg=path)


def test_every_family_with_batch_normalisation_is_tried():
    def normalised(name: str) -> bool:
        images = jnp.zeros((1, *SMALL[name][1]))
        init = functools.partial(module_of(name).init, train=False)
        return "batch_stats" in jax.eval_shape(init, jax.random.key(0), images)

    classifiers = [name for name in SMALL if MODELS[name].outputs == "logits"]
    assert {*filter(normalised, classifiers)} == {*QUICK, *SLOW}


@pytest.mark.parametrize(
    "name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
)
def test_shared_by_slices_and_in_parts_the_same_is_learned(name):
    assert_alike(RestoredRun(name, make_mesh(4, num_slices=2, shards_state=True)), alone(name))


def test_whole_on_every_device_the_same_is_learned_with_one_exchange_of_gradients():
    several = whole_on_four()
    assert_alike(several, alone("vgg11_bn"))
    # For each batch normalisation the mean and then the deviation from it, forward and backward,
    # and one for all gradients and metrics.
    layers = sum(path.endswith("/mean") for path in trees.flatten(several.state.collections))
    assert layers == 8
    assert exchanges(several.text) == {"all-reduce": 4 * layers + 1}


def test_in_parts_each_device_holds_its_share_and_gathers_kernels_to_use_them(monkeypatch):
    monkeypatch.setattr(layouts, "MIN_SHARDED_VALUES", 4096)  # as it is
    whole, parts = whole_on_four(), RestoredRun("vgg11_bn", make_mesh(4, shards_state=True))
    assert parts.bytes_before < 0.35 * whole.bytes_before
    held = {path: leaf for path, leaf in trees.flatten(parts.state).items() if path != "key"}
    for path, leaf in held.items():
        shard = 4 if leaf.size >= 4096 else 1
        assert leaf.addressable_shards[0].data.size == leaf.size // shard, path
    kernels = sum(leaf.size >= 4096 for leaf in jax.tree.leaves(parts.state.params))
    found, before = exchanges(parts.text), exchanges(whole.text)
    assert kernels == 6
    assert kernels <= found.pop("all-gather") <= 2 * kernels  # forward, and once more backward
    assert found.keys() == before.keys() == {"all-reduce"}
    assert found["all-reduce"] - before["all-reduce"] in (0, 1)


def test_statistics_of_each_device_need_one_exchange_and_are_those_of_its_share():
    mesh = make_mesh(4)
    own = RestoredRun("vgg11_bn", mesh, "per_device")
    assert sum(exchanges(own.text).values()) == 1
    found, wanted = (
        t.state.collections["batch_stats"]["backbone"]["bn1_1"] for t in (own, alone("vgg11_bn"))
    )
    # The mean of the shares' means is that of the batch; each share varies less around its own.
    np.testing.assert_allclose(found["mean"], wanted["mean"], rtol=1e-4, atol=1e-6)
    assert (np.asarray(found["var"]) < np.asarray(wanted["var"])).all()


def test_the_gradient_of_shares_is_that_of_the_batch():
    """Without batch normalisation nothing may differ: neither a factor of the device count."""
    one, several = (RestoredRun("lenet5", make_mesh(n), "per_device") for n in (1, 4))
    assert_alike(several, one)
    assert_alike(several, alone("lenet5"))
