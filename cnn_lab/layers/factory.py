"""The layers of one network, made alike by a factory, and activations and initialisers by name."""

import dataclasses
import typing
from collections.abc import Callable, Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn import initializers
from jaxtyping import Array, Float

from cnn_lab.core.errors import ConfigError, lookup
from cnn_lab.layers.convolution import conv_general_dilated
from cnn_lab.layers.dropout import Dropout
from cnn_lab.layers.normalization import BatchNorm, GroupNorm
from cnn_lab.layers.windows import Size, per_axis

Activation = Callable[[Float[Array, "..."]], Float[Array, "..."]]
Initializer = Callable[..., Any]  # (key, shape, dtype) -> array
Dtype = Literal["float32", "bfloat16", "float16"]
Padding = int | Sequence[int | tuple[int, int]] | Literal["VALID"] | None


@dataclasses.dataclass(frozen=True)
class LayerFactory:
    """Settings that the layers of a network share; its methods make layers inside a module.

    Parameters and the statistics of normalisation are float32 whatever `dtype` is.

    Attributes:
        kernel_init: name of the initialiser of convolutions; dense layers have their own.
        norm_momentum: share of the running statistics that a batch leaves as they were.
        norm_kind: the axes of statistics: the `batch`, the maps of up to 32 `group`s of channels,
            or the channels of each pixel (`layer`).
        dropout_scaling: when dropout scales values; see `Dropout`.
    """

    activation: str = "relu"
    kernel_init: str = "he_normal"
    dense_init: str = "lecun_normal"
    dtype: Dtype = "float32"
    norm_epsilon: float = 1e-5
    norm_momentum: float = 0.9
    norm_kind: Literal["batch", "group", "layer"] = "batch"
    dropout_scaling: Literal["training", "evaluation"] = "training"

    def act(self, x: jax.Array) -> jax.Array:
        """Applies the activation that the factory names to each value of `x`."""
        return activation(self.activation)(x)

    def conv(
        self,
        features: int,
        kernel: Size,
        strides: Size = 1,
        padding: Padding = None,
        *,
        groups: int = 1,
        dilation: Size = 1,
        bias: bool = False,
        axes: int = 2,
        name: str,
    ) -> nn.Conv:
        """A convolution over maps [n *space c] with 1 to 3 axes of space.

        `kernel`, `strides` and `dilation` are pixels, or one number per axis, and so is `padding`
        on both sides, or a pair per axis; None keeps the size at stride 1 for odd kernels. There
        are as many `groups` as channels in a depthwise convolution.
        """
        sides, spread = per_axis(kernel, axes, "kernel"), per_axis(dilation, axes, "dilation")
        if padding is None:
            padding = [d * (k - 1) // 2 for k, d in zip(sides, spread, strict=True)]
        if groups < 1 or features % groups:
            allowed = f"a number that divides the {features} channels of a convolution's result"
            raise ConfigError(where="groups", found=groups, allowed=allowed)
        return _Conv(
            features,
            sides,
            per_axis(strides, axes, "strides"),
            [padding] * axes if isinstance(padding, int) else padding,
            kernel_dilation=spread,
            feature_group_count=groups,
            use_bias=bias,
            kernel_init=initializer(self.kernel_init),
            dtype=self.dtype,
            conv_general_dilated=conv_general_dilated,
            name=name,
        )

    def norm(
        self, *, train: bool, zero: bool = False, name: str
    ) -> nn.BatchNorm | GroupNorm | nn.LayerNorm:
        """A normalisation; `zero` starts its scale at 0, so that a branch adds nothing at first."""
        options: dict[str, Any] = {"epsilon": self.norm_epsilon, "dtype": self.dtype, "name": name}
        options["scale_init"] = initializers.zeros if zero else initializers.ones
        if self.norm_kind == "group":
            return GroupNorm(**options)
        if self.norm_kind == "layer":
            return nn.LayerNorm(use_fast_variance=False, **options)
        return BatchNorm(train=train, momentum=self.norm_momentum, **options)

    def dropout(self, rate: float) -> Dropout:
        """Dropout of that share of the values."""
        return Dropout(rate, self.dropout_scaling)

    def dense(self, features: int, *, name: str) -> nn.Dense:
        """A dense layer [... d] to [... features]."""
        kernel_init = initializer(self.dense_init)
        return nn.Dense(features, kernel_init=kernel_init, dtype=self.dtype, name=name)


@typing.no_type_check  # beartype cannot check the fields that it inherits
class _Conv(nn.Conv):
    """Linen's convolution, which learns the input's channels only when it is called."""

    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Maps [n *space c] to [n *smaller features]."""
        channels, groups = inputs.shape[-1], self.feature_group_count
        if channels % groups:
            allowed = f"a number that divides the {channels} channels of a convolution's input"
            raise ConfigError(where="groups", found=groups, allowed=allowed)
        return super().__call__(inputs)


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


def scaled_tanh(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """1.7159 tanh(2x/3), which maps ±1 to ±1 (LeCun et al. 1998, appendix A)."""
    return 1.7159 * jnp.tanh(x * (2.0 / 3.0))


def identity(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Each value as it is: a linear layer."""
    return jax.nn.identity(x)


def tanh(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Hyperbolic tangent, which maps values to (-1, 1)."""
    return nn.tanh(x)


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


XAVIER = "Xavier's: variance 2 / (fan-in + fan-out); Glorot & Bengio 2010, AISTATS."
KAIMING = "Kaiming's: variance 2 / fan-in, for ReLU; He et al. 2015, arXiv:1502.01852."
LECUN = 'Variance 1 / fan-in; LeCun et al. 1998, "Efficient BackProp".'
INITIALIZERS: dict[str, tuple[Initializer, str]] = {
    "glorot_normal": (initializers.glorot_normal(), XAVIER),
    "glorot_uniform": (initializers.glorot_uniform(), XAVIER),
    "he_normal": (initializers.he_normal(), KAIMING),
    "he_normal_fan_out": (
        initializers.variance_scaling(2.0, "fan_out", "normal"),
        "Kaiming's: variance 2 / fan-out, as residual nets have it.",
    ),
    "he_uniform": (initializers.he_uniform(), KAIMING),
    "lecun_normal": (initializers.lecun_normal(), LECUN),
    "lecun_uniform": (initializers.lecun_uniform(), LECUN),
    "normal": (
        initializers.normal(0.01),
        "Standard deviation 0.01, whatever the layer; Krizhevsky et al. 2012.",
    ),
    "orthogonal": (
        initializers.orthogonal(),
        "Orthonormal rows or columns; Saxe et al. 2013, arXiv:1312.6120.",
    ),
    "torch": (
        initializers.variance_scaling(1 / 3, "fan_in", "uniform"),
        "PyTorch's default: uniform, variance 1 / (3 fan-in).",
    ),
    "truncated_normal": (
        initializers.truncated_normal(0.02),
        "Standard deviation 0.02, cut at two of them, whatever the layer.",
    ),
    "zeros": (
        initializers.zeros,
        "All weights alike, so that they never differ: to be seen, not used.",
    ),
}


def initializer(name: str) -> Initializer:
    """Returns the initialiser of that name, or raises a `ConfigError` with the nearest names."""
    return lookup(INITIALIZERS, name, "initializer")[0]
