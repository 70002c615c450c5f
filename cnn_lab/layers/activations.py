"""Activations by name."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cnn_lab.core.errors import lookup

Activation = Callable[[Float[Array, "..."]], Float[Array, "..."]]


@jax.custom_jvp
def threshold(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """The unit step: 1 where x > 0, else 0; its gradient is passed straight through.

    The true derivative is zero almost everywhere. With the straight-through one, gradient descent
    on half the squared error is Rosenblatt's perceptron rule, weight += rate * (target - output)
    * input (Rosenblatt 1958, Psychological Review 65(6)).
    """
    return (x > 0).astype(x.dtype)


@threshold.defjvp
def _threshold_jvp(primals, tangents):
    return threshold(*primals), tangents[0]


def identity(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """The input as it is: a layer without a nonlinearity."""
    return x


def tanh(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Hyperbolic tangent, between -1 and 1."""
    return jnp.tanh(x)


def scaled_tanh(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """1.7159 tanh(2x/3), which maps ±1 to ±1 (LeCun et al. 1998, appendix A)."""
    return 1.7159 * jnp.tanh(x * (2.0 / 3.0))


def gelu_exact(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """GELU by the error function, as torch has it; `gelu` approximates that by tanh."""
    return nn.gelu(x, approximate=False)


ACTIVATIONS: dict[str, Activation] = {
    "elu": nn.elu,
    "gelu": nn.gelu,
    "gelu_exact": gelu_exact,
    "hard_swish": nn.hard_swish,
    "identity": identity,
    "leaky_relu": nn.leaky_relu,
    "relu": nn.relu,
    "relu6": nn.relu6,
    "scaled_tanh": scaled_tanh,
    "sigmoid": nn.sigmoid,
    "silu": nn.silu,
    "tanh": tanh,
    "threshold": threshold,
}

# They never fall, so they commute with a maximum, and so do their gradients.
MONOTONE = frozenset({"elu", "identity", "leaky_relu", "relu", "scaled_tanh", "sigmoid", "tanh"})


def activation(name: str) -> Activation:
    """Returns the activation of that name, or raises a `ConfigError` with the nearest names."""
    return lookup(ACTIVATIONS, name, "activation")
