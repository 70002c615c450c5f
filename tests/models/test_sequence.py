"""Nets that share parameters over time: what they see, and what they compute."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_lab.core import trees
from cnn_lab.layers.factory import LayerFactory
from cnn_lab.models.inputs import as_sequences
from cnn_lab.models.recurrent import RecurrentBackbone
from cnn_lab.models.registry import MODELS
from cnn_lab.models.temporal import TemporalBackbone, TimeConv, blocks_to_see, reach

CELLS = ("rnn", "lstm", "gru")


def count(name, **options) -> int:
    """Parameters on 28x28x1 images."""
    images = jax.ShapeDtypeStruct((2, 28, 28, 1), jnp.float32)
    module = MODELS[name].make(10, **options)
    init = lambda images: module.init(jax.random.key(0), images, train=False)  # noqa: E731
    return trees.count(jax.eval_shape(init, images)["params"])


def drawn(variables) -> Any:
    """Other parameters: none is zero."""
    leaves, structure = jax.tree.flatten(variables)
    keys = jax.random.split(jax.random.key(7), len(leaves))
    pairs = zip(keys, leaves, strict=True)
    return jax.tree.unflatten(structure, [jax.random.normal(k, leaf.shape) for k, leaf in pairs])


def test_rows_and_pixels_in_reading_order():
    images = jnp.arange(2 * 2 * 3 * 2.0).reshape(2, 2, 3, 2)
    rows, pixels = as_sequences(images, "rows"), as_sequences(images, "pixels")
    assert rows[0].tolist() == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]]
    assert pixels[0].tolist() == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9], [10, 11]]
    assert rows[1, 0, 0] == pixels[1, 0, 0] == 12


HEAD = 128 * 10 + 10


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # A gate has a product of the input, one of the state, and a bias.
        ("rnn", (28 * 128 + 128 * 128 + 128) + HEAD),
        ("lstm", 4 * (28 * 128 + 128 * 128 + 128) + HEAD),
        # Beside its three, one more bias inside the reset.
        ("gru", 3 * (28 * 128 + 128 * 128 + 128) + 128 + HEAD),
        # Two convolutions a block, each with bias and length; a shortcut where widths differ.
        (
            "tcn",
            (3 * 28 * 64 + 2 * 64) + 5 * (3 * 64 * 64 + 2 * 64) + (28 * 64 + 64) + (64 * 10 + 10),
        ),
        ("conv1d", (5 * 28 * 64 + 64) + (5 * 64 * 128 + 128) + HEAD),
    ],
)
def test_parameters_by_hand(name, expected):
    assert count(name) == expected == MODELS[name].num_parameters


@pytest.mark.parametrize(("cell", "gates", "more"), [("rnn", 1, 0), ("lstm", 4, 0), ("gru", 3, 1)])
def test_parameters_of_two_layers_in_both_directions(cell, gates, more):
    first = gates * (28 * 16 + 16 * 16 + 16) + more * 16
    second = gates * (32 * 16 + 16 * 16 + 16) + more * 16
    expected = 2 * first + 2 * second + 32 * 10 + 10
    assert count(cell, hidden=16, num_layers=2, bidirectional=True) == expected


def test_parameters_of_the_papers_net_for_a_pixel_a_step():
    options = {"order": "pixels", "hidden": 25, "kernel_size": 7, "num_blocks": 8}
    first, other = 7 * 1 * 25 + 2 * 25, 7 * 25 * 25 + 2 * 25
    shortcut, output = 25 + 25, 25 * 10 + 10
    assert count("tcn", **options) == first + 15 * other + shortcut + output
    assert count("tcn", weight_norm=False, **options) == count("tcn", **options) - 16 * 25


@pytest.mark.parametrize(
    ("steps", "kernel_size", "blocks"),
    [(1, 3, 1), (5, 3, 1), (6, 3, 2), (28, 3, 3), (29, 3, 3), (30, 3, 4), (784, 7, 7), (784, 3, 8)],
)
def test_as_many_blocks_as_it_takes_to_see_the_whole_sequence(steps, kernel_size, blocks):
    assert blocks_to_see(steps, kernel_size) == blocks
    assert reach(blocks, kernel_size) >= steps
    assert blocks == 1 or reach(blocks - 1, kernel_size) < steps


def test_a_step_of_a_tcn_sees_just_its_reach():
    backbone: Any = TemporalBackbone(4, 3, num_blocks=2, layers=LayerFactory("tanh", "he_normal"))
    images = jax.random.normal(jax.random.key(0), (1, 20, 1, 1))
    variables = backbone.init(jax.random.key(1), images, train=False)

    def step(images, index):
        return jnp.sum(jnp.sin(backbone.apply(variables, images, train=False)["block2"][:, index]))

    assert reach(2, 3) == 13
    for index in (15, 19):
        seen = np.flatnonzero(jax.grad(step)(images, index))
        assert seen.tolist() == list(range(index - 12, index + 1))


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("kernel_size", "dilation"), [(3, 1), (4, 3), (2, 8)])
def test_convolution_over_time_by_hand(kernel_size, dilation, causal):
    conv: Any = TimeConv(5, kernel_size, dilation, LayerFactory(), causal)
    x = jax.random.normal(jax.random.key(0), (2, 10, 3))
    params = drawn(conv.init(jax.random.key(1), x)["params"])
    after = 0 if causal else kernel_size // 2
    expected = np.zeros((2, 10, 5)) + np.asarray(params["bias"])
    for step in range(10):
        for place in range(kernel_size):
            seen = step + (place - (kernel_size - 1 - after)) * dilation
            if 0 <= seen < 10:
                expected[:, step] += np.asarray(x)[:, seen] @ np.asarray(params["kernel"])[place]
    found = conv.apply({"params": params}, x)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)  # sums of 12 terms


def test_weight_normalisation_begins_as_nothing_and_takes_the_length_from_the_scale():
    plain: Any
    normed: Any
    plain, normed = (TimeConv(4, 3, 1, LayerFactory(), True, weight_norm=w) for w in (False, True))
    x = jax.random.normal(jax.random.key(0), (2, 6, 3))
    params: Any = normed.init(jax.random.key(1), x)["params"]
    bare = {name: params[name] for name in ("kernel", "bias")}
    begin = normed.apply({"params": params}, x)
    np.testing.assert_allclose(begin, plain.apply({"params": bare}, x), rtol=1e-5, atol=1e-6)
    longer = normed.apply({"params": params | {"kernel": 3 * params["kernel"]}}, x)
    np.testing.assert_allclose(longer, begin, rtol=1e-5, atol=1e-6)
    doubled = normed.apply({"params": params | {"scale": 2 * params["scale"]}}, x)
    np.testing.assert_allclose(doubled, 2 * np.asarray(begin), rtol=1e-5, atol=1e-6)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def states_by_hand(cell: str, params: Any, x: np.ndarray) -> np.ndarray:
    """States [n t d] of a sequence [n t c], by the equations of the papers."""

    def product(name, values):
        layer = jax.tree.map(np.asarray, params[name])
        return values @ layer["kernel"] + layer.get("bias", 0)

    h = c = np.zeros((x.shape[0], 3))
    states = []
    for step in range(x.shape[1]):
        v = x[:, step]
        if cell == "rnn":
            h = np.tanh(product("i", v) + product("h", h))
        elif cell == "lstm":
            i, f, o = (sigmoid(product(f"i{g}", v) + product(f"h{g}", h)) for g in "ifo")
            c = f * c + i * np.tanh(product("ig", v) + product("hg", h))
            h = o * np.tanh(c)
        else:
            r, z = (sigmoid(product(f"i{g}", v) + product(f"h{g}", h)) for g in "rz")
            h = (1 - z) * np.tanh(product("in", v) + r * product("hn", h)) + z * h
        states.append(h)
    return np.stack(states, 1)


@pytest.mark.parametrize("cell", CELLS)
def test_the_states_by_hand_forwards_and_backwards(cell):
    backbone = RecurrentBackbone(cell, 3, bidirectional=True)
    images = jax.random.normal(jax.random.key(0), (2, 5, 2, 1))
    variables = drawn(backbone.init(jax.random.key(1), images, train=False))
    maps: Any = jax.jit(lambda v: backbone.apply(v, images, train=False))(variables)
    x, params = np.asarray(images)[..., 0], variables["params"]
    forward = states_by_hand(cell, params["layer1_forward"], x)
    backward = states_by_hand(cell, params["layer1_backward"], x[:, ::-1])
    both = np.concatenate([forward, backward[:, ::-1]], -1)
    np.testing.assert_allclose(maps["layer1"], both, rtol=1e-5, atol=1e-5)
    ends = np.concatenate([forward[:, -1], backward[:, -1]], -1)
    np.testing.assert_allclose(maps["last"], ends, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("cell", CELLS)
def test_in_bfloat16_states_are_float32_and_a_pixel_is_a_step(cell):
    backbone = RecurrentBackbone(
        cell, 3, 2, order="pixels", layers=LayerFactory("tanh", dtype="bfloat16")
    )
    images = jax.ShapeDtypeStruct((2, 5, 4, 3), jnp.float32)
    maps: Any = jax.eval_shape(
        lambda x: backbone.init_with_output(jax.random.key(0), x, train=False)[0], images
    )
    assert {name: (leaf.shape, leaf.dtype) for name, leaf in maps.items()} == {
        "layer1": ((2, 20, 3), jnp.float32),
        "layer2": ((2, 20, 3), jnp.float32),
        "last": ((2, 3), jnp.float32),
    }


@pytest.mark.parametrize(
    ("name", "options"),
    [("tcn", {"hidden": 8}), ("conv1d", {"widths": (8,)}), ("gru", {"hidden": 8, "num_layers": 2})],
)
def test_dropout_acts_in_training_only(name, options):
    plain: Any
    dropping: Any
    plain, dropping = (MODELS[name].make(10, dropout_rate=rate, **options) for rate in (0.0, 0.5))
    images = jax.random.normal(jax.random.key(0), (2, 6, 6, 1))
    variables = drawn(plain.init(jax.random.key(1), images, train=False))
    expected = plain.apply(variables, images, train=True)
    np.testing.assert_array_equal(dropping.apply(variables, images, train=False), expected)
    rngs = {"dropout": jax.random.key(2)}
    dropped = dropping.apply(variables, images, train=True, rngs=rngs)
    assert not np.array_equal(dropped, expected)
