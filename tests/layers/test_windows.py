"""Pooling with padding, strides and ceil mode against plain loops, in one to three dimensions."""

import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import refused

from cnn_lab.core.errors import ConfigError
from cnn_lab.layers.pooling import average_pool, lp_pool, max_pool
from cnn_lab.layers.windows import Windows, per_axis

SPACES = {1: (9,), 2: (7, 6), 3: (5, 4, 6)}
GRID = [
    (axes, window, strides, padding, ceil_mode)
    for axes in SPACES
    for window, strides, padding in itertools.product((1, 2, 3), (None, 1, 2, 3), (0, 1))
    for ceil_mode in (False, True)
    if padding <= window // 2
]


def windows_of(space, window, strides, padding, ceil_mode):
    """Every window in output order, as lists of (pixel index or None for padding) per axis.

    A window is kept if it lies within the padded map or, in ceil mode, begins before the far
    padding; pixels past the far padding do not exist at all.
    """
    axes = []
    for length in space:
        starts, begin = [], -padding
        while begin + window <= length + padding or (ceil_mode and begin < length):
            # In ceil mode the window before must have left pixels over.
            if begin > -padding and begin - strides + window >= length + padding:
                break
            starts.append(begin)
            begin += strides
        axes.append([[p for p in range(s, s + window) if p < length + padding] for s in starts])
    return axes


def loop(maps, axes, reduce):
    """Applies `reduce(values [pixels n c], number of padding pixels)` to every window."""
    space, out = maps.shape[1:-1], []
    for window in itertools.product(*axes):
        pixels = list(itertools.product(*window))
        real = [p for p in pixels if all(0 <= i < n for i, n in zip(p, space, strict=True))]
        values = np.stack([maps[(slice(None), *pixel)] for pixel in real])
        out.append(reduce(values, len(pixels) - len(real)))
    shape = (*(len(axis) for axis in axes), maps.shape[0], maps.shape[-1])
    return np.moveaxis(np.reshape(out, shape), -2, 0)


@pytest.mark.parametrize("axes", SPACES)
def test_pooling_equals_plain_loops(axes: int):
    maps = np.random.default_rng(0).normal(size=(2, *SPACES[axes], 3)).astype(np.float32)
    images = jnp.asarray(maps)
    cases, found, wanted = [c for c in GRID if c[0] == axes], [], []
    for _, window, strides, padding, ceil_mode in cases:
        options: dict[str, Any] = {"padding": padding, "ceil_mode": ceil_mode}
        found.append(max_pool(images, window, strides, **options))
        found.append(average_pool(images, window, strides, **options))
        found.append(average_pool(images, window, strides, count_padding=False, **options))
        places = windows_of(maps.shape[1:-1], window, strides or window, padding, ceil_mode)
        wanted.append(loop(maps, places, lambda v, _: v.max(0)))
        wanted.append(loop(maps, places, lambda v, extra: v.sum(0) / (len(v) + extra)))
        wanted.append(loop(maps, places, lambda v, _: v.mean(0)))
    for index, (ours, theirs) in enumerate(zip(found, wanted, strict=True)):
        assert ours.shape == theirs.shape, cases[index // 3]
        np.testing.assert_allclose(ours, theirs, atol=1e-6, err_msg=str(cases[index // 3]))


def test_sides_and_strides_may_differ_by_axis():
    maps = np.random.default_rng(0).normal(size=(1, 7, 6, 2)).astype(np.float32)
    found = max_pool(jnp.asarray(maps), (3, 2), (2, 1), (1, 0))
    wanted = [
        [maps[0, max(0, i - 1) : i + 2, j : j + 2].max((0, 1)) for j in range(5)]
        for i in range(0, 7, 2)
    ]
    np.testing.assert_array_equal(found[0], wanted)


@pytest.mark.parametrize("strides", [1, 2, 3])
@pytest.mark.parametrize(
    ("window", "padding"), [(1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (5, 0), (5, 1), (5, 2)]
)
def test_the_number_of_windows_is_the_syllabus_formula(window, strides, padding):
    windows = Windows.over((11,), window, strides, padding, ceil_mode=False)
    assert windows.counts == (math.floor((11 - window + 2 * padding) / strides) + 1,)


def test_the_syllabus_pooling_of_a_large_map():
    maps = jax.ShapeDtypeStruct((1, 300, 400, 3), jnp.float32)
    assert jax.eval_shape(lambda x: max_pool(x, 2, 2), maps).shape == (1, 150, 200, 3)


@pytest.mark.parametrize("ceil_mode", [False, True])
def test_a_window_hanging_over_counts_only_what_exists(ceil_mode: bool):
    ones = jnp.ones((1, 5, 1))
    padded = average_pool(ones, 3, 2, 1, ceil_mode=ceil_mode)
    np.testing.assert_allclose(padded[0, :, 0], [2 / 3, 1, 2 / 3], rtol=1e-6)
    assert float(average_pool(jnp.ones((1, 6, 1)), 3, 2, 0, ceil_mode=True)[0, -1, 0]) == 1


def test_sums_over_windows_do_not_round_in_bfloat16():
    # In bfloat16, 256 + 1 is 256: a sum that rounds at every pixel stops there.
    maps = jnp.ones((1, 20, 20, 1), jnp.bfloat16)
    for pooled in (average_pool(maps, 20), average_pool(maps, 20, 3), lp_pool(maps, 20, power=1.0)):
        assert pooled.dtype == jnp.bfloat16
        assert float(pooled[0, 0, 0, 0]) in (1.0, 400.0)


@pytest.mark.parametrize(
    ("arguments", "where", "allowed"),
    [
        ((3, 2, 2), "padding", "at most half of the pooling window of 3x3"),
        ((0,), "window", "a number of at least 1, or 2 of them"),
        (((2, 2, 2),), "window", "a number of at least 1, or 2 of them"),
        ((2, 0), "strides", "a number of at least 1, or 2 of them"),
        ((2, 2, -1), "padding", "a number of at least 0, or 2 of them"),
    ],
)
def test_what_cannot_be_is_refused(arguments, where, allowed):
    with refused(ConfigError, where=where, found=arguments[-1], allowed=allowed):
        max_pool(jnp.ones((1, 6, 6, 1)), *arguments)


def test_one_number_stands_for_all_axes():
    assert per_axis(3, 2, "side") == (3, 3)
    assert per_axis([1, 2], 2, "side") == (1, 2)
