"""MobileNetV2 (Sandler, Howard, Zhu, Zhmoginov, Chen 2018, "MobileNetV2: inverted residuals and
linear bottlenecks", arXiv:1801.04381, table 2), and its block, which EfficientNet shares.

Differs from the paper: convolutions are padded alike on both sides and dropout acts before the
output layer, as torch has it.
"""  # noqa: D205 - the title is a citation

from typing import Literal

import flax.linen as nn
import jax

from cnn_lab.config.values import Count, Positive, ProperFraction
from cnn_lab.core.arrays import Images, Maps
from cnn_lab.layers.channels import SqueezeExcite
from cnn_lab.layers.dropout import DropPath
from cnn_lab.layers.factory import Dtype, LayerFactory
from cnn_lab.models.heads import Classifier, PooledHead
from cnn_lab.models.registry import register, require_size

Stem = Literal["large", "small"]
SMALLER = ", or model.options.stem=small"
Seven = tuple[Count, Count, Count, Count, Count, Count, Count]
# Expansion, channels, and stride of the first block, by stage.
STAGES = ((1, 16, 1), (6, 24, 2), (6, 32, 2), (6, 64, 2), (6, 96, 1), (6, 160, 2), (6, 320, 1))
DEPTHS = (1, 2, 3, 4, 3, 3, 1)


def round_channels(channels: int | float) -> int:
    """The nearest multiple of 8, which accelerators like, but never below 90 % of `channels`."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


class InvertedResidual(nn.Module):
    """1x1 convolution to more channels, a depthwise one, and a linear 1x1 to few channels.

    The shortcut joins the narrow ends, where shapes agree.

    Attributes:
        features: channels of the result.
        strides: of the depthwise convolution.
        expansion: channels in the middle per channel of the input; at 1 there is no first
            convolution.
        layers: activation, initialiser and dtype.
        kernel_size: of the depthwise convolution.
        squeezed: width of the squeeze-and-excitation after the depthwise convolution, 0 for none.
        drop_path_rate: share of examples whose branch is removed in training.
    """

    features: int
    strides: int
    expansion: int
    layers: LayerFactory
    kernel_size: int = 3
    squeezed: int = 0
    drop_path_rate: float = 0.0

    @nn.compact
    def __call__(self, x: Images, *, train: bool) -> Maps:
        """Maps [n h w c] to [n h/strides w/strides features]."""
        layers, middle = self.layers, x.shape[-1] * self.expansion
        y = x
        if self.expansion != 1:
            y = layers.conv(middle, 1, name="expand_conv")(y)
            y = layers.act(layers.norm(train=train, name="expand_bn")(y))
        y = layers.conv(
            middle, self.kernel_size, self.strides, groups=middle, name="depthwise_conv"
        )(y)
        y = layers.act(layers.norm(train=train, name="depthwise_bn")(y))
        if self.squeezed:
            y = SqueezeExcite(self.squeezed, layers.activation, layers.dtype, name="squeeze")(y)
        y = layers.conv(self.features, 1, name="project_conv")(y)
        y = layers.norm(train=train, name="project_bn")(y)
        if x.shape != y.shape:
            return y
        return x + DropPath(self.drop_path_rate)(y, train=train)


class MobileNetV2Backbone(nn.Module):
    """A 3x3 convolution, seven stages of inverted residuals, and a 1x1 convolution.

    Attributes:
        width_multiplier: of all channels; those of the last convolution are never fewer than 1280.
        depths: blocks per stage.
        stem: `large` reduces the sides 32 times, `small` 8 times.
        layers: activation, initialiser and dtype.
    """

    width_multiplier: float = 1.0
    depths: tuple[int, ...] = DEPTHS
    stem: Stem = "large"
    layers: LayerFactory = LayerFactory("relu6", "he_normal_fan_out", "normal")

    @nn.compact
    def __call__(self, images: Images, *, train: bool) -> dict[str, jax.Array]:
        """Maps images [n h w c] to `stem`, `stage1` to `stage7` and `last`."""
        small = self.stem == "small"
        require_size(images, 8 if small else 32, "mobilenet_v2", "" if small else SMALLER)
        layers, width = self.layers, self.width_multiplier
        x = layers.conv(round_channels(32 * width), 3, 1 if small else 2, name="stem_conv")(images)
        x = layers.act(layers.norm(train=train, name="stem_bn")(x))
        maps = {"stem": x}
        stages = zip(STAGES, self.depths, strict=True)
        for stage, ((expansion, channels, first_strides), depth) in enumerate(stages, start=1):
            features = round_channels(channels * width)
            for index in range(depth):
                strides = 1 if index or (small and stage == 2) else first_strides
                name = f"stage{stage}_block{index + 1}"
                block = InvertedResidual(features, strides, expansion, layers, name=name)
                x = block(x, train=train)
            maps[f"stage{stage}"] = x
        x = layers.conv(round_channels(1280 * max(1.0, width)), 1, name="last_conv")(x)
        return maps | {"last": layers.act(layers.norm(train=train, name="last_bn")(x))}


@register(
    "mobilenet_v2",
    "MobileNetV2",
    "Sandler et al. 2018, arXiv:1801.04381",
    (224, 224, 3),
    num_parameters=3_504_872,
    num_classes=1000,
    macs=300_774_272,
    small=({"stem": "small", "width_multiplier": 0.25, "depths": (1, 2, 1, 1, 1, 1, 1)}, (8, 8, 3)),
)
def mobilenet_v2(
    num_classes: int,
    stem: Stem = "large",
    width_multiplier: Positive = 1.0,
    depths: Seven = DEPTHS,
    activation: str = "relu6",
    kernel_init: str = "he_normal_fan_out",
    dropout_rate: ProperFraction = 0.2,
    dtype: Dtype = "float32",
) -> Classifier:
    """MobileNetV2.

    Args:
        num_classes: k.
        stem: `large` (the sides are reduced 32 times) or `small` (8 times: strides of 1 in the
            first convolution and the second stage) for images of some 32 pixels.
        width_multiplier: of all channels, rounded to multiples of 8; the paper has 0.35 to 1.4.
        depths: blocks per stage.
        activation: name of the activation.
        kernel_init: name of the initialiser of convolutions.
        dropout_rate: share of the pooled features dropped in training.
        dtype: of the computation.
    """
    layers = LayerFactory(activation, kernel_init, "normal", dtype)
    backbone = MobileNetV2Backbone(width_multiplier, tuple(depths), stem, layers)
    return Classifier(backbone, PooledHead(num_classes, layers, dropout_rate))
