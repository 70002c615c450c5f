"""Frozen means frozen: no gradient, no decay, no memory, no statistics, no noise, no average."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_models import SMALL

from cnn_lab.core import trees
from cnn_lab.layers.normalization import BatchNorm
from cnn_lab.models.registry import MODELS
from cnn_lab.optim.penalties import l2
from cnn_lab.tasks.classification import classification
from cnn_lab.training.averaging import ema, evaluated_variables
from cnn_lab.training.frozen import apply_in_training, partition_frozen
from cnn_lab.training.state import make_init
from cnn_lab.training.step import make_train_step
from cnn_lab.transfer.plan import stages_of

TASK = classification("cross_entropy")
# One of each family that normalises over batches, small.
LARGE = {"efficientnet_b0", "googlenet", "inception_v3", "resnext50_32x4d"}  # slow to compile
RARE = {"plain20", "resnet18", "wide_resnet28_10"}  # residual networks beside resnet20
FAMILIES: dict[str, tuple[int, Mapping[str, Any]]] = {
    "densenet_cifar": (8, {"depth": 10, "growth": 4}),
    "efficientnet_b0": (8, SMALL["efficientnet_b0"][0]),
    "googlenet": (16, SMALL["googlenet"][0]),
    "inception_v3": (16, SMALL["inception_v3"][0]),
    "mobilenet_v2": (8, SMALL["mobilenet_v2"][0]),
    "plain20": (8, {"width": 4}),
    "resnet18": (16, {"stem": "small", "width": 8}),
    "resnet20": (8, {"width": 4}),
    "resnext50_32x4d": (32, SMALL["resnext50_32x4d"][0]),
    "vgg11_bn": (32, {"width": 8, "hidden": ()}),
    "wide_resnet28_10": (8, {"width": 1, "depth": 10}),
}


def batch_of(side: int, number: int = 4):
    generator = np.random.default_rng(0)
    return {
        "image": jnp.asarray(generator.normal(size=(number, side, side, 3)), jnp.float32),
        "label": jnp.asarray(generator.integers(3, size=number), jnp.int32),
        "weight": jnp.ones(number),
    }


def after_steps(model, side: int, trainable, num_steps: int = 2):
    """The state before and after steps with decay, a penalty and an average."""
    optimizer, average = optax.adamw(0.1, weight_decay=0.1), ema(0.5)
    init = make_init(model, optimizer, (side, side, 3), average.init, trainable)
    step = jax.jit(make_train_step(model, TASK, optimizer, l2(0.1), average))
    before: Any = jax.jit(init)(jax.random.key(0))
    state, batch = before, batch_of(side)
    for _ in range(num_steps):
        state, metrics = step(state, batch)
        assert np.isfinite(metrics["gradient_norm"][0])
    return before, state


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow) if n in {*LARGE, *RARE} else n for n in FAMILIES],
)
def test_frozen_leaves_are_the_same_bits_after_steps(name):
    side, options = FAMILIES[name]
    model = MODELS[name].make(3, **options)
    stages = stages_of(model, (side, side, 3))
    trained = {p for stage in stages[-1 if name in LARGE else -2 :] for p in stage.paths}
    before, after = after_steps(model, side, trained.__contains__)
    assert set(trees.flatten(after.params)) == trained
    assert any(path.startswith("batch_stats/") for path in trees.flatten(after.frozen))
    assert trees.digests(after.frozen) == trees.digests(before.frozen)
    judged = trees.digests(evaluated_variables(after))
    for path, digest in trees.digests(before.frozen).items():
        assert judged[path] == digest, path  # no drift by averaging
    moved = trees.digests({"params": after.params, **after.collections})
    begun = trees.digests({"params": before.params, **before.collections})
    assert [path for path in moved if moved[path] == begun[path]] == []  # and all others move
    remembered = [p for p in trees.flatten(after.opt_state) if "/mu/" in p or "/nu/" in p]
    assert len(remembered) == 2 * len(trained)


def resnet(**options):
    return MODELS["resnet20"].make(3, width=4, **options)


def test_a_frozen_backbone_runs_as_in_evaluation():
    model: Any = resnet()
    batch = batch_of(8)
    variables = dict(model.init(jax.random.key(1), batch["image"], train=False))
    drawn = np.random.default_rng(2)
    variables["batch_stats"] = jax.tree.map(
        lambda s: jnp.asarray(drawn.uniform(0.5, 2, s.shape), jnp.float32), variables["batch_stats"]
    )
    changing, frozen = partition_frozen(variables, lambda path: path.startswith("head/"))
    assert list(changing) == ["params"]
    outputs, collections = apply_in_training(
        model, changing["params"], {}, frozen, batch["image"], jax.random.key(0)
    )
    expected = model.apply(variables, batch["image"], train=False)
    np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-6)
    assert collections == {}


def test_nothing_is_dropped_in_frozen_layers_but_in_those_that_are_trained():
    model: Any = MODELS["lenet5"].make(3, activation="relu", dropout_rates=(0.5, 0.5, 0.5))
    image = jnp.ones((4, 32, 32, 1))
    variables = dict(model.init(jax.random.key(1), image, train=False))

    def logits(trainable, key):
        changing, frozen = partition_frozen(variables, trainable)
        params = changing.pop("params")
        return apply_in_training(model, params, changing, frozen, image, jax.random.key(key))[0]

    output = lambda path: path.startswith("head/output")  # noqa: E731
    head = lambda path: path.startswith("head/")  # noqa: E731
    nothing = model.apply(variables, image, train=False)
    assert not np.allclose(logits(head, 0), logits(head, 1))
    # The head's dropout belongs to the head, of which a part is trained.
    assert not np.allclose(logits(output, 0), logits(output, 1))
    backbone = lambda path: path.startswith("backbone/c1")  # noqa: E731
    assert not np.allclose(logits(backbone, 0), nothing)


def test_the_layer_of_a_frozen_scale_and_a_trained_bias_is_trained():
    model: Any = resnet()
    variables = dict(model.init(jax.random.key(1), jnp.ones((1, 8, 8, 3)), train=False))
    changing, frozen = partition_frozen(variables, lambda path: path != "backbone/stem_bn/scale")
    assert trees.flatten(frozen) == {
        "params/backbone/stem_bn/scale": variables["params"]["backbone"]["stem_bn"]["scale"]
    }
    assert "stem_bn" in changing["batch_stats"]["backbone"]


def test_everything_is_trained_where_nothing_is_frozen():
    model: Any = resnet()
    variables = dict(model.init(jax.random.key(1), jnp.ones((1, 8, 8, 3)), train=False))
    changing, frozen = partition_frozen(variables, lambda _: True)
    assert frozen == {}
    assert jax.tree.structure(changing) == jax.tree.structure(variables)


def test_a_frozen_backbone_needs_no_backward_pass():
    def flops(trainable) -> float:
        model, optimizer = resnet(), optax.sgd(0.1)
        init = make_init(model, optimizer, (16, 16, 3), trainable=trainable)
        step = make_train_step(model, TASK, optimizer)
        shapes = jax.eval_shape(init, jax.random.key(0))
        compiled = jax.jit(step).lower(shapes, batch_of(16, 32)).compile()
        analysis: Any = compiled.cost_analysis()
        return analysis["flops"]

    head = flops(lambda path: path.startswith("head/"))
    last = flops(lambda path: path.startswith(("head/", "backbone/stage3")))
    everything = flops(lambda _: True)
    assert head < 0.4 * everything  # forward is a third
    assert head < last < 0.75 * everything


def test_a_normalisation_does_what_the_call_says():
    x = jnp.asarray(np.random.default_rng(0).normal(2, 3, size=(8, 4)), jnp.float32)
    module: Any = BatchNorm(train=True)
    variables = module.init(jax.random.key(0), x)
    y, _ = module.apply(variables, x, train=False, mutable=["batch_stats"])
    np.testing.assert_allclose(y, x, rtol=1e-4)
    z, _ = module.apply(variables, x, mutable=["batch_stats"])
    np.testing.assert_allclose(np.mean(z), 0, atol=1e-5)
