"""A factory of the layers of one network, which makes them alike."""

import dataclasses
import typing
from collections.abc import Sequence
from typing import Any, Literal

import flax.linen as nn
import jax

from cnn_lab.core.errors import ConfigError
from cnn_lab.layers.activations import activation
from cnn_lab.layers.convolution import conv_general_dilated
from cnn_lab.layers.dropout import Dropout
from cnn_lab.layers.initializers import initializer
from cnn_lab.layers.normalization import BatchNorm, GroupNorm
from cnn_lab.layers.windows import Size, per_axis

Dtype = Literal["float32", "bfloat16", "float16"]
Padding = int | Sequence[int | tuple[int, int]] | Literal["VALID"] | None


@dataclasses.dataclass(frozen=True)
class LayerFactory:
    """Settings that the layers of a network share; its methods make layers inside a module.

    Parameters and the statistics of normalisation are float32 whatever `dtype` is.

    Attributes:
        activation: name of the one after each layer.
        kernel_init: name of the initialiser of convolutions.
        dense_init: name of the initialiser of dense layers.
        dtype: of the computation.
        norm_epsilon: added to variances.
        norm_momentum: share of the running statistics that a batch leaves as they were.
        dropout_scaling: when dropout scales values; see `Dropout`.
        norm_kind: what is normalised over: the `batch`, the maps of up to 32 `group`s of channels,
            or the channels of each pixel (`layer`).
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
        """The activation."""
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
        """A convolution over maps [n *space c].

        Args:
            features: channels of the result.
            kernel: side in pixels, or one per axis.
            strides: pixels between windows, or one per axis.
            padding: pixels on both sides, or one entry or pair per axis; None keeps the size at
                stride 1 for odd kernels: dilation * (kernel - 1) / 2.
            groups: parts that the channels are divided into; the number of channels for depthwise.
            dilation: pixels between weights.
            bias: whether a bias is added.
            axes: axes of space, 1 to 3.
            name: last part of the parameters' path.
        """
        sides, spread = per_axis(kernel, axes, "kernel"), per_axis(dilation, axes, "dilation")
        if padding is None:
            padding = [d * (k - 1) // 2 for k, d in zip(sides, spread, strict=True)]
        if groups < 1 or features % groups:
            raise ConfigError(
                f"A convolution to {features} channels cannot be divided into {groups} groups; "
                "use a number that divides them."
            )
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
        options["scale_init"] = nn.initializers.zeros if zero else nn.initializers.ones
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
        init = initializer(self.dense_init)
        return nn.Dense(features, kernel_init=init, dtype=self.dtype, name=name)


@typing.no_type_check  # beartype cannot check the fields that it inherits
class _Conv(nn.Conv):
    """Linen's convolution, which learns the input's channels only when it is called."""

    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Maps [n *space c] to [n *smaller features]."""
        channels, groups = inputs.shape[-1], self.feature_group_count
        if channels % groups:
            raise ConfigError(
                f"A convolution of {channels} channels cannot be divided into {groups} groups; use "
                "a number that divides them."
            )
        return super().__call__(inputs)
