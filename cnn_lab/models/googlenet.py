"""GoogLeNet, or Inception v1 (Szegedy et al. 2014, "Going deeper with convolutions",
arXiv:1409.4842, table 1 and figure 3).

Differs from the paper: by default the net is the one whose weights torchvision holds, with batch
normalisation (Ioffe & Szegedy 2015, arXiv:1502.03167) after every convolution, no response
normalisation, and 3x3 kernels in place of 5x5; `form='paper'` brings the paper's back. In both, the
auxiliary heads average over 4x4 windows that cover the map, which makes them fit images of any
size; weights start at He et al.'s scale.
"""  # noqa: D205 - the title is a citation

from typing import Annotated, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core import FrozenDict

from cnn_lab.config.values import Positive, ProperFraction, Range
from cnn_lab.core.arrays import Images, Logits, Maps
from cnn_lab.layers.factory import Dtype, LayerFactory, Padding
from cnn_lab.layers.normalization import local_response_norm
from cnn_lab.layers.pooling import adaptive_average_pool, max_pool
from cnn_lab.layers.windows import Size
from cnn_lab.models.heads import Classifier, DenseHead, PooledHead
from cnn_lab.models.inputs import Stem, require_size
from cnn_lab.models.registry import register

Form = Literal["batch_norm", "paper"]
_UpTo2 = Annotated[int, Range(min=1, max=2)]
_UpTo5 = Annotated[int, Range(min=1, max=5)]
# Channels of 1x1; of 3x3 and of 5x5, each after its reduction; after pooling (table 1).
BLOCKS = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}
AUXILIARY = ("4a", "4d")  # blocks that the auxiliary heads read
AUXILIARY_WEIGHT = 0.3  # of their losses (section 5)


class ConvNorm(nn.Module):
    """A convolution, batch normalisation or else a bias, and the activation.

    Sizes are those of `LayerFactory.conv`.
    """

    features: int
    kernel: Size
    layers: LayerFactory
    strides: int = 1
    padding: Padding = None
    batch_norm: bool = True

    @nn.compact
    def __call__(self, x: Images, *, train: bool) -> Maps:
        """Maps [n h w c] to [n h w features], smaller by strides or padding."""
        conv = self.layers.conv(
            self.features,
            self.kernel,
            self.strides,
            self.padding,
            bias=not self.batch_norm,
            name="conv",
        )
        x = conv(x)
        if self.batch_norm:
            x = self.layers.norm(train=train, name="bn")(x)
        return self.layers.act(x)


class Inception(nn.Module):
    """Convolutions of three sizes and pooling, side by side.

    Attributes:
        features: channels as in `BLOCKS`.
    """

    features: tuple[int, ...]
    form: Form
    layers: LayerFactory

    @nn.compact
    def __call__(self, x: Images, *, train: bool) -> Maps:
        """Maps [n h w c] to [n h w d]."""
        of_1x1, before_3x3, of_3x3, before_5x5, of_5x5, after_pooling = self.features
        largest = 5 if self.form == "paper" else 3

        def conv(x: jax.Array, features: int, kernel: int, name: str) -> jax.Array:
            norm = self.form == "batch_norm"
            block = ConvNorm(features, kernel, self.layers, batch_norm=norm, name=name)
            return block(x, train=train)

        branches = (
            conv(x, of_1x1, 1, "branch1x1"),
            conv(conv(x, before_3x3, 1, "branch3x3_reduce"), of_3x3, 3, "branch3x3"),
            conv(conv(x, before_5x5, 1, "branch5x5_reduce"), of_5x5, largest, "branch5x5"),
            conv(max_pool(x, 3, 1, 1), after_pooling, 1, "branch_pool"),
        )
        return jnp.concatenate(branches, axis=-1)


class GoogLeNetBackbone(nn.Module):
    """Three convolutions and nine inception blocks, with five halvings."""

    blocks: tuple[int, int, int] = (2, 5, 2)
    form: Form = "batch_norm"
    width: float = 1.0
    stem: Stem = "large"
    layers: LayerFactory = LayerFactory(dense_init="normal", norm_epsilon=1e-3)

    @nn.compact
    def __call__(self, images: Images, *, train: bool) -> dict[str, jax.Array]:
        """Maps images [n h w c] to `conv1`, `conv3` and `inception3a` to `inception5b`."""
        large = self.stem == "large"
        require_size(images, 31 if large else 8, "GoogLeNet", self.stem)
        batch_norm = self.form == "batch_norm"

        def conv(x: jax.Array, features: int, kernel: int, strides: int, name: str) -> jax.Array:
            block = ConvNorm(
                scaled(features, self.width),
                kernel,
                self.layers,
                strides=strides,
                batch_norm=batch_norm,
                name=name,
            )
            return block(x, train=train)

        norm = (lambda x: x) if batch_norm else local_response_norm
        x = conv(images, 64, 7, 2, "conv1") if large else conv(images, 64, 3, 1, "conv1")
        maps = {"conv1": x}
        if large:
            x = max_pool(x, 3, 2, ceil_mode=True)
        x = conv(norm(x), 64, 1, 1, "conv2")
        x = maps["conv3"] = conv(x, 192, 3, 1, "conv3")
        x = norm(x)
        for number in block_names(self.blocks):
            if number in ("3a", "4a"):
                x = max_pool(x, 3, 2, ceil_mode=True)
            elif number == "5a":
                x = max_pool(x, 2, 2, ceil_mode=True)
            name = f"inception{number}"
            features = tuple(scaled(c, self.width) for c in BLOCKS[number])
            x = Inception(features, self.form, self.layers, name=name)(x, train=train)
            maps[name] = x
        return maps


class AuxiliaryHead(nn.Module):
    """4x4 means, a 1x1 convolution, a hidden dense layer, dropout, dense."""

    num_classes: int
    form: Form
    width: float
    dropout_rate: float
    layers: LayerFactory

    @nn.compact
    def __call__(self, features: Images, *, train: bool) -> Logits:
        """Maps a map [n h w c] to logits [n k]."""
        x = adaptive_average_pool(features, 4)
        channels, norm = scaled(128, self.width), self.form == "batch_norm"
        x = ConvNorm(channels, 1, self.layers, batch_norm=norm, name="conv")(x, train=train)
        head = DenseHead(
            self.num_classes,
            hidden=(scaled(1024, self.width),),
            layers=self.layers,
            dropout_rate=self.dropout_rate,
            output_init="normal",
            name="dense",
        )
        return head(x, train=train)


def scaled(features: int, width: float) -> int:
    """Number of channels times `width`, at least one."""
    return max(1, round(features * width))


def block_names(blocks: tuple[int, int, int]) -> list[str]:
    """Names of the first so many of the blocks 3, 4 and 5."""
    return [name for name in BLOCKS if "abcde".index(name[1]) < blocks[int(name[0]) - 3]]


@register(
    "googlenet",
    "GoogLeNet (Inception v1)",
    "Szegedy et al. 2014, arXiv:1409.4842",
    (224, 224, 3),
    num_parameters=13_004_888,
    num_classes=1000,
    macs=1_498_376_192,
    small=({"stem": "small", "width_multiplier": 0.125, "blocks": (1, 1, 1)}, (16, 16, 3)),
)
def googlenet(
    num_classes: int,
    auxiliary: bool = True,
    blocks: tuple[_UpTo2, _UpTo5, _UpTo2] = (2, 5, 2),
    form: Form = "batch_norm",
    stem: Stem = "large",
    width_multiplier: Positive = 1.0,
    activation: str = "relu",
    kernel_init: str = "he_normal",
    dropout_rate: ProperFraction = 0.2,
    auxiliary_dropout_rate: ProperFraction = 0.7,
    dtype: Dtype = "float32",
) -> Classifier:
    """GoogLeNet with two auxiliary heads (13,004,888 parameters) or without (6,624,904).

    Args:
        auxiliary: train two more heads on earlier maps, whose losses count 0.3 each; evaluation
            leaves them out.
        blocks: how many of the blocks 3, 4 and 5 there are, for a shallower net; the auxiliary
            heads read the first and the fourth block 4.
        form: `batch_norm` (torchvision's) or `paper` (biases, response normalisation, 5x5 kernels).
        stem: `large` (a quarter of the size after a 7x7 convolution and pooling) or `small` (3x3
            convolution) for images of some 32 pixels.
        width_multiplier: factor of the widths of all layers.
        dropout_rate: share of the pooled features dropped in training; 0.4 in the paper.
        auxiliary_dropout_rate: the same for the hidden layers of the auxiliary heads.
    """
    layers = LayerFactory(activation, kernel_init, "normal", dtype, norm_epsilon=1e-3)
    hidden = LayerFactory(activation, kernel_init, "he_normal", dtype, norm_epsilon=1e-3)
    head = AuxiliaryHead(num_classes, form, width_multiplier, auxiliary_dropout_rate, hidden)
    read = [name for name in block_names(blocks) if name in AUXILIARY]
    return Classifier(
        GoogLeNetBackbone(blocks, form, width_multiplier, stem, layers),
        PooledHead(num_classes, layers, dropout_rate),
        FrozenDict({f"inception{name}": head.clone() for name in read}) if auxiliary else None,
        AUXILIARY_WEIGHT,
    )
