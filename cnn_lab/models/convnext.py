"""ConvNeXt (Liu, Mao, Wu, Feichtenhofer, Darrell, Xie 2022, "A ConvNet for the 2020s",
arXiv:2201.03545, section 2 and appendix A).

Differs from the paper: the stem may take smaller patches (`stem`), for small images.
"""  # noqa: D205 - the title is a citation

import dataclasses

import flax.linen as nn
import jax

from cnn_lab.config.values import Count, Positive, ProperFraction
from cnn_lab.core.arrays import Images
from cnn_lab.layers.dropout import DropPath
from cnn_lab.layers.factory import Dtype, LayerFactory
from cnn_lab.models.heads import Classifier, PooledHead
from cnn_lab.models.inputs import Stem, require_size
from cnn_lab.models.registry import register

Four = tuple[Count, Count, Count, Count]
LAYERS = LayerFactory(
    *("gelu_exact", "truncated_normal", "truncated_normal"), norm_epsilon=1e-6, norm_kind="layer"
)


class ConvNeXtBlock(nn.Module):
    """A depthwise 7x7 convolution, and two dense layers on every pixel."""

    layer_scale: float
    drop_path_rate: float
    layers: LayerFactory

    @nn.compact
    def __call__(self, x: Images, *, train: bool) -> Images:
        """Maps [n h w c] to the same shape."""
        layers, features = self.layers, x.shape[-1]
        y = layers.conv(features, 7, groups=features, bias=True, name="depthwise_conv")(x)
        y = layers.norm(train=train, name="norm")(y)
        y = layers.act(layers.dense(4 * features, name="expand")(y))
        y = layers.dense(features, name="project")(y)
        init = nn.initializers.constant(self.layer_scale)
        scale = self.param("layer_scale", init, (features,)).astype(y.dtype)
        return x + DropPath(self.drop_path_rate)(y * scale[None, None, None], train=train)


class ConvNeXtBackbone(nn.Module):
    """Four stages of blocks; patches before the first, a 2x2 convolution before each other one."""

    depths: tuple[int, ...] = (3, 3, 9, 3)
    widths: tuple[int, ...] = (96, 192, 384, 768)
    stem: Stem = "large"
    layer_scale: float = 1e-6
    drop_path_rate: float = 0.1
    layers: LayerFactory = LAYERS

    @nn.compact
    def __call__(self, images: Images, *, train: bool) -> dict[str, jax.Array]:
        """Maps images [n h w c] to `stage1` to `stage4`."""
        patch = 4 if self.stem == "large" else 2
        require_size(images, 8 * patch, "convnext", self.stem)
        layers, x, maps = self.layers, images, {}
        for stage, (depth, width) in enumerate(zip(self.depths, self.widths, strict=True)):
            if stage == 0:
                x = layers.conv(width, patch, patch, 0, bias=True, name="stem_conv")(x)
                x = layers.norm(train=train, name="stem_norm")(x)
            else:
                x = layers.norm(train=train, name=f"stage{stage + 1}_norm")(x)
                x = layers.conv(width, 2, 2, 0, bias=True, name=f"stage{stage + 1}_conv")(x)
            for index in range(depth):
                done = sum(self.depths[:stage]) + index
                rate = self.drop_path_rate * done / max(1, sum(self.depths) - 1)
                name = f"stage{stage + 1}_block{index + 1}"
                x = ConvNeXtBlock(self.layer_scale, rate, layers, name=name)(x, train=train)
            maps[f"stage{stage + 1}"] = x
        return maps


@register(
    "convnext_tiny",
    "ConvNeXt-T",
    "Liu et al. 2022, arXiv:2201.03545",
    (224, 224, 3),
    num_parameters=28_589_128,
    num_classes=1000,
    macs=4_455_531_264,
    small=({"stem": "small", "depths": (1, 1, 1, 1), "widths": (4, 8, 8, 8)}, (16, 16, 3)),
)
def convnext_tiny(
    num_classes: int,
    stem: Stem = "large",
    depths: Four = (3, 3, 9, 3),
    widths: Four = (96, 192, 384, 768),
    activation: str = "gelu_exact",
    kernel_init: str = "truncated_normal",
    layer_scale: Positive = 1e-6,
    drop_path_rate: ProperFraction = 0.1,
    dropout_rate: ProperFraction = 0.0,
    dtype: Dtype = "float32",
) -> Classifier:
    """ConvNeXt-T, or another by depths and widths.

    The small, base and large ones have depths (3, 3, 27, 3) and widths that begin at 96, 128 and
    192 and double.

    Args:
        stem: `large` (patches of 4x4 pixels) or `small` (2x2) for images of some 32 pixels.
        depths: blocks per stage.
        widths: channels per stage.
        kernel_init: name of the initialiser of convolutions and dense layers.
        layer_scale: initial weight of each channel of every branch.
        drop_path_rate: share of examples whose branch is removed in training, in the last block;
            it rises linearly from none in the first. The paper's small, base and large nets have
            0.4, 0.5 and 0.5.
    """
    inits = {"kernel_init": kernel_init, "dense_init": kernel_init}
    layers = dataclasses.replace(LAYERS, activation=activation, dtype=dtype, **inits)
    backbone = ConvNeXtBackbone(
        tuple(depths), tuple(widths), stem, layer_scale, drop_path_rate, layers
    )
    return Classifier(backbone, PooledHead(num_classes, layers, dropout_rate, normalize=True))
