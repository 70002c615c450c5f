"""One training step: padding, bad numbers, seeds and the penalty."""

import functools
import inspect
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cnn_lab.core import trees
from cnn_lab.models.lenet import lenet5
from cnn_lab.models.simple import mlp
from cnn_lab.optim.optimizers import OPTIMIZERS
from cnn_lab.optim.penalties import l2
from cnn_lab.tasks.classification import classification
from cnn_lab.training.state import make_init
from cnn_lab.training.step import make_train_step

TASK = classification("cross_entropy")


def batch_of(num_examples: int, image_shape=(16, 16, 1), seed=0, **others):
    random = np.random.default_rng(seed)
    batch = {
        "image": jnp.asarray(random.normal(size=(num_examples, *image_shape)), jnp.float32),
        "label": jnp.asarray(random.integers(0, 10, num_examples), jnp.int32),
        "weight": jnp.ones(num_examples),
    }
    return {**batch, **others}


@functools.lru_cache
def compiled(model, optimizer: str, rate: float, l2_weight: float):
    transformation = OPTIMIZERS[optimizer].make(optax.constant_schedule(rate))
    penalty = l2(l2_weight)
    step = make_train_step(model, TASK, transformation, penalty)
    return jax.jit(step), jax.jit(make_init(model, transformation, (16, 16, 1)))


def setup(model, optimizer="momentum", rate=0.1, l2_weight=0.0, seed=0):
    """(compiled step, fresh state)"""
    step, init = compiled(model, optimizer, rate, l2_weight)
    return step, init(jax.random.key(seed))


def zip_tables(*tables):
    """(path, leaves) of trees of one form, flattened."""
    return [(path, [table[path] for table in tables]) for path in tables[0]]


def assert_same_bits(one, other, same=True):
    digests = trees.digests(one), trees.digests(other)
    assert (digests[0] == digests[1]) is same


def test_the_step_is_short_enough_to_be_read_at_once():
    step = make_train_step(mlp(10), TASK, optax.sgd(0.1))
    source = inspect.getsource(step)
    assert source.lstrip().startswith("def step(state: TrainState, batch: Tree)")
    assert len(source.splitlines()) <= 40


@pytest.mark.parametrize("model", [lenet5(10), mlp(10)], ids=["lenet5", "mlp"])
def test_padding_changes_nothing(model):
    # With sgd at rate 1 the change of the weights is the gradient.
    step, state = setup(model, "sgd", 1.0)
    whole = batch_of(8)
    padded = {**whole, "weight": jnp.arange(8) < 5}
    padded["weight"] = padded["weight"].astype(jnp.float32)
    alone = jax.tree.map(lambda x: x[:5], whole)
    (one, metrics), (other, wanted) = step(state, padded), step(state, alone)
    for path, leaf in trees.flatten(one.params).items():
        # The same products, summed in another order.
        np.testing.assert_allclose(leaf, trees.flatten(other.params)[path], rtol=0, atol=1e-6)
    assert float(metrics["loss"][1]) == float(wanted["loss"][1]) == 5
    assert float(metrics["loss"][0]) == pytest.approx(float(wanted["loss"][0]), rel=1e-6)
    assert float(abs(one.params["head"]["output"]["bias"]).max()) > 1e-2  # something was learned


def test_the_metrics_of_a_step_are_those_before_its_update():
    step, state = setup(mlp(10))
    batch = batch_of(8)

    @jax.jit
    def direct(params):
        logits: Any = mlp(10).apply({"params": params}, batch["image"], train=True)
        losses = TASK.losses(logits, batch)
        return losses.mean(), (losses.sum(), jnp.sum(logits.argmax(-1) == batch["label"]))

    (_, (loss, correct)), gradients = jax.jit(jax.value_and_grad(direct, has_aux=True))(
        state.params
    )
    _, metrics = step(state, batch)
    found = {name: (float(total), float(count)) for name, (total, count) in metrics.items()}
    norm = float(np.sqrt(sum(np.sum(np.square(g)) for g in jax.tree.leaves(gradients))))
    assert found == {
        "loss": (pytest.approx(float(loss), rel=1e-6), 8),
        "accuracy": (float(correct), 8),
        "gradient_norm": (pytest.approx(norm, rel=1e-5), 1),
    }


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_a_step_that_is_not_finite_leaves_the_whole_state_as_it_was(bad):
    step, state = setup(lenet5(10, dropout_rates=(0.0, 0.5, 0.5)), "adam")
    state, _ = step(state, batch_of(4))
    broken = batch_of(4, seed=1)
    broken["image"] = broken["image"].at[2, 0, 0, 0].set(bad)
    after, metrics = step(state, broken)
    assert int(after.step) == 1
    assert_same_bits(after, state)
    assert not np.isfinite(metrics["loss"][0]) or not np.isfinite(metrics["gradient_norm"][0])
    healthy, _ = step(after, batch_of(4, seed=1))
    assert int(healthy.step) == 2
    assert_same_bits(healthy.params, state.params, same=False)


def test_a_batch_without_weight_leaves_the_state_as_it_was():
    step, state = setup(mlp(10))
    after, metrics = step(state, batch_of(4, weight=jnp.zeros(4)))
    assert_same_bits(after, state)
    assert float(metrics["loss"][1]) == 0


def test_an_overflowing_gradient_of_a_finite_loss_is_caught():
    step, state = setup(mlp(10))
    # The images enter the gradient of the first layer as they are, the loss only scaled down.
    small = {"kernel": state.params["backbone"]["dense1"]["kernel"] * 1e-30, "bias": jnp.zeros(128)}
    large = {"kernel": jax.random.normal(jax.random.key(1), (128, 10)) * 1e9, "bias": jnp.zeros(10)}
    state = state.replace(params={"backbone": {"dense1": small}, "head": {"output": large}})
    after, metrics = step(state, batch_of(8, image=jnp.full((8, 16, 16, 1), 1e30)))
    assert np.isfinite(metrics["loss"][0])
    assert not np.isfinite(metrics["gradient_norm"][0])
    assert_same_bits(after, state)


def test_a_second_gradient_that_is_not_finite_is_caught():
    def at(climbed: bool):
        def update(gradients, state, params=None, *, grad_fn):
            top = jax.tree.map(lambda p: p * jnp.nan, params)
            return (grad_fn(top) if climbed else gradients), state

        transformation: Any = (lambda params: (), update)  # noqa: ARG005
        return optax.GradientTransformationExtraArgs(*transformation)

    for climbed, number in ((True, 0), (False, 1)):
        optimizer = at(climbed)
        step = jax.jit(make_train_step(mlp(10), TASK, optimizer))
        state = make_init(mlp(10), optimizer, (16, 16, 1))(jax.random.key(0))
        after, metrics = step(state, batch_of(4))
        assert int(after.step) == number
        assert np.isfinite(metrics["loss"][0])
        # Which is where the loop sees it.
        assert np.isfinite(metrics["gradient_norm"][0]) == (number == 1)
        assert_same_bits(after, state, same=climbed)


def test_weights_that_overflow_are_caught():
    step, state = setup(mlp(10), "sgd", rate=3e38)
    after, metrics = step(state, batch_of(4, image=1000 * batch_of(4)["image"]))
    assert_same_bits(after, state)
    assert np.isfinite(metrics["loss"][0])
    assert not np.isfinite(metrics["gradient_norm"][0])


def test_a_seed_determines_every_bit_and_another_seed_does_not():
    def run(seed):
        step, state = setup(lenet5(10, dropout_rates=(0.0, 0.5, 0.5)), "adam", seed=seed)
        for index in range(3):
            state, _ = step(state, batch_of(4, seed=index))
        return state

    first = run(0)
    assert_same_bits(first, run(0))
    assert_same_bits(first.params, run(1).params, same=False)


def test_every_step_draws_its_own_dropout():
    step, state = setup(mlp(10, dropout_rate=0.5), "sgd", 0.0)  # at rate 0 only the step changes
    losses = []
    for _ in range(3):
        state, metrics = step(state, batch_of(8))
        losses.append(float(metrics["loss"][0]))
    assert int(state.step) == 3
    assert len(set(losses)) == 3


def test_the_penalty_moves_the_weights_whatever_the_batch_size():
    for num_examples in (2, 8):
        batch = batch_of(num_examples)
        plain, state = setup(mlp(10), "sgd", 1.0)
        penalised, _ = setup(mlp(10), "sgd", 1.0, 0.25)
        (without, metrics), (with_it, same) = plain(state, batch), penalised(state, batch)
        tables = (trees.flatten(jax.device_get(s.params)) for s in (state, without, with_it))
        for path, (old, plain_one, penalised_one) in zip_tables(*tables):
            wanted = 0.25 * old if path.endswith("kernel") else 0 * old
            # Two roundings of weights below 1.
            np.testing.assert_allclose(plain_one - penalised_one, wanted, rtol=0, atol=3e-7)
        assert float(metrics["loss"][0]) == float(same["loss"][0])  # the loss is that of the data


class Normalised(nn.Module):
    """A net with a collection besides its parameters."""

    @nn.compact
    def __call__(self, images, *, train):
        x = images.reshape(images.shape[0], -1)
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9, name="norm")(x)
        return nn.Dense(10, name="output")(x)


def test_other_collections_are_updated_and_kept_when_a_step_fails():
    step, state = setup(Normalised())
    batch = batch_of(8)
    after, _ = step(state, batch)
    mean = batch["image"].reshape(8, -1).mean(0)
    np.testing.assert_allclose(
        after.collections["batch_stats"]["norm"]["mean"], 0.1 * mean, rtol=0, atol=1e-6
    )
    failed, _ = step(after, batch_of(8, image=batch["image"].at[0].set(jnp.nan)))
    assert_same_bits(failed, after)


def test_seeds_and_rates_may_be_axes_of_one_step():
    """Nothing in `init` and `step` stands in the way of `jax.vmap`: 16 trainings in one call."""
    model, task = lenet5(10, dropout_rates=(0.0, 0.5, 0.5)), classification("cross_entropy")
    batch = batch_of(8)
    seeds, rates = jnp.arange(4), jnp.asarray([0.01, 0.03, 0.1, 0.3])

    def trained(seed, rate):
        optimizer = OPTIMIZERS["adam"].make(lambda _: rate)
        init = make_init(model, optimizer, (16, 16, 1))
        step = make_train_step(model, task, optimizer)
        state, first = step(init(jax.random.key(seed)), batch)
        state, second = step(state, batch)
        return state.params, jnp.stack([first["loss"][0], second["loss"][0]])

    of_rates = jax.vmap(trained, in_axes=(None, 0))
    params, losses = jax.jit(jax.vmap(of_rates, in_axes=(0, None)))(seeds, rates)
    assert losses.shape == (4, 4, 2)
    assert len(np.unique(np.asarray(losses[:, 0, 0]))) == 4  # by seed,
    assert (losses[:, :1, 0] == losses[..., 0]).all()  # not by rate until it was applied
    for seed, rate in ((0, 0), (3, 2)):
        alone, found = jax.jit(trained)(seeds[seed], rates[rate])
        np.testing.assert_allclose(losses[seed, rate], found, rtol=1e-4)
        for path, leaf in trees.flatten(alone).items():
            of_all = trees.flatten(params)[path][seed, rate]
            np.testing.assert_allclose(of_all, leaf, rtol=1e-3, atol=1e-4, err_msg=path)
