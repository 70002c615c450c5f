"""Models from Python: their names, their initial values and their named maps."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_models import SMALL

from cnn_lab.models.create import (
    create_model,
    feature_maps,
    init_variables,
    list_models,
    map_shapes,
)
from cnn_lab.models.registry import MODELS
from cnn_lab.training.state import init_state


@pytest.mark.parametrize("name", ["vgg11", "googlenet", "lenet5", "lstm", "unet"])
def test_maps_are_named_without_being_computed(name: str):
    options, shape = SMALL[name]
    model = create_model(name, 3, **options)
    shapes = map_shapes(model, shape)
    images = jnp.zeros((2, *shape))
    maps = jax.eval_shape(lambda x: feature_maps(model, init_variables(model, shape), x), images)
    assert {n: values.shape for n, values in maps.items()} == {
        n: (2, *sides) for n, sides in shapes.items()
    }
    sides = [sides[0] for sides in shapes.values() if len(sides) == 3]
    assert sides == sorted(sides, reverse=True)  # finest first


def test_initial_values_are_those_of_linen():
    model, shape = create_model("lenet5"), (32, 32, 1)
    found = init_variables(model, shape, seed=7)
    init = jax.jit(lambda key: model.init(key, jnp.zeros((1, *shape)), train=False))
    jax.tree.map(np.testing.assert_array_equal, found, dict(init(jax.random.key(7))))


@pytest.mark.parametrize("setting", [jax.default_prng_impl("rbg"), jax.enable_x64(True)])
def test_initial_values_follow_the_settings_of_jax(setting):
    model, shape = create_model("lenet5"), (32, 32, 1)
    before = init_variables(model, shape)
    with setting:
        found = init_variables(model, shape)
        wanted = jax.jit(lambda key: model.init(key, jnp.zeros((1, *shape)), train=False))(
            jax.random.key(0)
        )
        state = init_state(model, optax.adam(0.1), shape)
    jax.tree.map(np.testing.assert_array_equal, found, dict(wanted))
    assert jax.tree.structure(state.params) == jax.tree.structure(found["params"])
    jax.tree.map(np.testing.assert_array_equal, init_variables(model, shape), before)


def test_initial_values_are_arrays_of_ones_own():
    model, shape = create_model("lenet5"), (32, 32, 1)
    state = init_state(model, optax.adam(0.1), shape)
    assert jnp.issubdtype(state.key.dtype, jax.dtypes.prng_key)
    leaves = jax.tree.leaves((init_variables(model, shape), state.replace(key=())))
    for leaf in leaves:
        assert isinstance(leaf, np.ndarray)
        assert leaf.flags.c_contiguous
        assert leaf.flags.owndata
        leaf += leaf.dtype.type(1)  # into itself


def test_names_and_classes():
    assert list_models() == sorted(MODELS)
    assert list_models("nothing*") == []
    assert create_model("resnet18").head.num_classes == 1000
    assert create_model("resnet18", 7).head.num_classes == 7
