"""What layers cost, counted by hand."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from refusals import refused

from cnn_lab.analysis.cost import (
    PICOJOULES_PER_MAC,
    Layer,
    cost_of,
    energy_kwh,
    step_memory,
    storage_bytes,
)
from cnn_lab.core.errors import ConfigError
from cnn_lab.core.text import human_bytes, human_count
from cnn_lab.layers.channels import Maxout
from cnn_lab.layers.convolution import Conv
from cnn_lab.layers.dropout import DropConnect, DropConnectConv
from cnn_lab.layers.factory import LayerFactory
from cnn_lab.layers.locally_connected import LocallyConnected
from cnn_lab.layers.pooling import adaptive_average_pool, average_pool, max_pool
from cnn_lab.layers.unpooling import ConvTranspose
from cnn_lab.models.registry import MODELS

LAYERS = LayerFactory()


class Net(nn.Module):
    """Every kind of layer with weights, and functions between."""

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = LAYERS.conv(6, 3, 2, bias=True, name="conv")(x)  # 8x8x6
        x = LAYERS.conv(12, (1, 3), groups=3, name="grouped")(x)
        x = LAYERS.norm(train=train, name="norm")(x)
        x = max_pool(nn.relu(x), 2)  # 4x4
        x = max_pool(x, 3, 1, 1)
        x = ConvTranspose(5, 2, 2, name="patches")(x)  # 8x8
        x = ConvTranspose(4, 3, 2, 1, name="spread")(x)  # 15x15
        x = Conv(2, (1, 1), dtype="bfloat16", name="half")(x)
        x = LocallyConnected(3, 2, 3, name="local")(x)  # 5x5
        x = DropConnectConv(2, 0.5, name="dropped_conv")(x, train=train)
        x = adaptive_average_pool(x, 2).reshape(1, -1)
        x = DropConnect(7, 0.5, name="dropped")(x, train=train)
        x = Maxout(3, 2, name="maxout")(x)
        return nn.Dense(10, name="dense")(x)


HAND = {  # parameters, multiply-accumulates
    "conv": (9 * 3 * 6 + 6, 64 * 9 * 3 * 6),
    "grouped": (3 * 2 * 12, 64 * 3 * 2 * 12),
    "norm": (24, 0),
    "patches": (4 * 12 * 5 + 5, 16 * 4 * 12 * 5),
    "spread": (9 * 5 * 4 + 4, 64 * 9 * 5 * 4),
    "half": (4 * 2 + 2, 225 * 4 * 2),
    "local": (25 * (4 * 2 * 3 + 3), 25 * 4 * 2 * 3),
    "dropped_conv": (9 * 3 * 2 + 2, 25 * 9 * 3 * 2),
    "dropped": (8 * 7 + 7, 8 * 7),
    "maxout/pieces_dense": (7 * 6 + 6, 7 * 6),
    "dense": (3 * 10 + 10, 3 * 10),
}


def test_every_layer_counted_by_hand():
    cost = cost_of(Net(), (16, 16, 3))
    layers = {layer.path: layer for layer in cost.layers if layer.path}
    assert {path: (each.num_parameters, each.macs) for path, each in layers.items()} == HAND
    assert cost.macs == sum(macs for _, macs in HAND.values())
    assert cost.num_parameters == sum(count for count, _ in HAND.values())
    assert [layer.kind for layer in cost.layers if not layer.path] == [
        *("max_pool", "max_pool", "adaptive_average_pool"),
    ]
    assert layers["conv"] == Layer("conv", "Conv", (8, 8, 6), 168, 10_368, (3, 3), (2.0, 2.0), 1536)
    assert layers["grouped"].receptive_field == (3, 7)
    assert layers["half"].activation_bytes == 225 * 2 * 2  # bfloat16
    assert layers["spread"].output_shape == (15, 15, 4)
    assert layers["dense"].receptive_field is None


def test_layers_come_in_order():
    order = [layer.path for layer in cost_of(Net(), (16, 16, 3)).layers if layer.path]
    assert order == [*HAND]


def test_narrow_convolutions_count_as_they_were_asked_for():
    """On CPU they are rearranged into wider ones with zeros; maxima are taken within C1 and C3."""
    for pooling in ("average", "max"):
        cost = cost_of(MODELS["lenet5"].make(10, pooling=pooling), (32, 32, 1))
        macs = {layer.path: layer.macs for layer in cost.layers if layer.macs}
        assert macs["backbone/c1"] == 28 * 28 * 25 * 6
        assert macs["backbone/c3"] == 10 * 10 * 25 * 6 * 16


class Shared(nn.Module):
    """One layer applied three times by hand, and one five times by a scan."""

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        twice = nn.Dense(4, name="twice")
        for _ in range(3):
            x = twice(x)
        recurrent: Any = nn.RNN(nn.SimpleCell(6), name="recurrent")
        return recurrent(x)


def test_weights_that_are_used_again_count_every_time():
    cost = cost_of(Shared(), (5, 4))
    macs = {layer.path: layer.macs for layer in cost.layers if layer.macs}
    assert sum(macs.values()) == 3 * 5 * 4 * 4 + 5 * (4 * 6 + 6 * 6)
    assert macs["twice"] == 3 * 5 * 4 * 4
    assert sum(layer.num_parameters for layer in cost.layers) == cost.num_parameters


class Auxiliary(nn.Module):
    """A layer that only training and initialisation call."""

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        if train or self.is_initializing():
            nn.Dense(3, name="auxiliary")(x)
        return average_pool(x, 2)


def test_layers_that_only_training_uses_are_told_apart():
    *_, last = cost_of(Auxiliary(), (4, 4, 2)).layers
    assert last == Layer("auxiliary", "Dense", None, 9, 0, None, None, 0)


def test_memory_of_training():
    variables = {
        "params": {"kernel": jax.ShapeDtypeStruct((10, 5), jnp.float32)},
        "batch_stats": {"mean": jax.ShapeDtypeStruct((3,), jnp.float32)},
    }
    memory = step_memory(variables, activation_bytes=1000, batch_size=8)
    assert (memory.parameters, memory.gradients, memory.statistics) == (200, 200, 12)
    assert memory.activations == 8000
    assert memory.optimizer == {"SGD with momentum": 200, "Adam": 404}  # and Adam's step
    assert memory.total("Adam") == 200 + 200 + 12 + 404 + 8000


@pytest.mark.parametrize(
    ("count", "dtype", "text"),
    [
        (175_000_000_000, "float32", "700 GB"),
        (175_000_000_000, "bfloat16", "350 GB"),
        (175_000_000_000, "int8", "175 GB"),
        (25_557_032, "float32", "102 MB"),
        (61_706, "float32", "247 kB"),
        (0, "float32", "0 B"),
    ],
)
def test_the_size_of_models(count, dtype, text):
    assert human_bytes(storage_bytes(count, dtype)) == text


def test_an_unknown_dtype_is_refused():
    with refused(ConfigError, where="dtype", found="float33"):
        storage_bytes(1, "float33")


def test_numbers_for_people():
    assert human_count(4_089_184_256) == "4.089 G"
    assert human_count(416_520) == "416.520 k"
    assert human_count(12) == "12"
    assert [human_bytes(n) for n in (999, 1000, 99_949, 999_500)] == [
        "999 B",
        "1 kB",
        "99.9 kB",
        "1 MB",
    ]


def test_energy_of_arithmetic():
    # Horowitz: 4.6 pJ a float32 multiplication and addition; 3.6e18 pJ are a kWh.
    assert energy_kwh(3.6e18, PICOJOULES_PER_MAC["float32"]) == pytest.approx(4.6)
