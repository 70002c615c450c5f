"""Initialisers of kernels by name.

Fans count the receptive field: a kernel [height width c features] has fan-in height * width * c.
"""

from collections.abc import Callable
from typing import Any

import jax

from cnn_lab.core.errors import lookup

Initializer = Callable[..., Any]  # (key, shape, dtype) -> array

_initializers = jax.nn.initializers
INITIALIZERS: dict[str, Initializer] = {
    "glorot_normal": _initializers.glorot_normal(),
    "glorot_uniform": _initializers.glorot_uniform(),
    "he_normal": _initializers.he_normal(),
    "he_normal_fan_out": _initializers.variance_scaling(2.0, "fan_out", "normal"),
    "he_uniform": _initializers.he_uniform(),
    "lecun_normal": _initializers.lecun_normal(),
    "lecun_uniform": _initializers.lecun_uniform(),
    "normal": _initializers.normal(0.01),
    "orthogonal": _initializers.orthogonal(),
    "torch": _initializers.variance_scaling(1 / 3, "fan_in", "uniform"),
    "truncated_normal": _initializers.truncated_normal(0.02),
    "zeros": _initializers.zeros,
}

MEANINGS: dict[str, str] = {
    "glorot_normal": "Xavier's: variance 2 / (fan-in + fan-out); Glorot & Bengio 2010, AISTATS.",
    "glorot_uniform": "Xavier's: variance 2 / (fan-in + fan-out); Glorot & Bengio 2010, AISTATS.",
    "he_normal": "Kaiming's: variance 2 / fan-in, for ReLU; He et al. 2015, arXiv:1502.01852.",
    "he_normal_fan_out": "Kaiming's: variance 2 / fan-out, as residual nets have it.",
    "he_uniform": "Kaiming's: variance 2 / fan-in, for ReLU; He et al. 2015, arXiv:1502.01852.",
    "lecun_normal": 'Variance 1 / fan-in; LeCun et al. 1998, "Efficient BackProp".',
    "lecun_uniform": 'Variance 1 / fan-in; LeCun et al. 1998, "Efficient BackProp".',
    "normal": "Standard deviation 0.01, whatever the layer; Krizhevsky et al. 2012.",
    "orthogonal": "Orthonormal rows or columns; Saxe et al. 2013, arXiv:1312.6120.",
    "torch": "PyTorch's default: uniform, variance 1 / (3 fan-in).",
    "truncated_normal": "Standard deviation 0.02, cut at two of them, whatever the layer.",
    "zeros": "All weights alike, so that they never differ: to be seen, not used.",
}


def initializer(name: str) -> Initializer:
    """Returns the initialiser of that name, or raises a `ConfigError` with the nearest names."""
    return lookup(INITIALIZERS, name, "initializer")
