"""The spread of every initialiser is the one that its name promises."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import refused

from cnn_lab.core.errors import ConfigError
from cnn_lab.layers.factory import INITIALIZERS, initializer

# dense [d features], convolution [h w c features], depthwise [h w 1 c], 1-D and 3-D
SHAPES = [(300, 200), (3, 3, 32, 64), (5, 5, 1, 400), (7, 40, 50), (3, 3, 3, 20, 30)]
# Variance as a function of (fan in, fan out).
VARIANCES = {
    "glorot_normal": lambda fans: 2 / sum(fans),
    "glorot_uniform": lambda fans: 2 / sum(fans),
    "he_normal": lambda fans: 2 / fans[0],
    "he_normal_fan_out": lambda fans: 2 / fans[1],
    "he_uniform": lambda fans: 2 / fans[0],
    "lecun_normal": lambda fans: 1 / fans[0],
    "lecun_uniform": lambda fans: 1 / fans[0],
    "normal": lambda _: 0.01**2,
    "torch": lambda fans: 1 / (3 * fans[0]),
    # Cut at two deviations: 1 - 4 pdf(2) / (cdf(2) - cdf(-2)).
    "truncated_normal": lambda _: 0.02**2 * 0.7737413,
    "zeros": lambda _: 0.0,
}


def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
    return np.asarray(initializer(name)(jax.random.key(0), shape, jnp.float32))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", VARIANCES)
def test_mean_and_variance(name, shape):
    window = math.prod(shape[:-2])
    wanted = VARIANCES[name]((window * shape[-2], window * shape[-1]))
    values = draw(name, shape)
    number = values.size
    assert abs(values.mean()) <= 4.5 * (wanted / number) ** 0.5
    # The variance of n normal values has a relative deviation of (2 / n) ** 0.5; others have less.
    assert values.var() == pytest.approx(wanted, rel=4.5 * (2 / number) ** 0.5)


def test_every_name_is_looked_at():
    assert {*INITIALIZERS} == {*VARIANCES, "orthogonal"}


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_orthogonal_kernels_have_orthonormal_rows_or_columns(shape):
    matrix = draw("orthogonal", shape).reshape(-1, shape[-1])
    if matrix.shape[0] < matrix.shape[1]:
        matrix = matrix.T
    np.testing.assert_allclose(matrix.T @ matrix, np.eye(matrix.shape[1]), atol=1e-5)


@pytest.mark.parametrize("name", ["he_uniform", "torch", "truncated_normal"])
def test_values_are_bounded(name):
    bound = {"he_uniform": (6 / 300) ** 0.5, "torch": 300**-0.5, "truncated_normal": 0.04}[name]
    largest = np.abs(draw(name, (300, 200))).max()
    assert 0.99 * bound < largest <= bound * (1 + 1e-6)


def test_an_unknown_name_is_refused_with_the_nearest():
    near = ("he_normal", "he_normal_fan_out", "he_uniform")
    with refused(ConfigError, found="he_norm", nearest=near):
        initializer("he_norm")


def test_he_keeps_the_energy_of_a_deep_relu_net_and_small_weights_lose_it():
    """The syllabus: how activation variance travels under each initialisation."""
    x = jax.random.normal(jax.random.key(1), (200, 256))

    def energy_after(name: str, depth: int = 20) -> float:
        values = x
        for layer in range(depth):
            kernel = initializer(name)(jax.random.key(layer), (256, 256), jnp.float32)
            values = jax.nn.relu(values @ kernel)
        return float(jnp.square(values).mean() / jnp.square(x).mean())

    assert 0.2 < energy_after("he_normal") < 5
    assert 0.2 < energy_after("glorot_normal") * 2.0**20 < 5  # each ReLU takes half
    assert energy_after("normal") < 1e-20
    assert energy_after("zeros") == 0
