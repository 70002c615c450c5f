"""Residual networks for large images (He, Zhang, Ren, Sun 2015, "Deep residual learning for image
recognition", arXiv:1512.03385, table 1), ResNeXt (Xie et al. 2016, arXiv:1611.05431) and wide
bottlenecks (Zagoruyko & Komodakis 2016, arXiv:1605.07146).

Differs from the paper: a bottleneck's stride is at its 3x3 convolution instead of the first 1x1
(as torch has it, "v1.5"); projections have batch normalisation; the last normalisation of a branch
may start at zero (`zero_init`; Goyal et al. 2017, arXiv:1706.02677).
"""  # noqa: D205 - the title is a citation

from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnn_lab.config.ranges import Count, ProperFraction
from cnn_lab.core.arrays import Images, Maps
from cnn_lab.core.errors import ConfigError
from cnn_lab.layers.blocks import Dtype, Style
from cnn_lab.layers.noise import DropPath
from cnn_lab.layers.pooling import max_pool
from cnn_lab.models.entry import ModelEntry
from cnn_lab.models.heads import Classifier, PooledHead
from cnn_lab.models.sizes import require_size

Stem = Literal["large", "small"]
Shortcut = Literal["A", "B", "none"]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut.

    Attributes:
        features: channels.
        strides: of the first convolution.
        shortcut: how the input is added; see `join`.
        drop_path_rate: share of examples whose branch is removed in training.
        zero_init: start the branch at zero.
        style: activation, initialiser and dtype.
    """

    features: int
    strides: int
    shortcut: Shortcut
    drop_path_rate: float
    zero_init: bool
    style: Style
    expansion = 1

    @nn.compact
    def __call__(self, x: Images, *, train: bool) -> Maps:
        """Maps [n h w c] to [n h/strides w/strides features]."""
        style = self.style
        y = style.conv(self.features, 3, self.strides, name="conv1")(x)
        y = style.act(style.norm(train=train, name="bn1")(y))
        y = style.conv(self.features, 3, name="conv2")(y)
        y = style.norm(train=train, zero=self.zero_init, name="bn2")(y)
        return join(self, x, y, train=train)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions, four times as many channels at the end, and a shortcut.

    Attributes:
        features: a quarter of the channels of the result.
        strides: of the 3x3 convolution.
        shortcut: how the input is added; see `join`.
        drop_path_rate: share of examples whose branch is removed in training.
        zero_init: start the branch at zero.
        style: activation, initialiser and dtype.
        groups: of the 3x3 convolution.
        base_width: channels of the 3x3 convolution per group and 64 of `features`.
    """

    features: int
    strides: int
    shortcut: Shortcut
    drop_path_rate: float
    zero_init: bool
    style: Style
    groups: int = 1
    base_width: int = 64
    expansion = 4

    @nn.compact
    def __call__(self, x: Images, *, train: bool) -> Maps:
        """Maps [n h w c] to [n h/strides w/strides 4*features]."""
        style, width = self.style, self.features * self.base_width // 64 * self.groups
        y = style.conv(width, 1, name="conv1")(x)
        y = style.act(style.norm(train=train, name="bn1")(y))
        y = style.conv(width, 3, self.strides, groups=self.groups, name="conv2")(y)
        y = style.act(style.norm(train=train, name="bn2")(y))
        y = style.conv(4 * self.features, 1, name="conv3")(y)
        y = style.norm(train=train, zero=self.zero_init, name="bn3")(y)
        return join(self, x, y, train=train)


def join(block: BasicBlock | Bottleneck, x: Images, y: Maps, *, train: bool) -> Maps:
    """Adds the input to the branch and activates.

    Where the shape changed, option A takes every second pixel and fills up with channels of zeros;
    option B is a strided 1x1 convolution (section 3.3). `none` is the plain twin.
    """
    if block.shortcut != "none":
        if x.shape != y.shape and block.shortcut == "A":
            x = x[:, :: block.strides, :: block.strides]
            x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, y.shape[-1] - x.shape[-1])))
        elif x.shape != y.shape:
            x = block.style.conv(y.shape[-1], 1, block.strides, name="shortcut_conv")(x)
            x = block.style.norm(train=train, name="shortcut_bn")(x)
        y = x + DropPath(block.drop_path_rate)(y, train=train)
    return block.style.act(y)


class ResNetBackbone(nn.Module):
    """A stem and stages of blocks, each with half the rows and columns of the one before.

    Attributes:
        depths: blocks per stage.
        bottleneck: whether blocks are bottlenecks.
        groups: of a bottleneck's 3x3 convolution.
        base_width: channels of that convolution per group and 64 features.
        width: features of the first stage, doubled from stage to stage.
        stem: `large` is a 7x7 convolution and pooling, together a quarter of the size; `small` is a
            3x3 convolution.
        shortcut: of the blocks: `A` (without parameters), `B` (projections) or `none`.
        drop_path_rate: of the last block; it rises linearly from the first.
        zero_init: start every branch at zero.
        style: activation, initialiser and dtype.
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
    style: Style = Style(kernel_init="he_normal_fan_out", dense_init="normal")

    @nn.compact
    def __call__(self, images: Images, *, train: bool) -> dict[str, jax.Array]:
        """Maps images [n h w c] to `stem`, `stage1`, `stage2` and so on."""
        least = 2 ** (len(self.depths) - 1)
        if self.stem == "large":
            require_size(images, 4 * least, "a ResNet", ", or model.options.stem=small")
        require_size(images, least, "a ResNet")
        if self.shortcut == "none" and (self.drop_path_rate or self.zero_init):
            raise ConfigError(
                "drop_path_rate and zero_init need shortcuts; leave them at 0 and false where "
                "model.options.shortcut is none."
            )
        style = self.style
        kernel, strides = (7, 2) if self.stem == "large" else (3, 1)
        x = style.conv(self.width, kernel, strides, name="stem_conv")(images)
        x = style.act(style.norm(train=train, name="stem_bn")(x))
        maps = {"stem": x}
        if self.stem == "large":
            x = max_pool(x, 3, 2, 1)
        total = sum(self.depths)
        for stage, depth in enumerate(self.depths):
            for index in range(depth):
                done = sum(self.depths[:stage]) + index
                options: dict[str, Any] = {
                    "features": self.width * 2**stage,
                    "strides": 2 if stage > 0 and index == 0 else 1,
                    "shortcut": self.shortcut,
                    "drop_path_rate": self.drop_path_rate * done / max(1, total - 1),
                    "zero_init": self.zero_init,
                    "style": style,
                    "name": f"stage{stage + 1}_block{index + 1}",
                }
                if self.bottleneck:
                    block = Bottleneck(groups=self.groups, base_width=self.base_width, **options)
                else:
                    block = BasicBlock(**options)
                x = block(x, train=train)
            maps[f"stage{stage + 1}"] = x
        return maps


def _maker(name: str, **fixed: Any) -> Callable[..., Classifier]:
    def make(
        num_classes: int,
        stem: Stem = "large",
        width: Count = 64,
        shortcut: Shortcut = "B",
        activation: str = "relu",
        kernel_init: str = "he_normal_fan_out",
        zero_init: bool = False,
        drop_path_rate: ProperFraction = 0.0,
        dropout_rate: ProperFraction = 0.0,
        dtype: Dtype = "float32",
    ) -> Classifier:
        """A residual network.

        Args:
            num_classes: k.
            stem: `large` (7x7 convolution and pooling, a quarter of the size) or `small` (3x3
                convolution) for images of some 32 pixels.
            width: channels of the first stage.
            shortcut: where the shape changes: `A` (every second pixel, channels of zeros), `B`
                (a projection); `none` adds no input anywhere.
            activation: name of the activation.
            kernel_init: name of the initialiser of convolutions.
            zero_init: start the last normalisation of every branch at zero.
            drop_path_rate: share of examples whose branch is removed in training, in the last
                block; it rises linearly from none in the first.
            dropout_rate: share of the pooled features dropped in training.
            dtype: of the computation.
        """
        style = Style(activation, kernel_init, "normal", dtype)
        backbone = ResNetBackbone(
            width=width,
            stem=stem,
            shortcut=shortcut,
            zero_init=zero_init,
            drop_path_rate=drop_path_rate,
            style=style,
            **fixed,
        )
        return Classifier(backbone, PooledHead(num_classes, style, dropout_rate))

    make.__name__ = make.__qualname__ = name
    return make


_HE = "He et al. 2015, arXiv:1512.03385"
_XIE = "Xie et al. 2016, arXiv:1611.05431"
_ZAGORUYKO = "Zagoruyko & Komodakis 2016, arXiv:1605.07146"
_TABLE: tuple[tuple[str, str, str, int, dict[str, Any]], ...] = (
    ("resnet18", "ResNet-18", _HE, 11_689_512, {"depths": (2, 2, 2, 2)}),
    ("resnet34", "ResNet-34", _HE, 21_797_672, {"depths": (3, 4, 6, 3)}),
    ("resnet50", "ResNet-50", _HE, 25_557_032, {"depths": (3, 4, 6, 3), "bottleneck": True}),
    ("resnet101", "ResNet-101", _HE, 44_549_160, {"depths": (3, 4, 23, 3), "bottleneck": True}),
    ("resnet152", "ResNet-152", _HE, 60_192_808, {"depths": (3, 8, 36, 3), "bottleneck": True}),
    (
        *("resnext50_32x4d", "ResNeXt-50, 32 groups of 4", _XIE, 25_028_904),
        {"depths": (3, 4, 6, 3), "bottleneck": True, "groups": 32, "base_width": 4},
    ),
    (
        *("wide_resnet50_2", "Wide ResNet-50-2", _ZAGORUYKO, 68_883_240),
        {"depths": (3, 4, 6, 3), "bottleneck": True, "base_width": 128},
    ),
)
ENTRIES = {
    name: ModelEntry(_maker(name, **fixed), title, paper, (224, 224, 3), count, 1000)
    for name, title, paper, count, fixed in _TABLE
}
