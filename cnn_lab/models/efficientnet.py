"""EfficientNet (Tan & Le 2019, "EfficientNet: rethinking model scaling for convolutional neural
networks", arXiv:1905.11946, table 1): B0, and B1 to B7 by its multipliers.

Differs from the paper: convolutions are padded alike on both sides and batch normalisation has an
epsilon of 1e-5, as torch has them; weights from TensorFlow want `norm_epsilon=1e-3`, and its
padding is not imitated.
"""  # noqa: D205 - the title is a citation

import math

from cnn_lab.config.values import Positive, ProperFraction
from cnn_lab.layers.factory import Dtype, LayerFactory
from cnn_lab.models.heads import Classifier, PooledHead
from cnn_lab.models.inputs import Stem
from cnn_lab.models.mobilenet_v2 import InvertedResidualBackbone, round_channels
from cnn_lab.models.registry import register

# Expansion, kernel size, stride of the first block, and channels, by stage.
STAGES = (
    (1, 3, 1, 16),
    (6, 3, 2, 24),
    (6, 5, 2, 40),
    (6, 3, 2, 80),
    (6, 5, 1, 112),
    (6, 5, 2, 192),
    (6, 3, 1, 320),
)
DEPTHS = (1, 2, 2, 3, 3, 4, 1)


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
        stem: `large` (the sides are reduced 32 times) or `small` (8 times: strides of 1 in the
            first convolution and the second stage) for images of some 32 pixels.
        width_multiplier: of all channels, rounded to multiples of 8.
        depth_multiplier: of the blocks per stage, rounded up.
        norm_epsilon: added to variances; 1e-3 for weights from TensorFlow.
        drop_path_rate: share of examples whose branch is removed in training; it rises linearly
            over the blocks, from none to just below this.
    """
    layers = LayerFactory(activation, kernel_init, "normal", dtype, norm_epsilon)
    depths = tuple(math.ceil(depth * depth_multiplier) for depth in DEPTHS)
    backbone = InvertedResidualBackbone(
        "efficientnet",
        STAGES,
        depths,
        last_features=4 * round_channels(320 * width_multiplier),
        width_multiplier=width_multiplier,
        stem=stem,
        layers=layers,
        squeeze=True,
        drop_path_rate=drop_path_rate,
    )
    return Classifier(backbone, PooledHead(num_classes, layers, dropout_rate))
