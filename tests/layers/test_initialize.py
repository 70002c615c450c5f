"""Initial values are those of Linen's compiled `init`, bit for bit."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.nn import initializers
from small_models import SMALL

from cnn_lab.core import trees
from cnn_lab.layers.factory import INITIALIZERS, LayerFactory
from cnn_lab.layers.initialize import (
    BLOCK,
    BLOCKS_PER_CALL,
    TracedInit,
    initialize,
    trace_module,
)
from cnn_lab.models.registry import MODELS

KEY = jax.random.key(7)
QUICK = {"lenet5", "unet"}


def assert_same_bits(found: Any, wanted: Any):
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    here, there = trees.flatten(found), trees.flatten(wanted)
    for path, leaf in here.items():
        array = np.asarray(leaf)
        assert (array.dtype, array.shape) == (there[path].dtype, there[path].shape), path
        assert array.tobytes() == np.asarray(there[path]).tobytes(), path


def compiled_init(module: nn.Module, key: jax.Array, *inputs: Any, **options: Any) -> Any:
    return jax.jit(lambda key: dict(module.init({"params": key}, *inputs, **options)))(key)


@pytest.mark.parametrize(
    "name",
    [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in sorted(SMALL)],
)
def test_models_begin_as_linen_has_them(name: str):
    options, shape = SMALL[name]
    module = MODELS[name].make(10, **options)
    found = trace_module(module, shape)(KEY)
    assert_same_bits(found, compiled_init(module, KEY, jnp.zeros((1, *shape)), train=False))


class Layers(nn.Module):
    """A layer of each kind; the dense one has several blocks, and their last is not full."""

    kernel_init: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        layers = LayerFactory(kernel_init=self.kernel_init, dense_init=self.kernel_init)
        x = layers.conv(5, 3, groups=1, name="conv")(x)
        x = layers.norm(train=False, name="norm")(x)
        return layers.dense(1001, name="dense")(x.reshape(len(x), -1))


@pytest.mark.parametrize("name", INITIALIZERS)
def test_initialisers_draw_as_linen_has_them(name: str):
    images = jnp.zeros((1, 4, 4, 3))
    found = initialize(Layers(name), KEY, images)
    assert_same_bits(found, compiled_init(Layers(name), KEY, images))


class Kernel(nn.Module):
    """One parameter by an initialiser."""

    init_fn: Callable[..., jax.Array]
    shape: tuple[int, ...] = (9, 70)

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return x * self.param("kernel", self.init_fn, self.shape).sum()


class FromInput(nn.Module):
    """Parameters and statistics that follow from the input, and from other parameters."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = nn.Dense(4)(x)
        scale = self.param("scale", lambda _: 1 / (1 + y.std(axis=0)))
        self.variable("batch_stats", "mean", lambda: y.mean(axis=0))
        self.variable("cache", "count", lambda: jnp.full((), 3, jnp.int32))
        return y * scale[None]


class Recurrent(nn.Module):
    """Parameters [steps, ...] of several draws."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        layers = nn.vmap(
            nn.Dense, variable_axes={"params": 0}, split_rngs={"params": True}, in_axes=0
        )
        return layers(3)(x)


def mixture(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    first, second = jax.random.split(key)
    return jnp.where(
        jax.random.bernoulli(first, 0.3, shape), 1.0, jax.random.normal(second, shape) * 0.1
    )


UNUSUAL: dict[str, nn.Module] = {
    "affine": Kernel(lambda key, shape: jax.random.uniform(key, shape) * 0.3 + 0.7),
    "constant": Kernel(
        lambda _, shape: jnp.full(shape, 1 / 3) + jnp.linspace(0, 1, shape[-1])[None]
    ),
    "delta_orthogonal": Kernel(initializers.delta_orthogonal(), (3, 3, 4, 8)),
    "exponential": Kernel(jax.random.exponential),
    "from_input": FromInput(),
    "half": Kernel(lambda key, shape: jax.random.normal(key, shape, jnp.bfloat16) * 0.1),
    "gamma": Kernel(lambda key, shape: jax.random.gamma(key, 2.0, shape)),
    "integers": Kernel(lambda key, shape: jax.random.randint(key, shape, 0, 1000)),
    "mixture": Kernel(mixture),
    "moved": Kernel(lambda key, shape: jax.random.normal(key, shape[::-1]).T * 2.5),
    "recurrent": Recurrent(),
    "rescaled": Kernel(lambda key, shape: 0.7 * (jax.random.normal(key, shape) * 0.3) * 1.1),
    "repeated": Kernel(lambda _, shape: jnp.full(shape[::-1], 3.0).T),
    "scalar": Kernel(lambda key, _: jax.random.normal(key)),
    "several_calls": Kernel(jax.random.normal, (BLOCKS_PER_CALL + 1, BLOCK)),
    "table": Kernel(
        lambda key, shape: jax.random.normal(key, shape) * np.linspace(1, 2, shape[1])[None]
    ),
    "whole_block": Kernel(jax.random.normal, (2, BLOCK // 2)),
    "without_values": Kernel(jax.random.normal, (0, 3)),
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_any_module_begins_as_linen_has_it(name: str):
    module, inputs = UNUSUAL[name], jax.random.normal(jax.random.key(1), (6, 5))
    assert_same_bits(initialize(module, KEY, inputs), compiled_init(module, KEY, inputs))


@pytest.mark.parametrize("key", [jax.random.key(3, impl="rbg"), jax.random.PRNGKey(3)])
def test_keys_of_other_kinds_are_taken(key: jax.Array):
    inputs = jnp.ones((2, 5))
    assert_same_bits(
        initialize(Layers("he_normal"), key, jnp.ones((1, 4, 4, 3))),
        compiled_init(Layers("he_normal"), key, jnp.ones((1, 4, 4, 3))),
    )
    assert_same_bits(initialize(FromInput(), key, inputs), compiled_init(FromInput(), key, inputs))


def test_bits_that_follow_from_the_shape_are_compiled():
    module, inputs = Kernel(jax.random.normal), jnp.ones(())
    partitionable = initialize(module, KEY, inputs)
    with jax.threefry_partitionable(False):
        found = initialize(module, KEY, inputs)
        assert_same_bits(found, compiled_init(module, KEY, inputs))
    kernels = [tree["params"]["kernel"] for tree in (found, partitionable)]
    assert (np.asarray(kernels[0]) != kernels[1]).any()


def test_within_a_program_it_is_a_part_of_it():
    module, shape = MODELS["mlp"].make(10, **SMALL["mlp"][0]), SMALL["mlp"][1]
    init = trace_module(module, shape)
    assert jax.tree.structure(jax.eval_shape(init, KEY)) == jax.tree.structure(init.shapes)
    assert_same_bits(jax.jit(init)(KEY), init(KEY))


def test_equal_modules_are_traced_once():
    number = 0

    class Counted(nn.Module):
        width: int | list[int]

        @nn.compact
        def __call__(self, x: jax.Array, train: bool) -> jax.Array:
            nonlocal number
            number += 1
            return nn.Dense(np.sum(self.width).item())(x)

    for width in (2, 3, 2):
        init = trace_module(Counted(width), (1, 1, 4))
        init(KEY)
        jax.jit(init)(KEY)
        assert init.shapes["params"]["Dense_0"]["kernel"].shape == (4, width)
    assert number == 2
    trace_module(Counted([2]), (1, 1, 4))  # not hashable
    assert number == 3


def test_other_shapes_compile_nothing(caplog: pytest.LogCaptureFixture):
    def run(width: int):
        init = TracedInit(lambda key: jax.random.normal(key, (width, 17)) / 3, KEY)
        return init(KEY)

    run(5)
    with jax.log_compiles(), caplog.at_level("WARNING"):
        assert run(13).shape == (13, 17)
        run(29)
    assert not [record for record in caplog.records if "XLA compilation" in record.message]


def test_what_is_given_is_passed_on():
    def init(key: jax.Array, given: Any) -> Any:
        return {
            "given": given["kernel"],
            "drawn": jax.random.normal(key, (3,)),
            "momentum": jax.tree.map(jnp.zeros_like, given),
            "step": jnp.zeros((), jnp.int32),
            "key": jax.random.fold_in(key, 2),
        }

    given = {"kernel": np.arange(6.0, dtype=np.float32).reshape(2, 3)}
    found, wanted = TracedInit(init, KEY, given)(KEY, given), jax.jit(init)(KEY, given)
    for tree in (found, wanted):
        tree["key"] = jax.random.key_data(tree["key"])
    assert_same_bits(found, wanted)
