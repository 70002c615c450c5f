"""Inception v3 (Szegedy, Vanhoucke, Ioffe, Shlens, Wojna 2015, "Rethinking the Inception
architecture for computer vision", arXiv:1512.00567, table 1 and figures 5 to 7, 10).

Differs from the paper: the stem ends as in the authors' code and torchvision, with a 1x1
convolution to 80 channels, a 3x3 one to 192 and pooling, where table 1 has three 3x3 convolutions;
channels inside the blocks, which the paper leaves open, are theirs too. The auxiliary head averages
maps below 17x17 to 5x5, so that it fits images of any size. Weights start at He et al.'s scale.
"""  # noqa: D205 - the title is a citation

import functools
from collections.abc import Callable
from typing import Annotated

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core import FrozenDict

from cnn_lab.config.values import Positive, ProperFraction, Range
from cnn_lab.core.arrays import Images, Logits, Maps
from cnn_lab.layers.factory import Dtype, LayerFactory
from cnn_lab.layers.pooling import (
    adaptive_average_pool,
    average_pool,
    global_average_pool,
    max_pool,
)
from cnn_lab.models.googlenet import ConvNorm, scaled
from cnn_lab.models.heads import Classifier, PooledHead
from cnn_lab.models.inputs import Stem, require_size
from cnn_lab.models.registry import register

AUXILIARY_WEIGHT = 0.4  # of the auxiliary loss; the paper does not say, the authors' code has 0.4
_UpTo2 = Annotated[int, Range(min=1, max=2)]
_UpTo3 = Annotated[int, Range(min=1, max=3)]
_UpTo4 = Annotated[int, Range(min=1, max=4)]
A_BLOCKS = (("b", 32), ("c", 64), ("d", 64))  # and their channels after pooling
C_BLOCKS = (("b", 128), ("c", 160), ("d", 160), ("e", 192))  # and their channels inside
TALL, LONG = (7, 1), (1, 7)
Chain = Callable[..., jax.Array]


class Mixed(nn.Module):
    """Base of the blocks: branches side by side; `width` is a factor of their channels."""

    layers: LayerFactory
    width: float

    @nn.compact
    def __call__(self, x: Images, *, train: bool) -> Maps:
        """Maps [n h w c] to [n h w d], or to half the sides."""
        chain = functools.partial(self._chain, train=train)
        return jnp.concatenate(self._branches(x, chain), axis=-1)

    def _branches(self, x: Images, chain: Chain) -> tuple[jax.Array, ...]:
        raise NotImplementedError

    def _chain(self, x: jax.Array, name: str, *steps: tuple, train: bool) -> jax.Array:
        """Convolutions one after the other, named `name_1`, `name_2` and so on.

        Steps are (channels, kernel), or (channels, kernel, stride, padding).
        """
        for number, (features, kernel, *place) in enumerate(steps, start=1):
            own = f"{name}_{number}" if len(steps) > 1 else name
            features = scaled(features, self.width)
            x = ConvNorm(features, kernel, self.layers, *place, name=own)(x, train=train)
        return x


def pooled(x: Images) -> Maps:
    """The mean of 3x3 pixels, the padding's zeros among them."""
    return average_pool(x, 3, 1, 1)


class MixedA(Mixed):
    """5x5, and 3x3 twice (figure 5): 224 channels, and `pool_features` after pooling."""

    pool_features: int

    def _branches(self, x: Images, chain: Chain) -> tuple[jax.Array, ...]:
        return (
            chain(x, "branch1x1", (64, 1)),
            chain(x, "branch5x5", (48, 1), (64, 5)),
            chain(x, "double3x3", (64, 1), (96, 3), (96, 3)),
            chain(pooled(x), "branch_pool", (self.pool_features, 1)),
        )


class MixedB(Mixed):
    """Halves the map by strides and pooling side by side (figure 10): 480 channels more."""

    def _branches(self, x: Images, chain: Chain) -> tuple[jax.Array, ...]:
        return (
            chain(x, "branch3x3", (384, 3, 2, 0)),
            chain(x, "double3x3", (64, 1), (96, 3), (96, 3, 2, 0)),
            max_pool(x, 3, 2),
        )


class MixedC(Mixed):
    """7x7 as 1x7 and 7x1, once and twice (figure 6): 768 channels, `inner` inside the branches."""

    inner: int

    def _branches(self, x: Images, chain: Chain) -> tuple[jax.Array, ...]:
        inner = self.inner
        twice = ((inner, 1), (inner, TALL), (inner, LONG), (inner, TALL), (192, LONG))
        return (
            chain(x, "branch1x1", (192, 1)),
            chain(x, "branch7x7", (inner, 1), (inner, LONG), (192, TALL)),
            chain(x, "double7x7", *twice),
            chain(pooled(x), "branch_pool", (192, 1)),
        )


class MixedD(Mixed):
    """Halves the map, after 7x7 in one branch: 512 channels more."""

    def _branches(self, x: Images, chain: Chain) -> tuple[jax.Array, ...]:
        return (
            chain(x, "branch3x3", (192, 1), (320, 3, 2, 0)),
            chain(x, "branch7x7x3", (192, 1), (192, LONG), (192, TALL), (192, 3, 2, 0)),
            max_pool(x, 3, 2),
        )


class MixedE(Mixed):
    """3x3 as 1x3 and 3x1 side by side (figure 7): 2048 channels."""

    def _branches(self, x: Images, chain: Chain) -> tuple[jax.Array, ...]:
        once = chain(x, "branch3x3", (384, 1))
        twice = chain(x, "double3x3", (448, 1), (384, 3))
        return (
            chain(x, "branch1x1", (320, 1)),
            chain(once, "branch3x3_long", (384, (1, 3))),
            chain(once, "branch3x3_tall", (384, (3, 1))),
            chain(twice, "double3x3_long", (384, (1, 3))),
            chain(twice, "double3x3_tall", (384, (3, 1))),
            chain(pooled(x), "branch_pool", (192, 1)),
        )


class InceptionV3Backbone(nn.Module):
    """Five convolutions and eleven blocks, 5b to 5d, 6b to 6e, 7b and 7c; `blocks` of each size."""

    layers: LayerFactory
    width: float
    blocks: tuple[int, int, int] = (3, 4, 2)
    stem: Stem = "large"

    @nn.compact
    def __call__(self, images: Images, *, train: bool) -> dict[str, jax.Array]:
        """Maps images [n h w c] to `conv1` to `conv5` and `mixed5b` to `mixed7c`."""
        large = self.stem == "large"
        require_size(images, 75 if large else 13, "Inception v3", self.stem)
        # (channels, kernel, stride, padding); pooling follows the third and the fifth.
        stem = ((32, 3, 2, 0), (32, 3, 1, 0), (64, 3, 1, 1), (80, 1, 1, 0), (192, 3, 1, 0))
        maps, x = {}, images
        for number, (features, kernel, strides, padding) in enumerate(stem, start=1):
            conv = ConvNorm(
                scaled(features, self.width),
                kernel,
                self.layers,
                strides if large else 1,
                padding if large else None,
                name=f"conv{number}",
            )
            x = maps[f"conv{number}"] = conv(x, train=train)
            if number == 5 or (number == 3 and large):
                x = max_pool(x, 3, 2, 0 if large else 1)
        common = (self.layers, self.width)
        of_5, of_6, of_7 = self.blocks
        for name, block in (
            *((f"mixed5{at}", MixedA(*common, f, name=f"mixed5{at}")) for at, f in A_BLOCKS[:of_5]),
            ("mixed6a", MixedB(*common, name="mixed6a")),
            *((f"mixed6{at}", MixedC(*common, f, name=f"mixed6{at}")) for at, f in C_BLOCKS[:of_6]),
            ("mixed7a", MixedD(*common, name="mixed7a")),
            *((f"mixed7{at}", MixedE(*common, name=f"mixed7{at}")) for at in "bc"[:of_7]),
        ):
            x = maps[name] = block(x, train=train)
        return maps


class AuxiliaryHead(nn.Module):
    """5x5 means, a 1x1 and a 5x5 convolution, mean over what is left, dense (figure 8)."""

    num_classes: int
    layers: LayerFactory
    width: float

    @nn.compact
    def __call__(self, features: Images, *, train: bool) -> Logits:
        """Maps a map [n h w c], 17x17 from images of 299 pixels, to logits [n k]."""
        layers = self.layers
        fits = min(features.shape[1:3]) >= 17
        x = average_pool(features, 5, 3) if fits else adaptive_average_pool(features, 5)
        x = ConvNorm(scaled(128, self.width), 1, layers, name="conv1")(x, train=train)
        x = ConvNorm(scaled(768, self.width), 5, layers, 1, 0, name="conv2")(x, train=train)
        return layers.dense(self.num_classes, name="output")(global_average_pool(x))


@register(
    "inception_v3",
    "Inception v3",
    "Szegedy et al. 2015, arXiv:1512.00567",
    (299, 299, 3),
    num_parameters=27_161_264,
    num_classes=1000,
    macs=5_713_216_096,
    small=({"stem": "small", "width_multiplier": 0.125, "blocks": (1, 1, 1)}, (16, 16, 3)),
)
def inception_v3(
    num_classes: int,
    auxiliary: bool = True,
    blocks: tuple[_UpTo3, _UpTo4, _UpTo2] = (3, 4, 2),
    stem: Stem = "large",
    width_multiplier: Positive = 1.0,
    activation: str = "relu",
    kernel_init: str = "he_normal",
    dropout_rate: ProperFraction = 0.5,
    dtype: Dtype = "float32",
) -> Classifier:
    """Inception v3 with an auxiliary head (27,161,264 parameters) or without (23,834,568).

    Args:
        auxiliary: train one more head on an earlier map, whose loss counts 0.4; evaluation leaves
            it out.
        blocks: how many of the blocks that keep the size there are at each of three sizes, for a
            shallower net; the auxiliary head reads the last of the second size.
        stem: `large` (for 299 pixels, at least 75) or `small` (padded convolutions, one halving)
            for images of some 32 pixels.
        width_multiplier: factor of the widths of all layers.
    """
    layers = LayerFactory(activation, kernel_init, "normal", dtype, norm_epsilon=1e-3)
    backbone = InceptionV3Backbone(layers, width_multiplier, blocks, stem)
    last = f"mixed6{C_BLOCKS[blocks[1] - 1][0]}"
    heads = FrozenDict({last: AuxiliaryHead(num_classes, layers, width_multiplier)})
    head = PooledHead(num_classes, layers, dropout_rate)
    return Classifier(backbone, head, heads if auxiliary else None, AUXILIARY_WEIGHT)
