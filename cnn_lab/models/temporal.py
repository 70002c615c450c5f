"""Convolution over time, for images read as sequences: a temporal convolution net (Bai, Kolter,
Koltun 2018, "An empirical evaluation of generic convolutional and recurrent networks for sequence
modeling", arXiv:1803.01271, section 3), and a plain one-dimensional convolutional net in the
tradition of time-delay networks (Waibel et al. 1989, IEEE Trans. ASSP 37(3)).

Differs from the paper: dropout acts on single values, as in its authors' code, and there are as
many blocks as it takes to see the whole sequence, unless `num_blocks` is given.
"""  # noqa: D205 - the title is a citation

from typing import Annotated

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype

from cnn_lab.config.values import Count, ProperFraction, Range
from cnn_lab.core.arrays import Images
from cnn_lab.layers.convolution import NHWC, conv_general_dilated
from cnn_lab.layers.factory import Dtype, LayerFactory, initializer
from cnn_lab.layers.pooling import max_pool
from cnn_lab.models.heads import Classifier, DenseHead, PooledHead
from cnn_lab.models.inputs import Order, Sequences, Steps, as_sequences
from cnn_lab.models.registry import register

Several = Annotated[int, Range(min=2)]


class TimeConv(nn.Module):
    """A convolution over time that keeps the number of steps.

    Attributes:
        kernel_size: steps that one sees, itself included.
        dilation: steps from each of them to the next.
        causal: whether they all come before it; else it is in their middle.
        weight_norm: whether each feature's kernel is a direction and a length (Salimans & Kingma
            2016, arXiv:1602.07868), the length being the parameter `scale`.
    """

    features: int
    kernel_size: int
    dilation: int
    layers: LayerFactory
    causal: bool = True
    weight_norm: bool = False

    @nn.compact
    def __call__(self, x: Sequences) -> Steps:
        """Maps [n t d] to [n t features]."""
        shape = (self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", initializer(self.layers.kernel_init), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        if self.weight_norm:
            length = jnp.sqrt(jnp.sum(jnp.square(kernel), (0, 1)))
            scale = self.param("scale", lambda _: length)  # at first as if there were none
            kernel = kernel * (scale / length)[None, None]
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.layers.dtype)
        # Over every d-th step there is no dilation, and without it the kernel's gradient is fast.
        n, steps, values = x.shape
        rows = -(-steps // self.dilation)
        x = jnp.pad(x, ((0, 0), (0, rows * self.dilation - steps), (0, 0)))
        x = x.reshape(n, rows, self.dilation, values)
        after = 0 if self.causal else self.kernel_size // 2
        pads = ((self.kernel_size - 1 - after, after), (0, 0))
        y = conv_general_dilated(x, kernel[:, None], (1, 1), pads, dimension_numbers=NHWC)
        return y.reshape(n, rows * self.dilation, -1)[:, :steps] + bias[None, None]


class TemporalBlock(nn.Module):
    """Two causal convolutions, each with activation and dropout, and a shortcut."""

    features: int
    kernel_size: int
    dilation: int
    dropout_rate: float
    weight_norm: bool
    layers: LayerFactory

    @nn.compact
    def __call__(self, x: Sequences, *, train: bool) -> Steps:
        """Maps [n t d] to [n t features]."""
        layers, y = self.layers, x
        options = (self.features, self.kernel_size, self.dilation, layers, True, self.weight_norm)
        for name in ("conv1", "conv2"):
            y = layers.act(TimeConv(*options, name=name)(y))
            y = layers.dropout(self.dropout_rate)(y, train=train)
        if x.shape != y.shape:
            x = layers.dense(self.features, name="shortcut")(x)
        return layers.act(x + y)


class TemporalBackbone(nn.Module):
    """Blocks whose dilation doubles from one to the next."""

    hidden: int = 64
    kernel_size: int = 3
    num_blocks: int | None = None
    dropout_rate: float = 0.0
    weight_norm: bool = True
    order: Order = "rows"
    layers: LayerFactory = LayerFactory()

    @nn.compact
    def __call__(self, images: Images, *, train: bool) -> dict[str, jax.Array]:
        """Maps images [n h w c] to `blockI` [n t d], and the last step of the last, `last`."""
        x, maps = as_sequences(images, self.order), {}
        number = self.num_blocks or blocks_to_see(x.shape[1], self.kernel_size)
        for index in range(number):
            options = (self.hidden, self.kernel_size, 2**index, self.dropout_rate, self.weight_norm)
            name = f"block{index + 1}"
            maps[name] = x = TemporalBlock(*options, self.layers, name=name)(x, train=train)
        return maps | {"last": x[:, -1]}


def reach(num_blocks: int, kernel_size: int) -> int:
    """Steps that the last one sees, itself included: two convolutions a block, dilations double."""
    return 1 + 2 * (kernel_size - 1) * (2**num_blocks - 1)


def blocks_to_see(steps: int, kernel_size: int) -> int:
    """The fewest blocks whose last step sees all of that many steps."""
    number = 1
    while reach(number, kernel_size) < steps:
        number += 1
    return number


@register(
    "tcn",
    "Temporal convolution net",
    "Bai et al. 2018, arXiv:1803.01271",
    (28, 28, 1),
    num_parameters=70_090,
    macs=1_921_664,
    small=({"hidden": 10, "dropout_rate": 0.1}, (8, 8, 1)),
)
def tcn(
    num_classes: int,
    hidden: Count = 64,
    kernel_size: Several = 3,
    num_blocks: Count | None = None,
    weight_norm: bool = True,
    order: Order = "rows",
    activation: str = "relu",
    kernel_init: str = "he_normal",
    dropout_rate: ProperFraction = 0.0,
    dtype: Dtype = "float32",
) -> Classifier:
    """A temporal convolution net: dilated causal convolutions; the last step is classified.

    Args:
        hidden: values per step in every block.
        kernel_size: steps that a convolution sees. The last step sees 1 + 2 (kernel_size - 1)
            (2^num_blocks - 1) of the sequence.
        num_blocks: of two convolutions each; none for as many as it takes to see the whole
            sequence. The paper has 8 blocks of 25 with a kernel size of 7 for a pixel a step.
        weight_norm: whether the convolutions' kernels are directions and lengths.
        dropout_rate: share of the values dropped in training after each convolution.
    """
    layers = LayerFactory(activation, kernel_init, dtype=dtype)
    options = (hidden, kernel_size, num_blocks, dropout_rate, weight_norm, order)
    head = DenseHead(num_classes, (), LayerFactory(dense_init="normal", dtype=dtype))
    return Classifier(TemporalBackbone(*options, layers), head)


class Conv1dBackbone(nn.Module):
    """Convolutions over time, each followed by activation and pooling over pairs of steps."""

    widths: tuple[int, ...] = (64, 128)
    kernel_size: int = 5
    order: Order = "rows"
    layers: LayerFactory = LayerFactory()

    @nn.compact
    def __call__(self, images: Images, *, train: bool) -> dict[str, jax.Array]:  # noqa: ARG002
        """Maps images [n h w c] to `convI` [n t/2^I d]."""
        x, maps = as_sequences(images, self.order), {}
        for index, width in enumerate(self.widths):
            name = f"conv{index + 1}"
            x = TimeConv(width, self.kernel_size, 1, self.layers, causal=False, name=name)(x)
            maps[name] = x = max_pool(self.layers.act(x), 2)
        return maps


@register(
    "conv1d",
    "Convolution over time",
    "Waibel et al. 1989, IEEE Trans. ASSP 37(3)",
    (28, 28, 1),
    num_parameters=51_402,
    macs=825_600,
    small=({"widths": (8, 12), "kernel_size": 3}, (8, 8, 1)),
)
def conv1d(
    num_classes: int,
    widths: tuple[Count, ...] = (64, 128),
    kernel_size: Count = 5,
    order: Order = "rows",
    activation: str = "relu",
    kernel_init: str = "he_normal",
    dropout_rate: ProperFraction = 0.0,
    dtype: Dtype = "float32",
) -> Classifier:
    """Convolution and pooling over time; the mean over what is left of it is classified.

    Args:
        widths: values per step after each convolution; each halves the number of steps.
        kernel_size: steps that a convolution sees, half of them before and half after.
    """
    layers = LayerFactory(activation, kernel_init, "normal", dtype)
    backbone = Conv1dBackbone(tuple(widths), kernel_size, order, layers)
    return Classifier(backbone, PooledHead(num_classes, layers, dropout_rate))
