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
    "glorot_normal": _initializers.glorot_normal(),  # Glorot & Bengio 2010, also called Xavier
    "glorot_uniform": _initializers.glorot_uniform(),
    "he_normal": _initializers.he_normal(),  # He et al. 2015, arXiv:1502.01852, by fan-in
    "he_normal_fan_out": _initializers.variance_scaling(2.0, "fan_out", "normal"),
    "he_uniform": _initializers.he_uniform(),
    "lecun_normal": _initializers.lecun_normal(),  # LeCun et al. 1998, "Efficient BackProp"
    "lecun_uniform": _initializers.lecun_uniform(),
    "normal": _initializers.normal(0.01),  # standard deviation 0.01: Krizhevsky et al. 2012
    "orthogonal": _initializers.orthogonal(),  # Saxe et al. 2013, arXiv:1312.6120
    "torch": _initializers.variance_scaling(1 / 3, "fan_in", "uniform"),  # torch's default
    "truncated_normal": _initializers.truncated_normal(0.02),  # cut at two deviations of 0.02
    "zeros": _initializers.zeros,
}


def initializer(name: str) -> Initializer:
    """Returns the initialiser of that name, or raises a `ConfigError` with the nearest names."""
    return lookup(INITIALIZERS, name, "initializer")
