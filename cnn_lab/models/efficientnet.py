"""EfficientNet (Tan & Le 2019, "EfficientNet: rethinking model scaling for convolutional neural
networks", arXiv:1905.11946, table 1): B0, and B1 to B7 by its multipliers.

Differs from the paper: convolutions are padded alike on both sides and batch normalisation has an
epsilon of 1e-5, as torch has them; weights from TensorFlow want `norm_epsilon=1e-3`, and its
padding is not imitated.
"""  # noqa: D205 - the title is a citation

import math

import flax.linen as nn
import jax

from cnn_lab.config.values import Positive, ProperFraction
from cnn_lab.core.arrays import Images
from cnn_lab.layers.factory import Dtype, LayerFactory
from cnn_lab.models.heads import Classifier, PooledHead
from cnn_lab.models.mobilenet_v2 import SMALLER, InvertedResidual, Stem, round_channels
from cnn_lab.models.registry import register, require_size

# Expansion, kernel size, stride of the first block, channels and blocks, by stage.
STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)


class EfficientNetBackbone(nn.Module):
    """A 3x3 convolution, seven stages of squeezed inverted residuals, and a 1x1 convolution.

    Attributes:
        width_multiplier: of all channels.
        depth_multiplier: of the blocks per stage, rounded up.
        stem: `large` reduces the sides 32 times, `small` 8 times.
        drop_path_rate: rises linearly to this over the blocks.
        layers: activation, initialiser and dtype.
    """

    width_multiplier: float = 1.0
    depth_multiplier: float = 1.0
    stem: Stem = "large"
    drop_path_rate: float = 0.2
    layers: LayerFactory = LayerFactory("silu", "he_normal_fan_out", "normal")

    @nn.compact
    def __call__(self, images: Images, *, train: bool) -> dict[str, jax.Array]:
        """Maps images [n h w c] to `stem`, `stage1` to `stage7` and `last`."""
        small = self.stem == "small"
        require_size(images, 8 if small else 32, "efficientnet", "" if small else SMALLER)
        layers, width = self.layers, self.width_multiplier
        x = layers.conv(round_channels(32 * width), 3, 1 if small else 2, name="stem_conv")(images)
        x = layers.act(layers.norm(train=train, name="stem_bn")(x))
        maps = {"stem": x}
        depths = [math.ceil(depth * self.depth_multiplier) for *_, depth in STAGES]
        for stage, (expansion, kernel_size, first_strides, channels, _) in enumerate(STAGES):
            for index in range(depths[stage]):
                done = sum(depths[:stage]) + index
                block = InvertedResidual(
                    features=round_channels(channels * width),
                    strides=1 if index or (small and stage == 1) else first_strides,
                    expansion=expansion,
                    layers=layers,
                    kernel_size=kernel_size,
                    squeezed=max(1, x.shape[-1] // 4),
                    drop_path_rate=self.drop_path_rate * done / sum(depths),
                    name=f"stage{stage + 1}_block{index + 1}",
                )
                x = block(x, train=train)
            maps[f"stage{stage + 1}"] = x
        x = layers.conv(4 * x.shape[-1], 1, name="last_conv")(x)
        return maps | {"last": layers.act(layers.norm(train=train, name="last_bn")(x))}


@register(
    "efficientnet_b0",
    "EfficientNet-B0",
    "Tan & Le 2019, arXiv:1905.11946",
    (224, 224, 3),
    num_parameters=5_288_548,
    num_classes=1000,
    macs=385_814_752,
    small=({"stem": "small", "width_multiplier": 0.25, "depth_multiplier": 0.1}, (8, 8, 3)),
)
def efficientnet_b0(
    num_classes: int,
    stem: Stem = "large",
    width_multiplier: Positive = 1.0,
    depth_multiplier: Positive = 1.0,
    activation: str = "silu",
    kernel_init: str = "he_normal_fan_out",
    norm_epsilon: Positive = 1e-5,
    drop_path_rate: ProperFraction = 0.2,
    dropout_rate: ProperFraction = 0.2,
    dtype: Dtype = "float32",
) -> Classifier:
    """EfficientNet-B0, or a scaled one.

    Width and depth multipliers, image size and dropout of the others: B1 1.0, 1.1, 240, 0.2; B2
    1.1, 1.2, 260, 0.3; B3 1.2, 1.4, 300, 0.3; B4 1.4, 1.8, 380, 0.4; B5 1.6, 2.2, 456, 0.4; B6 1.8,
    2.6, 528, 0.5; B7 2.0, 3.1, 600, 0.5.

    Args:
        num_classes: k.
        stem: `large` (the sides are reduced 32 times) or `small` (8 times: strides of 1 in the
            first convolution and the second stage) for images of some 32 pixels.
        width_multiplier: of all channels, rounded to multiples of 8.
        depth_multiplier: of the blocks per stage, rounded up.
        activation: name of the activation.
        kernel_init: name of the initialiser of convolutions.
        norm_epsilon: added to variances; 1e-3 for weights from TensorFlow.
        drop_path_rate: share of examples whose branch is removed in training; it rises linearly
            over the blocks, from none to just below this.
        dropout_rate: share of the pooled features dropped in training.
        dtype: of the computation.
    """
    layers = LayerFactory(activation, kernel_init, "normal", dtype, norm_epsilon)
    backbone = EfficientNetBackbone(
        width_multiplier, depth_multiplier, stem, drop_path_rate, layers
    )
    return Classifier(backbone, PooledHead(num_classes, layers, dropout_rate))
