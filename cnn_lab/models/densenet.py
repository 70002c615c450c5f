"""Densely connected networks (Huang, Liu, van der Maaten, Weinberger 2016, "Densely connected
convolutional networks", arXiv:1608.06993, tables 1 and 2).

Differs from the paper: dropout stands after a layer's last convolution only, not after every
convolution (as torchvision has it).
"""  # noqa: D205 - the title is a citation

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnn_lab.config.values import Count, Fraction, ProperFraction
from cnn_lab.core.arrays import Images, Maps
from cnn_lab.layers.factory import Dtype, LayerFactory
from cnn_lab.layers.pooling import average_pool, max_pool
from cnn_lab.models.heads import Classifier, PooledHead
from cnn_lab.models.inputs import Stem, layers_per_stage, require_size
from cnn_lab.models.registry import register

PAPER = "Huang et al. 2016, arXiv:1608.06993"


class DenseLayer(nn.Module):
    """New channels computed from all before, and appended to them.

    Attributes:
        bottleneck_size: channels of the 1x1 convolution before, in multiples of `growth`; 0 for
            none.
    """

    growth: int
    bottleneck_size: int
    dropout_rate: float
    layers: LayerFactory

    @nn.compact
    def __call__(self, x: Images, *, train: bool) -> Maps:
        """Maps [n h w c] to [n h w c+growth]."""
        layers = self.layers
        y = layers.act(layers.norm(train=train, name="bn1")(x))
        if self.bottleneck_size:
            y = layers.conv(self.bottleneck_size * self.growth, 1, name="conv1")(y)
            y = layers.act(layers.norm(train=train, name="bn2")(y))
        last = "conv2" if self.bottleneck_size else "conv1"
        y = layers.conv(self.growth, 3, name=last)(y)
        y = layers.dropout(self.dropout_rate)(y, train=train)
        return jnp.concatenate([x, y], axis=-1)


class Transition(nn.Module):
    """Fewer channels, then means of 2x2 pixels."""

    features: int
    layers: LayerFactory

    @nn.compact
    def __call__(self, x: Images, *, train: bool) -> Maps:
        """Maps [n h w c] to [n h/2 w/2 features]."""
        x = self.layers.act(self.layers.norm(train=train, name="bn")(x))
        return average_pool(self.layers.conv(self.features, 1, name="conv")(x), 2)


class DenseNetBackbone(nn.Module):
    """A stem and dense blocks with transitions between them.

    Attributes:
        depths: layers per block.
        stem_features: channels of the first convolution.
        stem: after the 3x3 convolution of the `small` one, the first layer normalises.
    """

    depths: tuple[int, ...]
    growth: int
    stem_features: int
    bottleneck_size: int = 4
    compression: float = 0.5
    stem: Stem = "large"
    dropout_rate: float = 0.0
    layers: LayerFactory = LayerFactory(dense_init="normal")

    @nn.compact
    def __call__(self, images: Images, *, train: bool) -> dict[str, jax.Array]:
        """Maps images [n h w c] to `stem`, `stage1`, `stage2` and so on, the last one activated."""
        layers, large = self.layers, self.stem == "large"
        min_side = 2 ** (len(self.depths) - 1)
        require_size(images, 4 * min_side - 3 if large else min_side, "a DenseNet", self.stem)
        if large:
            x = layers.conv(self.stem_features, 7, 2, name="stem_conv")(images)
            x = layers.act(layers.norm(train=train, name="stem_bn")(x))
            maps = {"stem": x}
            x = max_pool(x, 3, 2, 1)
        else:
            x = layers.conv(self.stem_features, 3, name="stem_conv")(images)
            maps = {"stem": x}
        for stage, depth in enumerate(self.depths, start=1):
            for index in range(depth):
                layer = DenseLayer(
                    self.growth,
                    self.bottleneck_size,
                    self.dropout_rate,
                    layers,
                    name=f"stage{stage}_layer{index + 1}",
                )
                x = layer(x, train=train)
            maps[f"stage{stage}"] = x
            if stage < len(self.depths):
                features = max(1, int(x.shape[-1] * self.compression))
                x = Transition(features, layers, name=f"stage{stage}_transition")(x, train=train)
        x = layers.act(layers.norm(train=train, name="final_bn")(x))
        maps[f"stage{len(self.depths)}"] = x
        return maps


def densenet(
    num_classes: int,
    stem: Stem = "large",
    growth: Count = 32,
    bottleneck_size: Count = 4,
    compression: Fraction = 0.5,
    dropout_rate: ProperFraction = 0.0,
    activation: str = "relu",
    kernel_init: str = "he_normal",
    dtype: Dtype = "float32",
    *,
    depths: tuple[int, ...],
) -> Classifier:
    """A DenseNet-BC of four blocks.

    Args:
        growth: channels that a layer adds; the stem has twice as many.
        bottleneck_size: channels of a layer's 1x1 convolution, in multiples of `growth`.
        compression: share of the channels that a transition keeps.
        dropout_rate: share of a layer's new values dropped in training.
    """
    layers = LayerFactory(activation, kernel_init, "normal", dtype)
    backbone = DenseNetBackbone(
        depths, growth, 2 * growth, bottleneck_size, compression, stem, dropout_rate, layers
    )
    return Classifier(backbone, PooledHead(num_classes, layers))


for _layers, _count, _macs, _depths, _growth in (
    (121, 7_978_856, 2_834_161_664, (6, 12, 24, 16), 32),
    (161, 28_681_000, 7_727_907_072, (6, 12, 36, 24), 48),
    (169, 14_149_480, 3_359_843_328, (6, 12, 32, 32), 32),
    (201, 20_013_928, 4_291_365_888, (6, 12, 48, 32), 32),
):
    register(
        f"densenet{_layers}",
        f"DenseNet-{_layers}",
        PAPER,
        (224, 224, 3),
        num_parameters=_count,
        num_classes=1000,
        macs=_macs,
        variant={"depths": _depths, "growth": _growth},
    )(densenet)


@register(
    "densenet_cifar",
    "DenseNet for 32-pixel images",
    PAPER,
    (32, 32, 3),
    num_parameters=1_019_722,
    macs=264_812_928,
    small=({"depth": 10, "growth": 4, "bottleneck": True}, (8, 8, 3)),
)
def densenet_cifar(
    num_classes: int,
    depth: Count = 40,
    growth: Count = 12,
    bottleneck: bool = False,
    dropout_rate: ProperFraction = 0.0,
    activation: str = "relu",
    kernel_init: str = "he_normal",
    dtype: Dtype = "float32",
) -> Classifier:
    """A DenseNet of three blocks for 32-pixel images.

    Args:
        depth: layers, 3 n + 4, or 6 n + 4 with bottlenecks.
        growth: channels that a layer adds.
        bottleneck: DenseNet-BC: 1x1 convolutions to 4 `growth` channels in every layer, transitions
            that keep half of the channels, a stem of 2 `growth` channels instead of 16; the paper
            has depth=100 and growth=12.
        dropout_rate: share of a layer's new values dropped in training; the paper uses 0.2 without
            augmentation.
    """
    with_bottlenecks = f"densenet_cifar with bottleneck={str(bottleneck).lower()}"
    depths = (layers_per_stage(depth, 6 if bottleneck else 3, with_bottlenecks),) * 3
    layers = LayerFactory(activation, kernel_init, "normal", dtype)
    backbone = DenseNetBackbone(
        depths,
        growth,
        stem_features=2 * growth if bottleneck else 16,
        bottleneck_size=4 if bottleneck else 0,
        compression=0.5 if bottleneck else 1.0,
        stem="small",
        dropout_rate=dropout_rate,
        layers=layers,
    )
    return Classifier(backbone, PooledHead(num_classes, layers))
