"""Wide residual networks with pre-activation (Zagoruyko & Komodakis 2016, "Wide residual networks",
arXiv:1605.07146, table 1 with B(3,3) blocks).

Differs from the paper: nothing known; as in the authors' code, blocks that change the shape project
the activated input by a 1x1 convolution, and dropout stands before the second convolution.
"""  # noqa: D205 - the title is a citation

import flax.linen as nn
import jax

from cnn_lab.config.values import Count, ProperFraction
from cnn_lab.core.arrays import Images, Maps
from cnn_lab.layers.factory import Dtype, LayerFactory
from cnn_lab.models.heads import Classifier, PooledHead
from cnn_lab.models.inputs import layers_per_stage, require_size
from cnn_lab.models.registry import register


class WideBlock(nn.Module):
    """Normalise, activate, convolve; the same again; add the input."""

    features: int
    strides: int
    dropout_rate: float
    layers: LayerFactory

    @nn.compact
    def __call__(self, x: Images, *, train: bool) -> Maps:
        """Maps [n h w c] to [n h/strides w/strides features]."""
        layers = self.layers
        y = layers.act(layers.norm(train=train, name="bn1")(x))
        if x.shape[-1] != self.features or self.strides != 1:
            x = layers.conv(self.features, 1, self.strides, name="shortcut_conv")(y)
        y = layers.conv(self.features, 3, self.strides, name="conv1")(y)
        y = layers.act(layers.norm(train=train, name="bn2")(y))
        y = layers.dropout(self.dropout_rate)(y, train=train)
        return x + layers.conv(self.features, 3, name="conv2")(y)


class WideResNetBackbone(nn.Module):
    """A 3x3 convolution and three stages of blocks.

    Attributes:
        depth: blocks per stage.
    """

    depth: int = 4
    width: int = 10
    dropout_rate: float = 0.0
    layers: LayerFactory = LayerFactory(kernel_init="he_normal_fan_out", dense_init="normal")

    @nn.compact
    def __call__(self, images: Images, *, train: bool) -> dict[str, jax.Array]:
        """Maps images [n h w c] to `stem`, `stage1`, `stage2` and, activated, `stage3`."""
        require_size(images, 4, "a wide ResNet")
        layers = self.layers
        x = layers.conv(16, 3, name="stem_conv")(images)
        maps = {"stem": x}
        for stage in range(3):
            for index in range(self.depth):
                features, strides = 16 * self.width * 2**stage, 2 if stage and not index else 1
                name = f"stage{stage + 1}_block{index + 1}"
                block = WideBlock(features, strides, self.dropout_rate, layers, name=name)
                x = block(x, train=train)
            maps[f"stage{stage + 1}"] = x
        maps["stage3"] = layers.act(layers.norm(train=train, name="final_bn")(x))
        return maps


@register(
    "wide_resnet28_10",
    "Wide ResNet-28-10",
    "Zagoruyko & Komodakis 2016, arXiv:1605.07146",
    (32, 32, 3),
    num_parameters=36_479_194,
    macs=5_243_328_768,
    small=({"depth": 10, "width": 1, "dropout_rate": 0.3}, (8, 8, 3)),
)
def wide_resnet28_10(
    num_classes: int,
    depth: Count = 28,
    width: Count = 10,
    dropout_rate: ProperFraction = 0.0,
    activation: str = "relu",
    kernel_init: str = "he_normal_fan_out",
    dtype: Dtype = "float32",
) -> Classifier:
    """A wide residual network for 32-pixel images: WRN-depth-width.

    Args:
        depth: layers, 6 n + 4: 10, 16, 22, 28, 40 and so on.
        width: factor on the 16, 32 and 64 channels of the stages.
        dropout_rate: share of the values between a block's convolutions dropped in training; the
            paper uses 0.3 on CIFAR.
    """
    layers = LayerFactory(activation, kernel_init, "normal", dtype)
    blocks = layers_per_stage(depth, 6, "a wide ResNet")
    backbone = WideResNetBackbone(blocks, width, dropout_rate, layers)
    return Classifier(backbone, PooledHead(num_classes, layers))
