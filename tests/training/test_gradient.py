"""Micro-batches and rematerialisation: the same gradient, taken otherwise."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cnn_lab.core import trees
from cnn_lab.models.heads import Classifier, PooledHead
from cnn_lab.models.lenet import lenet5
from cnn_lab.models.resnet import ResNetBackbone
from cnn_lab.tasks.classification import classification
from cnn_lab.training.gradient import make_gradient, make_summed_loss, micro_batch_key, split
from cnn_lab.training.state import make_init, step_key
from cnn_lab.training.stepper import prepare_key

TASK = classification("cross_entropy")
LENET: Any = lenet5(10, activation="relu", pooling="max")
RESNET: Any = Classifier(ResNetBackbone((1, 1), width=4, stem="small"), PooledHead(10))


def batch_of(num_examples: int, image_shape=(16, 16, 1)):
    random = np.random.default_rng(0)
    return {
        "image": jnp.asarray(random.normal(size=(num_examples, *image_shape)), jnp.float32),
        "label": jnp.asarray(random.integers(0, 10, num_examples), jnp.int32),
        "weight": jnp.asarray(random.uniform(0.5, 1.5, num_examples), jnp.float32),
    }


@functools.lru_cache
def variables_of(model: Any):
    variables = dict(model.init(jax.random.key(0), batch_of(1)["image"], train=False))
    return variables.pop("params"), variables


def sums_of(model, batch, **options):
    gradient = jax.jit(make_gradient(model, TASK, **options))
    return gradient(*variables_of(model), {}, batch, jax.random.key(1))


def assert_close(found, wanted):
    found, wanted = trees.flatten(found), trees.flatten(wanted)
    assert found.keys() == wanted.keys()
    for path, leaf in wanted.items():
        scale = float(abs(leaf).max()) + 1e-6
        np.testing.assert_allclose(found[path], leaf, rtol=0, atol=3e-6 * scale, err_msg=path)


@pytest.mark.parametrize("num_micro_batches", [2, 3, 12])
def test_micro_batches_add_up_to_the_big_batch(num_micro_batches):
    batch = batch_of(12)
    found = sums_of(LENET, batch, num_micro_batches=num_micro_batches)
    assert_close(found, sums_of(LENET, batch))
    assert float(found.metrics["loss"][1]) == pytest.approx(float(batch["weight"].sum()), rel=1e-6)


def test_batch_normalisation_sees_every_micro_batch_for_itself():
    batch = batch_of(8)
    collections = sums_of(RESNET, batch, num_micro_batches=2).collections
    gradient = jax.jit(make_gradient(RESNET, TASK))
    params, wanted = variables_of(RESNET)
    # Parts take every second example, so that all devices share in each.
    for start in (0, 1):
        part = jax.tree.map(lambda x, start=start: x[start::2], batch)
        wanted = gradient(params, wanted, {}, part, jax.random.key(1)).collections
    assert_close(collections, wanted)
    whole = sums_of(RESNET, batch).collections
    differences = jax.tree.map(lambda a, b: float(abs(a - b).max()), collections, whole)
    assert max(jax.tree.leaves(differences)) > 1e-2


def test_every_part_has_its_share_of_each_devices_examples():
    assert split(jnp.arange(12), 3).tolist() == [[0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8, 11]]
    assert split(jnp.ones((6, 4, 1)), 2).shape == (2, 3, 4, 1)


def test_no_two_streams_of_a_step_are_the_same():
    state: Any = make_init(LENET, optax.sgd(0.1), (16, 16, 1))(jax.random.key(0))
    keys = [step_key(state), prepare_key(state)]
    keys += [micro_batch_key(step_key(state), index) for index in range(8)]
    assert len({tuple(jax.random.key_data(key).tolist()) for key in keys}) == len(keys)


@pytest.mark.parametrize("model", [LENET, RESNET], ids=["lenet5", "resnet"])
def test_rematerialisation_changes_no_gradient(model):
    batch = batch_of(4)
    assert_close(sums_of(model, batch, rematerialise=True), sums_of(model, batch))


def test_rematerialisation_keeps_less_for_the_backward_pass():
    def kept(**options) -> int:
        loss = make_summed_loss(RESNET, TASK, **options)
        params, collections = variables_of(RESNET)
        rest = (collections, {}, batch_of(4), jax.random.key(1))
        backward = jax.eval_shape(lambda p: jax.vjp(lambda q: loss(q, *rest)[0], p)[1], params)
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(backward))

    assert kept(rematerialise=True) < 0.6 * kept()


def test_rematerialisation_keeps_convolutions_and_computes_the_rest_again():
    def primitives(**options):
        gradient = make_gradient(RESNET, TASK, **options)
        jaxpr = jax.make_jaxpr(gradient)(*variables_of(RESNET), {}, batch_of(4), jax.random.key(1))
        counts: dict[str, int] = {}

        def walk(inner):
            for equation in inner.eqns:
                counts[equation.primitive.name] = counts.get(equation.primitive.name, 0) + 1
                for value in equation.params.values():
                    for part in value if isinstance(value, tuple | list) else (value,):
                        part = getattr(part, "jaxpr", part)
                        if hasattr(part, "eqns"):
                            walk(part)

        walk(jaxpr.jaxpr)
        return counts

    plain, again = primitives(), primitives(rematerialise=True)
    assert again["conv_general_dilated"] == plain["conv_general_dilated"]
    assert again["rsqrt"] == 2 * plain["rsqrt"]  # normalisation, forwards and again backwards
