"""VGG networks (Simonyan & Zisserman 2014, "Very deep convolutional networks for large-scale image
recognition", arXiv:1409.1556, table 1: A, B, D, E), with and without batch normalisation.

Differs from the paper: weights start at He et al.'s scale (2015, arXiv:1502.01852) instead of being
taken from shallower nets; the forms with batch normalisation (Ioffe & Szegedy 2015,
arXiv:1502.03167) keep the biases of their convolutions, as torchvision does.
"""  # noqa: D205 - the title is a citation

from typing import Literal

import flax.linen as nn
import jax

from cnn_lab.config.values import Count, ProperFraction
from cnn_lab.core.arrays import Images
from cnn_lab.layers.factory import Dtype, LayerFactory
from cnn_lab.layers.pooling import average_pool, max_pool
from cnn_lab.models.heads import Classifier, DenseHead
from cnn_lab.models.inputs import Stem, require_size
from cnn_lab.models.registry import register

Pooling = Literal["max", "average"]
SMALL = ({"width": 8, "hidden": (32,), "pooled_size": 1}, (32, 32, 3))


class VGGBackbone(nn.Module):
    """Five stages of 3x3 convolutions, each followed by 2x2 pooling.

    Attributes:
        depths: convolutions per stage.
        batch_norm: whether batch normalisation follows each convolution.
    """

    depths: tuple[int, ...]
    batch_norm: bool = False
    width: int = 64
    pooling: Pooling = "max"
    stem: Stem = "large"
    layers: LayerFactory = LayerFactory(kernel_init="he_normal_fan_out", dense_init="he_normal")

    @nn.compact
    def __call__(self, images: Images, *, train: bool) -> dict[str, jax.Array]:
        """Maps images [n h w c] to `conv1_1` to `conv5_4`, activated, and `pool5`."""
        small = self.stem == "small"
        min_side = 2 ** (len(self.depths) - 1) + 1 if small else 2 ** len(self.depths)
        require_size(images, min_side, "a VGG net", self.stem)
        layers, maps, x = self.layers, {}, images
        pool = max_pool if self.pooling == "max" else average_pool
        for stage, depth in enumerate(self.depths, start=1):
            features = self.width * 2 ** min(stage - 1, 3)
            for number in range(1, depth + 1):
                x = layers.conv(features, 3, bias=True, name=f"conv{stage}_{number}")(x)
                if self.batch_norm:
                    x = layers.norm(train=train, name=f"bn{stage}_{number}")(x)
                x = maps[f"conv{stage}_{number}"] = layers.act(x)
            x = pool(x, 2, ceil_mode=small)
        return {**maps, f"pool{len(self.depths)}": x}


def vgg(
    num_classes: int,
    width: Count = 64,
    hidden: tuple[Count, ...] = (4096, 4096),
    pooled_size: Count = 7,
    pooling: Pooling = "max",
    stem: Stem = "large",
    activation: str = "relu",
    kernel_init: str = "he_normal_fan_out",
    dropout_rate: ProperFraction = 0.5,
    dtype: Dtype = "float32",
    *,
    depths: tuple[int, ...],
    batch_norm: bool,
) -> Classifier:
    """A VGG net.

    Images of 28 and 32 pixels leave one pixel for the dense layers: there, set `stem=small`,
    `pooled_size=1` and narrower hidden layers, such as `hidden=512,`.

    Args:
        width: channels of the first stage, doubled from stage to stage up to the fourth.
        hidden: widths of the hidden dense layers.
        pooled_size: side in pixels of the map that the dense layers read, a 32nd of the
            image's; maps of other sizes are averaged to it, or repeated.
        pooling: `max`, or `average` as for style transfer.
        stem: `small` pools the rows and columns that are left over at the edges, too, so that
            17 pixels are enough; of 32 it makes what `large` makes.
        dropout_rate: share of each hidden layer's values dropped in training.
    """
    layers = LayerFactory(activation, kernel_init, "he_normal", dtype)
    backbone = VGGBackbone(depths, batch_norm, width, pooling, stem, layers)
    hidden = tuple(hidden)
    head = DenseHead(
        num_classes, hidden, layers, dropout_rate, pooled_size=pooled_size, output_init="normal"
    )
    return Classifier(backbone, head)


# Layers with weights, parameters without and with batch normalisation, MACs, depths.
for _layers, _counts, _macs, _depths in (
    (11, (132_863_336, 132_868_840), 7_609_090_048, (1, 1, 2, 2, 2)),
    (13, (133_047_848, 133_053_736), 11_308_466_176, (2, 2, 2, 2, 2)),
    (16, (138_357_544, 138_365_992), 15_470_264_320, (2, 2, 3, 3, 3)),
    (19, (143_667_240, 143_678_248), 19_632_062_464, (2, 2, 4, 4, 4)),
):
    for _batch_norm, _count in enumerate(_counts):
        register(
            f"vgg{_layers}_bn" if _batch_norm else f"vgg{_layers}",
            f"VGG-{_layers} with batch normalisation" if _batch_norm else f"VGG-{_layers}",
            "Simonyan & Zisserman 2014, arXiv:1409.1556",
            (224, 224, 3),
            num_parameters=_count,
            num_classes=1000,
            macs=_macs,
            small=SMALL if _layers == 11 else None,
            variant={"depths": _depths, "batch_norm": bool(_batch_norm)},
        )(vgg)
