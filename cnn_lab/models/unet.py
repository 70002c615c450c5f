"""U-Net (Ronneberger, Fischer, Brox 2015, "U-Net: convolutional networks for biomedical image
segmentation", arXiv:1505.04597, figure 1).

Differs from the paper: convolutions keep the size, so that there is one logit vector per pixel of
the image and nothing is cropped; dropout at the end of the contracting path is off unless
`dropout_rate` is set.
"""  # noqa: D205 - the title is a citation

import dataclasses
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cnn_lab.config.values import Count, ProperFraction
from cnn_lab.core.arrays import Images, Maps
from cnn_lab.layers.factory import Dtype, LayerFactory, initializer
from cnn_lab.layers.pooling import max_pool
from cnn_lab.layers.unpooling import ConvTranspose
from cnn_lab.models.heads import ImageToImage
from cnn_lab.models.inputs import require_multiple
from cnn_lab.models.registry import register


class DoubleConv(nn.Module):
    """Two 3x3 convolutions."""

    features: int
    batch_norm: bool
    layers: LayerFactory

    @nn.compact
    def __call__(self, x: Images, *, train: bool) -> Maps:
        """Maps [n h w c] to [n h w features]."""
        for index in (1, 2):
            bias = not self.batch_norm
            x = self.layers.conv(self.features, 3, bias=bias, name=f"conv{index}")(x)
            if self.batch_norm:
                x = self.layers.norm(train=train, name=f"bn{index}")(x)
            x = self.layers.act(x)
        return x


class Contracting(nn.Module):
    """The left side of the U: half the rows and columns and twice the channels at each step."""

    num_steps: int = 4
    width: int = 64
    batch_norm: bool = False
    dropout_rate: float = 0.0
    layers: LayerFactory = LayerFactory(dense_init="normal")

    @nn.compact
    def __call__(self, images: Images, *, train: bool) -> dict[str, jax.Array]:
        """Maps images [n h w c] to `stage1` [n h w width], `stage2` of half the sides and so on."""
        require_multiple(images, 2**self.num_steps, "unet")
        x, maps = images, {}
        for step in range(self.num_steps + 1):
            if step:
                x = max_pool(x, 2)
            name = f"stage{step + 1}"
            features = self.width * 2**step
            x = DoubleConv(features, self.batch_norm, self.layers, name=name)(x, train=train)
            if step >= self.num_steps - 1:
                x = self.layers.dropout(self.dropout_rate)(x, train=train)
            maps[name] = x
        return maps


class Expanding(nn.Module):
    """The right side of the U: each step up is joined by the map of that size from the left."""

    num_classes: int
    batch_norm: bool = False
    layers: LayerFactory = LayerFactory(dense_init="normal")

    @nn.compact
    def __call__(
        self,
        maps: Mapping[str, jax.Array],
        image_shape: tuple[int, int, int],  # noqa: ARG002 - the finest map has that size
        *,
        train: bool,
    ) -> Float[Array, "n h w k"]:
        """Maps named maps, each twice the size of the next, to logits [n h w k]."""
        layers, init = self.layers, initializer(self.layers.kernel_init)
        *finer, (_, x) = maps.items()
        for name, skip in reversed(finer):
            options = {"kernel_init": init, "dtype": layers.dtype, "name": f"{name}_up"}
            up = ConvTranspose(skip.shape[-1], 2, 2, **options)
            x = jnp.concatenate([skip, up(x)], axis=-1)
            block = DoubleConv(skip.shape[-1], self.batch_norm, layers, name=name)
            x = block(x, train=train)
        last = dataclasses.replace(layers, kernel_init=layers.dense_init)
        return last.conv(self.num_classes, 1, bias=True, name="output")(x)


@register(
    "unet",
    "U-Net",
    "Ronneberger et al. 2015, arXiv:1505.04597",
    (512, 512, 1),
    num_parameters=31_030_658,
    num_classes=2,
    macs=192_384_335_872,
    outputs="pixel_logits",
    small=({"num_steps": 1, "width": 4, "dropout_rate": 0.2}, (8, 8, 1)),
)
def unet(
    num_classes: int,
    num_steps: Count = 4,
    width: Count = 64,
    batch_norm: bool = False,
    dropout_rate: ProperFraction = 0.0,
    activation: str = "relu",
    kernel_init: str = "he_normal",
    dtype: Dtype = "float32",
) -> ImageToImage:
    """U-Net: one logit vector per pixel, of images whose sides are multiples of 2**num_steps.

    Args:
        num_steps: times that the size is halved, and doubled again.
        width: channels of the finest maps; each step doubles them.
        batch_norm: normalise after each 3x3 convolution, which then has no bias.
        dropout_rate: share of the values of the two coarsest maps dropped in training; the authors'
            network drops half.
    """
    layers = LayerFactory(activation, kernel_init, "normal", dtype)
    backbone = Contracting(num_steps, width, batch_norm, dropout_rate, layers)
    return ImageToImage(backbone, Expanding(num_classes, batch_norm, layers))
