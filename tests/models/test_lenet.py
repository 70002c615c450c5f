"""LeNet-5 against the numbers of its paper."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import refused

from cnn_lab.core import trees
from cnn_lab.core.errors import ConfigError
from cnn_lab.models.lenet import C3_SEES, lenet5


def params_of(image_shape=(32, 32, 1), **options):
    images = jnp.zeros((1, *image_shape))
    init = lambda key: lenet5(10, **options).init(key, images, train=False)["params"]  # noqa: E731
    return jax.jit(init)(jax.random.key(0))


def test_the_parameters_of_each_layer():
    params = jax.eval_shape(params_of)
    layers = {**params["backbone"], **params["head"]}
    assert {name: trees.count(layer) for name, layer in layers.items()} == {
        "c1": 156,
        "c3": 2416,
        "c5": 48120,
        "hidden1": 10164,
        "output": 850,
    }


def test_table_one_of_the_paper():
    assert [len(seen) for seen in C3_SEES] == [3] * 6 + [4] * 9 + [6]
    assert all(len(set(seen)) == len(seen) for seen in C3_SEES)
    assert len({frozenset(seen) for seen in C3_SEES}) == 16
    # Each map of S2 is seen by ten of C3.
    assert [sum(s in seen for seen in C3_SEES) for s in range(6)] == [10] * 6
    # Columns 0, 5, 6, 12, 14 of the table.
    assert [set(C3_SEES[i]) for i in (0, 5, 6, 12, 14)] == [
        {0, 1, 2},
        {5, 0, 1},
        {0, 1, 2, 3},
        {0, 1, 3, 4},
        {0, 2, 3, 5},
    ]


def test_the_partial_connection_leaves_1516_parameters_of_c3_at_work():
    model, params = lenet5(10, connection="partial"), params_of(connection="partial")
    images = jax.random.normal(jax.random.key(1), (4, 32, 32, 1))

    def loss(params):
        logits: Any = model.apply({"params": params}, images, train=True)
        return jnp.sum(jnp.sin(logits))

    c3 = jax.jit(jax.grad(loss))(params)["backbone"]["c3"]
    reached = np.asarray(c3["kernel"]) != 0
    assert reached.sum() + np.count_nonzero(c3["bias"]) == 1516
    for feature, seen in enumerate(C3_SEES):
        others = sorted(set(range(6)) - set(seen))
        assert not reached[:, :, others, feature].any()
        assert reached[:, :, list(seen), feature].all()


def test_masked_weights_do_not_matter():
    model, params = lenet5(10, connection="partial"), params_of(connection="partial")
    images = jax.random.normal(jax.random.key(1), (2, 32, 32, 1))
    apply = jax.jit(lambda params: model.apply({"params": params}, images, train=False))
    before = apply(params)
    kernel = params["backbone"]["c3"]["kernel"]
    params["backbone"]["c3"]["kernel"] = kernel.at[:, :, 3, 0].set(1e6)  # map 0 sees 0, 1, 2
    np.testing.assert_array_equal(apply(params), before)
    params["backbone"]["c3"]["kernel"] = kernel.at[:, :, 2, 0].set(1e6)
    assert not np.array_equal(apply(params), before)


def test_trainable_subsampling_adds_a_coefficient_and_a_bias_a_map():
    plain, trainable = (
        trees.flatten(jax.eval_shape(lambda p=pooling: params_of(pooling=p)))
        for pooling in ("average", "trainable")
    )
    added = {path: leaf.shape for path, leaf in trainable.items() if path not in plain}
    assert added == {
        "backbone/s2_bias": (6,),
        "backbone/s2_coefficient": (6,),
        "backbone/s4_bias": (16,),
        "backbone/s4_coefficient": (16,),
    }
    assert trees.count(trainable) - trees.count(plain) == 44


def test_the_poolings_agree_on_flat_images_and_differ_on_others():
    flat, noise = jnp.ones((1, 32, 32, 1)), jax.random.normal(jax.random.key(1), (1, 32, 32, 1))
    params = params_of()

    @jax.jit
    def gap(images):
        logits: list[Any] = [
            lenet5(10, pooling=pooling).apply({"params": params}, images, train=False)
            for pooling in ("max", "average")
        ]
        return abs(logits[0] - logits[1]).max()

    assert float(gap(flat)) < 1e-6  # sums of at most 400 terms below 1
    assert float(gap(noise)) > 1e-2


def test_dropout_acts_on_f6_in_training_only():
    model, params = lenet5(10, dropout_rates=(0.0, 0.5, 0.5)), params_of()
    images = jax.random.normal(jax.random.key(1), (2, 32, 32, 1))

    @jax.jit
    def logits(seed):
        rngs = {"dropout": jax.random.key(seed)}
        return (
            lenet5(10).apply({"params": params}, images, train=True),
            model.apply({"params": params}, images, train=False),
            model.apply({"params": params}, images, train=True, rngs=rngs),
        )

    plain, evaluated, first = logits(0)
    np.testing.assert_array_equal(evaluated, plain)
    np.testing.assert_array_equal(logits(0)[2], first)
    assert not np.array_equal(first, plain)
    assert not np.array_equal(first, logits(1)[2])


@pytest.mark.parametrize(("height", "width"), [(15, 32), (32, 15), (8, 8)])
def test_images_below_16_pixels_are_refused(height, width):
    found, allowed = f"{height}x{width}", "at least 16x16 pixels"
    with refused(ConfigError, where="config.data.image_size", found=found, allowed=allowed):
        params_of((height, width, 1))


def test_images_of_16_pixels_and_more_are_taken():
    def shape(*image_shape):
        params = jax.eval_shape(lambda: params_of(image_shape))
        return params["backbone"]["c5"]["kernel"].shape

    assert shape(16, 16, 1) == (1, 1, 16, 120)
    assert shape(28, 36, 3) == (4, 6, 16, 120)


def test_an_unknown_activation_is_answered_with_the_nearest():
    with refused(ConfigError, found="tan", nearest=("tanh",)):
        params_of(activation="tan")


def test_drop_connect_drops_weights_of_c5_and_f6_in_training_only():
    options: dict[str, Any] = {"activation": "identity", "drop_connect_rate": 0.5}
    params = params_of(**options)
    plain = params_of(activation="identity")
    assert {p: v.shape for p, v in trees.flatten(params).items()} == {
        p: v.shape for p, v in trees.flatten(plain).items()
    }
    images = jax.random.normal(jax.random.key(1), (2, 32, 32, 1))
    model, same = lenet5(10, **options), lenet5(10, activation="identity")
    evaluated: Any = model.apply({"params": plain}, images, train=False)
    wanted: Any = same.apply({"params": plain}, images, train=False)
    np.testing.assert_allclose(evaluated, wanted, rtol=0, atol=1e-5)

    def logits(key):
        return model.apply({"params": plain}, images, train=True, rngs={"dropout": key})

    drawn: Any = jax.jit(jax.vmap(logits))(jax.random.split(jax.random.key(2), 512))
    error = 5 * drawn.std(axis=0) / 512**0.5
    assert float(drawn.std(axis=0).min()) > 0.01
    # Linear in C5's weights and in F6's, which are dropped apart: right in the mean.
    assert bool((abs(drawn.mean(axis=0) - wanted) < error).all())
