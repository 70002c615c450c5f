"""MobileNetV2 (Sandler, Howard, Zhu, Zhmoginov, Chen 2018, "MobileNetV2: inverted residuals and
linear bottlenecks", arXiv:1801.04381, table 2), and its backbone, which EfficientNet shares.

Differs from the paper: convolutions are padded alike on both sides and dropout acts before the
output layer, as torch has it.
"""  # noqa: D205 - the title is a citation

import flax.linen as nn
import jax

from cnn_lab.config.values import Count, Positive, ProperFraction
from cnn_lab.core.arrays import Images, Maps
from cnn_lab.layers.channels import SqueezeExcite
from cnn_lab.layers.dropout import DropPath
from cnn_lab.layers.factory import Dtype, LayerFactory
from cnn_lab.models.heads import Classifier, PooledHead
from cnn_lab.models.inputs import Stem, require_size
from cnn_lab.models.registry import register

Seven = tuple[Count, Count, Count, Count, Count, Count, Count]
# Expansion, kernel size, stride of the first block, and channels, by stage.
STAGES = (
    (1, 3, 1, 16),
    (6, 3, 2, 24),
    (6, 3, 2, 32),
    (6, 3, 2, 64),
    (6, 3, 1, 96),
    (6, 3, 2, 160),
    (6, 3, 1, 320),
)
DEPTHS = (1, 2, 3, 4, 3, 3, 1)


def round_channels(channels: int | float) -> int:
    """The nearest multiple of 8, which accelerators like, but never below 90 % of `channels`."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


class InvertedResidual(nn.Module):
    """1x1 convolution to more channels, a depthwise one, and a linear 1x1 to few channels.

    The shortcut joins the narrow ends, where shapes agree.

    Attributes:
        strides: pixels between neighbouring windows of the depthwise convolution.
        expansion: channels in the middle per channel of the input; at 1 there is no first
            convolution.
        kernel_size: side of the windows of the depthwise convolution, in pixels.
        squeezed: width of the squeeze-and-excitation after the depthwise convolution, 0 for none.
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


class InvertedResidualBackbone(nn.Module):
    """A 3x3 convolution, stages of inverted residuals, and a 1x1 convolution.

    Attributes:
        model: its name, for messages.
        stages: see `STAGES`.
        depths: blocks per stage.
        last_features: channels of the 1x1 convolution.
        width_multiplier: of the other channels.
        squeeze: whether blocks squeeze their input's channels to a quarter.
    """

    model: str
    stages: tuple[tuple[int, int, int, int], ...]
    depths: tuple[int, ...]
    last_features: int
    width_multiplier: float
    stem: Stem
    layers: LayerFactory
    squeeze: bool = False
    drop_path_rate: float = 0.0

    @nn.compact
    def __call__(self, images: Images, *, train: bool) -> dict[str, jax.Array]:
        """Maps images [n h w c] to `stem`, `stage1` to `stage7` and `last`."""
        small = self.stem == "small"
        require_size(images, 8 if small else 32, self.model, self.stem)
        layers, width = self.layers, self.width_multiplier
        x = layers.conv(round_channels(32 * width), 3, 1 if small else 2, name="stem_conv")(images)
        x = layers.act(layers.norm(train=train, name="stem_bn")(x))
        maps = {"stem": x}
        for stage, (expansion, kernel_size, first_strides, channels) in enumerate(self.stages):
            for index in range(self.depths[stage]):
                done = sum(self.depths[:stage]) + index
                block = InvertedResidual(
                    round_channels(channels * width),
                    1 if index or (small and stage == 1) else first_strides,
                    expansion,
                    layers,
                    kernel_size,
                    max(1, x.shape[-1] // 4) if self.squeeze else 0,
                    self.drop_path_rate * done / sum(self.depths),
                    name=f"stage{stage + 1}_block{index + 1}",
                )
                x = block(x, train=train)
            maps[f"stage{stage + 1}"] = x
        x = layers.conv(self.last_features, 1, name="last_conv")(x)
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
        stem: `large` (the sides are reduced 32 times) or `small` (8 times: strides of 1 in the
            first convolution and the second stage) for images of some 32 pixels.
        width_multiplier: of all channels, rounded to multiples of 8; the paper has 0.35 to 1.4. The
            last convolution has never fewer than 1280.
        depths: blocks per stage.
    """
    layers = LayerFactory(activation, kernel_init, "normal", dtype)
    backbone = InvertedResidualBackbone(
        "mobilenet_v2",
        STAGES,
        tuple(depths),
        last_features=round_channels(1280 * max(1.0, width_multiplier)),
        width_multiplier=width_multiplier,
        stem=stem,
        layers=layers,
    )
    return Classifier(backbone, PooledHead(num_classes, layers, dropout_rate))
