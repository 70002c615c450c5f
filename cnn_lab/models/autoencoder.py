"""Autoencoders: images to a short code and back to images.

The dense one is that of Hinton & Salakhutdinov 2006, "Reducing the dimensionality of data with
neural networks", Science 313. The convolutional one follows Masci, Meier, Cireşan, Schmidhuber
2011, "Stacked convolutional auto-encoders for hierarchical feature extraction", ICANN, with the
unpooling of Zeiler & Fergus 2013, arXiv:1311.2901, section 2.1.

Differs from the papers: all layers are trained at once, without layer-wise pretraining; rectified
linear units by default; the weights of encoder and decoder are not tied.
"""

import math
from collections.abc import Mapping
from typing import Literal

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from cnn_lab.config.values import Count
from cnn_lab.core.arrays import Images
from cnn_lab.core.errors import ConfigError
from cnn_lab.layers.factory import Dtype, LayerFactory, initializer
from cnn_lab.layers.factory import activation as activation_of
from cnn_lab.layers.pooling import max_pool
from cnn_lab.layers.unpooling import (
    ConvTranspose,
    max_pool_with_indices,
    max_unpool,
    nearest_unpool,
)
from cnn_lab.models.heads import ImageToImage
from cnn_lab.models.inputs import require_multiple
from cnn_lab.models.registry import register

Unpooling = Literal["remembered", "nearest", "transposed"]
Reconstruction = Float[Array, "n h w c"]
Shape = tuple[int, int, int]


class ConvEncoder(nn.Module):
    """3x3 convolutions with pooling after each, and one more that makes the code."""

    widths: tuple[int, ...]
    code_channels: int
    batch_norm: bool
    layers: LayerFactory

    @nn.compact
    def __call__(self, images: Images, *, train: bool) -> dict[str, jax.Array]:
        """Maps images [n h w c] to `stage1` [n h w d], `stage2` of half the sides.. and `code`."""
        require_multiple(images, 2 ** len(self.widths), "conv_autoencoder")
        x, maps = images, {}
        for index, width in enumerate(self.widths, start=1):
            x = _convolve(self, x, width, f"stage{index}", train=train)
            maps[f"stage{index}"] = x
            x = max_pool(x, 2)
        maps["code"] = self.layers.conv(self.code_channels, 3, bias=True, name="code_conv")(x)
        return maps


class ConvDecoder(nn.Module):
    """The encoder's mirror image."""

    unpooling: Unpooling
    batch_norm: bool
    output_activation: str
    layers: LayerFactory

    @nn.compact
    def __call__(
        self, maps: Mapping[str, jax.Array], image_shape: Shape, *, train: bool
    ) -> Reconstruction:
        """Maps `code`, and where `stage1`, `stage2`.. had their maxima, to images [n h w c]."""
        *pooled, (_, x) = maps.items()
        x = _convolve(self, x, pooled[-1][1].shape[-1], "code", train=train)
        for index in reversed(range(len(pooled))):
            name, before = pooled[index]
            if self.unpooling == "nearest":
                x = nearest_unpool(x, 2)
            elif self.unpooling == "remembered":
                # Looked for again, so that the encoder's maps are features and nothing else.
                _, indices = max_pool_with_indices(before, 2)
                x = max_unpool(x, indices, before.shape[1:3], tile=2)
            else:
                init, dtype = initializer(self.layers.kernel_init), self.layers.dtype
                options = {"kernel_init": init, "dtype": dtype, "name": f"{name}_up"}
                x = self.layers.act(ConvTranspose(x.shape[-1], 2, 2, **options)(x))
            if index:
                x = _convolve(self, x, pooled[index - 1][1].shape[-1], name, train=train)
        x = self.layers.conv(image_shape[-1], 3, bias=True, name="output")(x)
        return activation_of(self.output_activation)(x)


def _convolve(
    module: ConvEncoder | ConvDecoder, x: jax.Array, features: int, name: str, *, train: bool
) -> jax.Array:
    layers, bias = module.layers, not module.batch_norm
    x = layers.conv(features, 3, bias=bias, name=f"{name}_conv")(x)
    if module.batch_norm:
        x = layers.norm(train=train, name=f"{name}_bn")(x)
    return layers.act(x)


class DenseEncoder(nn.Module):
    """Dense layers on the pixels and a linear code."""

    hidden: tuple[int, ...]
    code_size: int
    layers: LayerFactory

    @nn.compact
    def __call__(self, images: Images, *, train: bool) -> dict[str, jax.Array]:  # noqa: ARG002
        """Maps images [n h w c] to `hidden1` [n d], `hidden2`.. and `code` [n code_size]."""
        x, maps = images.reshape(images.shape[0], -1), {}
        for index, width in enumerate(self.hidden, start=1):
            x = self.layers.act(self.layers.dense(width, name=f"hidden{index}")(x))
            maps[f"hidden{index}"] = x
        maps["code"] = self.layers.dense(self.code_size, name="code")(x)
        return maps


class DenseDecoder(nn.Module):
    """Dense layers from a code to the pixels."""

    hidden: tuple[int, ...]
    output_activation: str
    layers: LayerFactory

    @nn.compact
    def __call__(
        self,
        maps: Mapping[str, jax.Array],
        image_shape: Shape,
        *,
        train: bool,  # noqa: ARG002
    ) -> Reconstruction:
        """Maps `code` [n d] to images [n h w c]."""
        x = maps["code"]
        for index, width in enumerate(self.hidden, start=1):
            x = self.layers.act(self.layers.dense(width, name=f"hidden{index}")(x))
        x = self.layers.dense(math.prod(image_shape), name="output")(x)
        return activation_of(self.output_activation)(x).reshape(-1, *image_shape)


@register(
    "conv_autoencoder",
    "Convolutional autoencoder with unpooling",
    "Masci et al. 2011, ICANN",
    (28, 28, 1),
    num_parameters=46_857,
    macs=8_128_512,
    outputs="images",
    small=({"widths": (4, 6), "code_channels": 2}, (8, 8, 1)),
)
def conv_autoencoder(
    num_classes: int,
    widths: tuple[Count, ...] = (32, 64),
    code_channels: Count = 8,
    unpooling: Unpooling = "remembered",
    batch_norm: bool = False,
    activation: str = "relu",
    output_activation: str = "identity",
    kernel_init: str = "he_normal",
    dtype: Dtype = "float32",
) -> ImageToImage:
    """A convolutional autoencoder of images whose sides are multiples of 2**len(widths).

    Args:
        widths: channels of the convolutions before each 2x2 max-pooling.
        code_channels: channels of the code.
        unpooling: `remembered` (values go where the encoder's maxima were, which then pass the
            code by; zeros elsewhere), `nearest` or `transposed` (a learned 2x2 transposed
            convolution).
        batch_norm: normalise after each convolution but those to the code and the output.
    """
    del num_classes
    if not widths:
        raise ConfigError(
            where="config.model.options.widths",
            found=widths,
            allowed="one number of channels per pooling",
            advice="dense_autoencoder has none",
        )
    layers = LayerFactory(activation, kernel_init, dtype=dtype)
    return ImageToImage(
        ConvEncoder(tuple(widths), code_channels, batch_norm, layers),
        ConvDecoder(unpooling, batch_norm, output_activation, layers),
    )


@register(
    "dense_autoencoder",
    "Dense autoencoder",
    "Hinton & Salakhutdinov 2006, Science 313",
    (28, 28, 1),
    num_parameters=2_837_314,
    macs=2_833_000,
    outputs="images",
    small=({"hidden": (20, 12), "code_size": 6}, (6, 6, 1)),
)
def dense_autoencoder(
    num_classes: int,
    hidden: tuple[Count, ...] = (1000, 500, 250),
    code_size: Count = 30,
    activation: str = "relu",
    output_activation: str = "identity",
    kernel_init: str = "he_normal",
    dtype: Dtype = "float32",
) -> ImageToImage:
    """A dense autoencoder with a linear code.

    Args:
        hidden: widths of the layers between the pixels and the code, and back in reverse order.
        code_size: values of the code.
        activation: name of the activation of the hidden layers; the paper has `sigmoid`.
        kernel_init: name of the initialiser of all kernels.
    """
    del num_classes
    layers, hidden = LayerFactory(activation, kernel_init, kernel_init, dtype), tuple(hidden)
    return ImageToImage(
        DenseEncoder(hidden, code_size, layers),
        DenseDecoder(hidden[::-1], output_activation, layers),
    )
