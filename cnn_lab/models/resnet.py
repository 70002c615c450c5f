"""Residual networks (He, Zhang, Ren, Sun 2015, "Deep residual learning for image recognition",
arXiv:1512.03385): those for large images (table 1), those for 32-pixel images (section 4.2, three
stages of 16, 32 and 64 channels), and their plain twins, for what depth does without shortcuts
(tables 1 and 2, figure 6); ResNeXt (Xie et al. 2016, arXiv:1611.05431) and wide bottlenecks
(Zagoruyko & Komodakis 2016, arXiv:1605.07146).

Differs from the paper: a bottleneck's stride is at its 3x3 convolution instead of the first 1x1
(as torch has it, "v1.5"); projections have batch normalisation; the last normalisation of a branch
may start at zero (`zero_init`; Goyal et al. 2017, arXiv:1706.02677). The plain twins of 32-pixel
networks have as many parameters as those with shortcuts of option A; plain18 and plain34 lack the
three projections of option B (173,824 parameters, their normalisation among them).
"""  # noqa: D205 - the title is a citation

import functools
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnn_lab.config.values import Count, ProperFraction
from cnn_lab.core.arrays import Images, Maps
from cnn_lab.core.errors import ConfigError
from cnn_lab.layers.dropout import DropPath
from cnn_lab.layers.factory import Dtype, LayerFactory
from cnn_lab.layers.pooling import max_pool
from cnn_lab.models.heads import Classifier, PooledHead
from cnn_lab.models.inputs import Stem, require_size
from cnn_lab.models.registry import register

Shortcut = Literal["A", "B", "none"]
HE = "He et al. 2015, arXiv:1512.03385"
BASIC: dict[str, Any] = {"bottleneck": False, "groups": 1, "base_width": 64}


class Block(nn.Module):
    """Base of the blocks: a branch and a shortcut.

    Attributes:
        features: channels, or a quarter of those of a bottleneck's result.
        strides: of the first 3x3 convolution.
    """

    features: int
    strides: int
    shortcut: Shortcut
    drop_path_rate: float
    zero_init: bool
    layers: LayerFactory

    def join(self, x: Images, y: Maps, *, train: bool) -> Maps:
        """Adds the input to the branch and activates.

        Where the shape changed, option A takes every second pixel and fills up with channels of
        zeros; option B is a strided 1x1 convolution (section 3.3). `none` is the plain twin.
        """
        if self.shortcut != "none":
            if x.shape != y.shape and self.shortcut == "A":
                x = x[:, :: self.strides, :: self.strides]
                x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, y.shape[-1] - x.shape[-1])))
            elif x.shape != y.shape:
                x = self.layers.conv(y.shape[-1], 1, self.strides, name="shortcut_conv")(x)
                x = self.layers.norm(train=train, name="shortcut_bn")(x)
            y = x + DropPath(self.drop_path_rate)(y, train=train)
        return self.layers.act(y)


class BasicBlock(Block):
    """Two 3x3 convolutions and a shortcut."""

    @nn.compact
    def __call__(self, x: Images, *, train: bool) -> Maps:
        """Maps [n h w c] to [n h/strides w/strides features]."""
        layers = self.layers
        y = layers.conv(self.features, 3, self.strides, name="conv1")(x)
        y = layers.act(layers.norm(train=train, name="bn1")(y))
        y = layers.conv(self.features, 3, name="conv2")(y)
        y = layers.norm(train=train, zero=self.zero_init, name="bn2")(y)
        return self.join(x, y, train=train)


class Bottleneck(Block):
    """1x1, 3x3 and 1x1 convolutions, four times as many channels at the end, and a shortcut.

    Attributes:
        groups: of the 3x3 convolution.
        base_width: channels of the 3x3 convolution per group and 64 of `features`.
    """

    groups: int = 1
    base_width: int = 64

    @nn.compact
    def __call__(self, x: Images, *, train: bool) -> Maps:
        """Maps [n h w c] to [n h/strides w/strides 4*features]."""
        layers, width = self.layers, self.features * self.base_width // 64 * self.groups
        y = layers.conv(width, 1, name="conv1")(x)
        y = layers.act(layers.norm(train=train, name="bn1")(y))
        y = layers.conv(width, 3, self.strides, groups=self.groups, name="conv2")(y)
        y = layers.act(layers.norm(train=train, name="bn2")(y))
        y = layers.conv(4 * self.features, 1, name="conv3")(y)
        y = layers.norm(train=train, zero=self.zero_init, name="bn3")(y)
        return self.join(x, y, train=train)


class ResNetBackbone(nn.Module):
    """A stem and stages of blocks, each with half the rows and columns of the one before.

    Attributes:
        depths: blocks per stage.
        bottleneck: whether blocks are bottlenecks, of which are `groups` and `base_width`.
        width: features of the first stage, doubled from stage to stage.
    """

    depths: tuple[int, ...]
    bottleneck: bool = False
    groups: int = 1
    base_width: int = 64
    width: int = 64
    stem: Stem = "large"
    shortcut: Shortcut = "B"
    drop_path_rate: float = 0.0
    zero_init: bool = False
    layers: LayerFactory = LayerFactory(kernel_init="he_normal_fan_out", dense_init="normal")

    @nn.compact
    def __call__(self, images: Images, *, train: bool) -> dict[str, jax.Array]:
        """Maps images [n h w c] to `stem`, `stage1`, `stage2` and so on."""
        min_side = 2 ** (len(self.depths) - 1) * (4 if self.stem == "large" else 1)
        require_size(images, min_side, "a ResNet", self.stem)
        if self.shortcut == "none" and (self.drop_path_rate or self.zero_init):
            raise ConfigError(
                where="config.model.options.shortcut",
                found=self.shortcut,
                allowed="A or B for drop_path_rate and zero_init",
                advice="or leave these at 0 and false",
            )
        layers = self.layers
        kernel, strides = (7, 2) if self.stem == "large" else (3, 1)
        x = layers.conv(self.width, kernel, strides, name="stem_conv")(images)
        x = layers.act(layers.norm(train=train, name="stem_bn")(x))
        maps = {"stem": x}
        if self.stem == "large":
            x = max_pool(x, 3, 2, 1)
        make = BasicBlock
        if self.bottleneck:
            make = functools.partial(Bottleneck, groups=self.groups, base_width=self.base_width)
        for stage, depth in enumerate(self.depths):
            for index in range(depth):
                done = sum(self.depths[:stage]) + index
                block = make(
                    self.width * 2**stage,
                    2 if stage > 0 and index == 0 else 1,
                    self.shortcut,
                    self.drop_path_rate * done / max(1, sum(self.depths) - 1),
                    self.zero_init,
                    layers,
                    name=f"stage{stage + 1}_block{index + 1}",
                )
                x = block(x, train=train)
            maps[f"stage{stage + 1}"] = x
        return maps


@register(
    "resnext50_32x4d",
    "ResNeXt-50, 32 groups of 4",
    "Xie et al. 2016, arXiv:1611.05431",
    (224, 224, 3),
    num_parameters=25_028_904,
    num_classes=1000,
    macs=4_230_479_872,
    small=({"width": 16}, (32, 32, 3)),
    variant={"depths": (3, 4, 6, 3), "bottleneck": True, "groups": 32, "base_width": 4},
)
@register(
    "wide_resnet50_2",
    "Wide ResNet-50-2",
    "Zagoruyko & Komodakis 2016, arXiv:1605.07146",
    (224, 224, 3),
    num_parameters=68_883_240,
    num_classes=1000,
    macs=11_398_021_120,
    variant={"depths": (3, 4, 6, 3), "bottleneck": True, "groups": 1, "base_width": 128},
)
def resnet(
    num_classes: int,
    stem: Stem = "large",
    width: Count = 64,
    activation: str = "relu",
    kernel_init: str = "he_normal_fan_out",
    dropout_rate: ProperFraction = 0.0,
    dtype: Dtype = "float32",
    *,
    shortcut: Shortcut = "B",
    zero_init: bool = False,
    drop_path_rate: ProperFraction = 0.0,
    depths: tuple[int, ...],
    bottleneck: bool,
    groups: int,
    base_width: int,
) -> Classifier:
    """A residual network, or its plain twin where `shortcut` is `none`.

    Args:
        width: channels of the first stage.
        shortcut: where the shape changes: `A` (every second pixel, channels of zeros), `B`
            (a projection); `none` adds no input anywhere.
        zero_init: start the last normalisation of every branch at zero.
        drop_path_rate: share of examples whose branch is removed in training, in the last
            block; it rises linearly from none in the first.
    """
    layers = LayerFactory(activation, kernel_init, "normal", dtype)
    backbone = ResNetBackbone(
        depths,
        bottleneck=bottleneck,
        groups=groups,
        base_width=base_width,
        width=width,
        stem=stem,
        shortcut=shortcut,
        drop_path_rate=drop_path_rate,
        zero_init=zero_init,
        layers=layers,
    )
    return Classifier(backbone, PooledHead(num_classes, layers, dropout_rate))


for _layers, _count, _macs, _depths in (
    (18, 11_689_512, 1_814_073_344, (2, 2, 2, 2)),
    (34, 21_797_672, 3_663_761_408, (3, 4, 6, 3)),
    (50, 25_557_032, 4_089_184_256, (3, 4, 6, 3)),
    (101, 44_549_160, 7_801_405_440, (3, 4, 23, 3)),
    (152, 60_192_808, 11_513_626_624, (3, 8, 36, 3)),
):
    register(
        f"resnet{_layers}",
        f"ResNet-{_layers}",
        HE,
        (224, 224, 3),
        num_parameters=_count,
        num_classes=1000,
        macs=_macs,
        small=({"stem": "small", "width": 8}, (16, 16, 3)) if _layers == 18 else None,
        variant=BASIC | {"depths": _depths, "bottleneck": _layers >= 50},
    )(resnet)


def cifar_resnet(
    num_classes: int,
    shortcut: Shortcut = "A",
    width: Count = 16,
    activation: str = "relu",
    kernel_init: str = "he_normal_fan_out",
    zero_init: bool = False,
    drop_path_rate: ProperFraction = 0.0,
    dropout_rate: ProperFraction = 0.0,
    dtype: Dtype = "float32",
    *,
    depth: int,
) -> Classifier:
    """A residual network of three stages of basic blocks, 6 n + 2 layers deep.

    Args:
        shortcut: where the shape changes: `A` (every second pixel, channels of zeros), `B`
            (a projection); `none` adds no input anywhere.
        width: channels of the first stage.
        zero_init: start the last normalisation of every branch at zero.
        drop_path_rate: share of examples whose branch is removed in training, in the last
            block; it rises linearly from none in the first. Huang et al. 2016 use 0.5.
    """
    layers = LayerFactory(activation, kernel_init, "normal", dtype)
    backbone = ResNetBackbone(
        ((depth - 2) // 6,) * 3,
        width=width,
        stem="small",
        shortcut=shortcut,
        drop_path_rate=drop_path_rate,
        zero_init=zero_init,
        layers=layers,
    )
    return Classifier(backbone, PooledHead(num_classes, layers, dropout_rate))


for _layers, _count, _macs in (
    (20, 269_722, 40_551_040),
    (32, 464_154, 68_862_592),
    (44, 658_586, 97_174_144),
    (56, 853_018, 125_485_696),
    (110, 1_727_962, 252_887_680),
    (1202, 19_421_274, 2_829_238_912),
):
    register(
        f"resnet{_layers}",
        f"ResNet-{_layers} for 32-pixel images",
        HE,
        (32, 32, 3),
        num_parameters=_count,
        macs=_macs,
        small=({"width": 4, "drop_path_rate": 0.3}, (8, 8, 3)) if _layers == 20 else None,
        variant={"depth": _layers},
    )(cifar_resnet)


for _layers, _count, _macs, _depths in (
    (18, 11_515_688, 1_794_805_760, (2, 2, 2, 2)),
    (34, 21_623_848, 3_644_493_824, (3, 4, 6, 3)),
    (20, 269_722, 40_551_040, (3, 3, 3)),
    (32, 464_154, 68_862_592, (5, 5, 5)),
    (44, 658_586, 97_174_144, (7, 7, 7)),
    (56, 853_018, 125_485_696, (9, 9, 9)),
):
    _is_large = len(_depths) == 4
    register(
        f"plain{_layers}",
        f"ResNet-{_layers}'s twin without shortcuts",
        HE,
        (224, 224, 3) if _is_large else (32, 32, 3),
        num_parameters=_count,
        num_classes=1000 if _is_large else 10,
        macs=_macs,
        small=({"width": 4}, (8, 8, 3)) if _layers == 20 else None,
        variant={
            **(BASIC | {"shortcut": "none", "zero_init": False, "drop_path_rate": 0.0}),
            "depths": _depths,
            "stem": "large" if _is_large else "small",
            "width": 64 if _is_large else 16,
        },
    )(resnet)
